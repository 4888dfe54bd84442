package lab

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Trust is a server whose firmware trusts certificate authorities for what it
// boots over the network.
type Trust interface {
	// SetAuthorities makes the certificates, in DER, those that the firmware
	// trusts from its next power-on on.
	SetAuthorities(der [][]byte) error
}

// bootCertificatesPath is the collection of what the firmware trusts.
const bootCertificatesPath = systemPath + "/Boot/Certificates"

// authorities are the certificates of that collection, by number.
type authorities struct {
	mu    sync.Mutex
	last  int
	known map[int][]byte // DER
}

// boots adds to the Boot property of the system where the certificates are.
func (b *BMC) boots(boot object) object {
	if b.cfg.Trust != nil {
		boot["Certificates"] = link(bootCertificatesPath)
	}
	return boot
}

// certificateDocument returns the collection, or one of its members.
func (b *BMC) certificateDocument(at string) object {
	if b.cfg.Trust == nil {
		return nil
	}
	b.trusts.mu.Lock()
	defer b.trusts.mu.Unlock()
	if at == bootCertificatesPath {
		var members []string
		for _, n := range b.trusts.numbers() {
			members = append(members, at+"/"+strconv.Itoa(n))
		}
		return collection(at, "Certificate", members...)
	}
	n, der := b.trusts.find(at)
	if der == nil {
		return nil
	}
	return resource(at, "Certificate.v1_8_2.Certificate", strconv.Itoa(n), object{
		"CertificateType": "PEM", "CertificateString": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	})
}

// numbers returns the members' numbers in order. a.mu is held.
func (a *authorities) numbers() []int {
	var all []int
	for n := range a.known {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// find returns the member at a path. a.mu is held.
func (a *authorities) find(at string) (int, []byte) {
	name, ok := strings.CutPrefix(at, bootCertificatesPath+"/")
	n, err := strconv.Atoi(name)
	if !ok || err != nil {
		return 0, nil
	}
	return n, a.known[n]
}

// addCertificate takes a certificate that the firmware shall trust.
func (b *BMC) addCertificate(w http.ResponseWriter, r *http.Request) {
	var body struct{ CertificateString, CertificateType string }
	if b.cfg.Trust == nil {
		b.missing(w, bootCertificatesPath)
		return
	}
	if !b.read(w, r, &body) {
		return
	}
	block, rest := pem.Decode([]byte(body.CertificateString))
	if body.CertificateType != "PEM" || block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		b.fail(w, http.StatusBadRequest, "PropertyValueFormatError", "The value of the property CertificateString is of a different format than the property can accept.")
		return
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		b.fail(w, http.StatusBadRequest, "PropertyValueFormatError", "The value of the property CertificateString is of a different format than the property can accept.")
		return
	}
	b.trusts.mu.Lock()
	b.trusts.last++
	n := b.trusts.last
	if b.trusts.known == nil {
		b.trusts.known = map[int][]byte{}
	}
	b.trusts.known[n] = block.Bytes
	err := b.trusts.tell(b.cfg.Trust)
	b.trusts.mu.Unlock()
	if err != nil {
		b.internal(w, err)
		return
	}
	at := bootCertificatesPath + "/" + strconv.Itoa(n)
	w.Header().Set("Location", at)
	doc, _ := render(b.certificateDocument(at))
	write(w, http.StatusCreated, doc)
}

// dropCertificate forgets one, and reports whether there was one.
func (b *BMC) dropCertificate(w http.ResponseWriter, at string) bool {
	b.trusts.mu.Lock()
	defer b.trusts.mu.Unlock()
	n, der := b.trusts.find(at)
	if der == nil {
		return false
	}
	delete(b.trusts.known, n)
	if err := b.trusts.tell(b.cfg.Trust); err != nil {
		b.internal(w, err)
		return true
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}

// tell passes all on to the server. a.mu is held.
func (a *authorities) tell(t Trust) error {
	var all [][]byte
	for _, n := range a.numbers() {
		all = append(all, a.known[n])
	}
	return t.SetAuthorities(all)
}

// authoritiesFile is the list of a VM's firmware, as it is on the host.
const authoritiesFile = "authorities.esl"

// SetAuthorities implements Trust: OVMF takes the list that QEMU hands it at
// power-on for its own (OvmfPkg, TlsAuthConfigLib).
func (v *VM) SetAuthorities(der [][]byte) error {
	file := filepath.Join(v.dir, authoritiesFile)
	if len(der) == 0 {
		return os.RemoveAll(file)
	}
	return os.WriteFile(file, signatureList(der), 0o644)
}

// trusted renders the list for QEMU, if there is one.
func trusted(dir string) []string {
	if _, err := os.Stat(filepath.Join(dir, authoritiesFile)); err != nil {
		return nil
	}
	return []string{"-fw_cfg", "name=etc/edk2/https/cacerts,file=" + authoritiesFile}
}

// certX509 is the type of a signature list of certificates
// (EFI_CERT_X509_GUID, UEFI 2.10, 32.4.1), as it lies in memory.
var certX509 = []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}

// signatureList is one EFI_SIGNATURE_LIST per certificate, since all entries of
// one have the same size.
func signatureList(der [][]byte) []byte {
	const header, owner = 28, 16
	var b []byte
	for _, d := range der {
		b = append(b, certX509...)
		b = binary.LittleEndian.AppendUint32(b, uint32(header+owner+len(d)))
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(owner+len(d)))
		b = append(b, make([]byte, owner)...)
		b = append(b, d...)
	}
	return b
}

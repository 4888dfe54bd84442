package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A drive is a BMC's side of the virtual CD: where the medium came from and
// the copy of it.
type drive struct {
	busy sync.Mutex // held while the medium changes

	mu          sync.Mutex // guards what follows
	image, file string
}

// holds returns the medium's address and the file it is kept in.
func (d *drive) holds() (image, file string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.image, d.file
}

func (d *drive) put(image, file string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image, d.file = image, file
}

const (
	// maxMedium is the largest medium a BMC takes.
	maxMedium = 8 << 30
	// mediumTimeout bounds the fetch of one.
	mediumTimeout = 10 * time.Minute
)

// insert has a medium put into the drive.
func (b *BMC) insert(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Image, TransferProtocolType string
		Inserted                    *bool
	}
	if !b.read(w, r, &body) {
		return
	}
	u, err := url.Parse(body.Image)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		b.fail(w, http.StatusBadRequest, "ActionParameterValueFormatError", "The value for the parameter Image in the action VirtualMedia.InsertMedia is of a different format than the parameter can accept.")
		return
	}
	if body.Inserted != nil && !*body.Inserted {
		b.fail(w, http.StatusBadRequest, "ActionParameterNotSupported", "The parameter Inserted for the action VirtualMedia.InsertMedia is not supported with the value false.")
		return
	}
	if b.has(WantsProtocol) && !strings.EqualFold(body.TransferProtocolType, u.Scheme) {
		b.fail(w, http.StatusBadRequest, "ActionParameterMissing", "The action VirtualMedia.InsertMedia requires the parameter TransferProtocolType to be present in the request body.")
		return
	}
	load := func(w http.ResponseWriter, r *http.Request) { b.load(w, r, body.Image) }
	if b.has(MediaAsTask) {
		b.promise(w, load)
		return
	}
	load(w, r)
}

// load fetches a medium and puts it into the drive.
func (b *BMC) load(w http.ResponseWriter, r *http.Request, from string) {
	b.media.busy.Lock()
	defer b.media.busy.Unlock()
	if image, _ := b.media.holds(); image != "" {
		b.fail(w, http.StatusConflict, "ResourceInUse", "The change to the requested resource failed because the resource is in use or in transition: the drive holds "+image)
		return
	}
	file, err := b.fetch(r.Context(), from)
	if err != nil {
		b.fail(w, http.StatusBadRequest, "CouldNotEstablishConnection", "The service failed to establish a connection with the URI: "+err.Error())
		return
	}
	if err := b.cfg.Media.Insert(file); err != nil {
		_ = os.Remove(file)
		b.internal(w, err)
		return
	}
	b.media.put(from, file)
	w.WriteHeader(http.StatusNoContent)
}

// eject empties the drive; an empty one stays empty.
func (b *BMC) eject(w http.ResponseWriter) {
	b.media.busy.Lock()
	defer b.media.busy.Unlock()
	if err := b.cfg.Media.Eject(); err != nil {
		b.internal(w, err)
		return
	}
	if _, file := b.media.holds(); file != "" {
		_ = os.Remove(file)
	}
	b.media.put("", "")
	w.WriteHeader(http.StatusNoContent)
}

// fetch copies a medium to this machine and returns the file.
func (b *BMC) fetch(ctx context.Context, image string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mediumTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.cfg.Roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, image, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s", image, resp.Status)
	}
	dir, err := filepath.Abs(b.cfg.Dir)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "medium-*.iso")
	if err != nil {
		return "", err
	}
	n, err := io.Copy(f, io.LimitReader(resp.Body, maxMedium+1))
	if err == nil && n > maxMedium {
		err = fmt.Errorf("get %s: is larger than %d bytes", image, int64(maxMedium))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// selfSigned makes a certificate that vouches for itself, for this machine's
// loopback and the given name.
func selfSigned(name string) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{strings.ToLower(name), "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

package site_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/site"
)

// Certificate signs every request.
func (c *control) Certificate(_ context.Context, r *connect.Request[ingotv1.SiteServiceCertificateRequest]) (*connect.Response[ingotv1.SiteServiceCertificateResponse], error) {
	csr, err := x509.ParseCertificateRequest(r.Msg.GetRequest())
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: csr.IPAddresses}
	der, err := x509.CreateCertificate(rand.Reader, t, t, csr.PublicKey, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certified = append(c.certified, csr.IPAddresses)
	return connect.NewResponse(&ingotv1.SiteServiceCertificateResponse{Certificates: [][]byte{der}}), err
}

// A partition with machines of both kinds: each medium is there, that of iPXE
// does not change with what it loads, and what it loads is served over TLS 1.2.
func TestIPXE(t *testing.T) {
	c, api := newControl(t)
	initrd := "initrd one"
	var mu sync.Mutex
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.WriteString(w, map[string]string{"/kernel": "kernel one", "/initrd": initrd}[r.URL.Path])
	}))
	defer origin.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var addresses []*url.URL
	files := site.NewFiles(site.FilesConfig{Partition: partition, API: api, URLs: func() []*url.URL { return addresses }})
	s := &http.Server{Handler: files.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(tls.NewListener(l, files.TLS())) }() // ends with the test
	defer s.Close()

	dir := t.TempDir()
	ipxe, stub := filepath.Join(dir, "ipxe.efi"), filepath.Join(dir, "stub")
	for name, data := range map[string][]byte{ipxe: []byte("MZ this is iPXE"), stub: stubProgram()} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base, _ := url.Parse("http://media.example/")
	m, err := site.NewMedia(site.MediaConfig{Partition: partition, API: api, Dir: filepath.Join(dir, "media"), URL: base, Stub: stub, IPXE: ipxe, Files: files, Client: origin.Client(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w := &ingotv1.SiteWanted{
		KernelUrl: origin.URL + "/kernel", InitrdUrl: origin.URL + "/initrd", CommandLine: "console=ttyS0",
		Fabric: &ingotv1.Fabric{BootAddress: "fd00:b007::1", BootMedium: ingotv1.BootMedium_BOOT_MEDIUM_IPXE}, Ca: string(newServer(t, "x").bmc.CA()),
		Bmcs: []*ingotv1.BMCWanted{{Id: "b1", BootMedium: ingotv1.BootMedium_BOOT_MEDIUM_IPXE}, {Id: "b2", BootMedium: ingotv1.BootMedium_BOOT_MEDIUM_UKI}, {Id: "b3", BootMedium: ingotv1.BootMedium_BOOT_MEDIUM_STICK}},
	}
	step := func() error {
		_, err := m.Step(t.Context(), w)
		return err
	}
	medium := func(k ingotv1.BootMedium) *ingotv1.Medium {
		m, _ := m.Medium(k)
		return m
	}
	if err := step(); err == nil || !strings.Contains(err.Error(), "no address in the boot network") || medium(ingotv1.BootMedium_BOOT_MEDIUM_UKI) == nil {
		t.Errorf("without an address: %v", err)
	}
	u := &url.URL{Scheme: "https", Host: l.Addr().String()}
	addresses = []*url.URL{u}
	if err := step(); err != nil {
		t.Fatal(err)
	}
	one, offered := medium(ingotv1.BootMedium_BOOT_MEDIUM_IPXE), c.files
	if one.GetUrl() == "" || one.GetUrl() == medium(ingotv1.BootMedium_BOOT_MEDIUM_UKI).GetUrl() {
		t.Fatalf("media: %v", one)
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, one.GetUrl(), nil))
	if body := rec.Body.String(); !strings.Contains(body, "this is iPXE") || !strings.Contains(body, "https://[fd00:b007::1]/boot.ipxe") || strings.Contains(body, "kernel one") {
		t.Error("the medium is not iPXE and its script")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}}} //nolint:gosec // the authority is made up here
	fetch := func(url string) string {
		t.Helper()
		r, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	if got := fetch(offered.GetKernelUrls()[0]); got != "kernel one" {
		t.Errorf("the kernel is %q", got)
	}
	if got := fetch(offered.GetInitrdUrls()[0]); !strings.HasPrefix(got, "initrd one") || !strings.Contains(got, w.GetCa()) {
		t.Errorf("the initrd is %q", got)
	}
	c.files = nil
	if err := step(); err != nil || c.files != nil {
		t.Errorf("what has not changed was reported again: %v %v", c.files, err)
	}

	mu.Lock()
	initrd = "initrd two"
	mu.Unlock()
	w.CommandLine = "quiet"
	if err := step(); err != nil {
		t.Fatal(err)
	}
	if medium(ingotv1.BootMedium_BOOT_MEDIUM_IPXE) != one {
		t.Error("a new initrd made another iPXE medium")
	}
	if got := fetch(c.files.GetInitrdUrls()[0]); !strings.HasPrefix(got, "initrd two") {
		t.Errorf("the new initrd is %q", got)
	}
	if got := fetch(offered.GetInitrdUrls()[0]); !strings.HasPrefix(got, "initrd one") {
		t.Errorf("the one before, which a server may be loading, is %q", got)
	}
	if got := fetch(u.JoinPath("sha256-0").String()); strings.Contains(got, "initrd") {
		t.Errorf("an unknown file is %q", got)
	}
	addresses = []*url.URL{u, {Scheme: "https", Host: "[fd00:10::7]:443"}}
	if err := step(); err != nil {
		t.Fatal(err)
	}
	if len(c.files.GetKernelUrls()) != 2 || len(c.certified) != 2 || !slices.ContainsFunc(c.certified[1], net.ParseIP("fd00:10::7").Equal) {
		t.Errorf("another address: %v, certificates for %v", c.files.GetKernelUrls(), c.certified)
	}
}

// firmware trusts whatever it is given.
type firmware struct{}

func (firmware) SetAuthorities([][]byte) error { return nil }

// The firmware of a machine that boots iPXE is given the partition's authority
// before the machine is switched on; one whose BMC cannot do that boots, too,
// and it is said that it may not be trusted.
func TestAuthority(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	m := medium(t)
	start(t, api, newBMCs(t, api, t.TempDir(), m))
	want := func(authority string) {
		c.want(func(w *ingotv1.SiteWanted) {
			b := s.want
			b.Machine, b.Enforce, b.Medium, b.BootMedium, b.Authority = uuid, true, true, ingotv1.BootMedium_BOOT_MEDIUM_IPXE, authority
			w.Bmcs = []*ingotv1.BMCWanted{b}
		})
	}
	want(string(s.bmc.CA()))
	c.eventually(t, "the medium is in, and not trusted", func() bool {
		is := c.bmcs["b1"].GetStatus().GetMedium()
		return is.GetInserted() && !is.GetTrusted()
	})
	able := newServerWith(t, "b2", "", firmware{})
	c.want(func(w *ingotv1.SiteWanted) {
		b := able.want
		b.Machine, b.Enforce, b.Medium, b.BootMedium, b.Authority = uuid, true, true, ingotv1.BootMedium_BOOT_MEDIUM_IPXE, string(s.bmc.CA())
		w.Bmcs = []*ingotv1.BMCWanted{b}
	})
	c.eventually(t, "the medium is in, and trusted", func() bool {
		is := c.bmcs["b2"].GetStatus().GetMedium()
		return is.GetInserted() && is.GetTrusted()
	})
}

// A server that boots from a stick is given no medium, only the override.
func TestStick(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	start(t, api, newBMCs(t, api, t.TempDir(), func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) { return nil, nil }))
	const op = "0193e0a0-0000-7000-8000-000000000002"
	c.want(func(w *ingotv1.SiteWanted) {
		b := s.want
		b.Machine, b.Enforce, b.Medium, b.BootMedium = uuid, true, true, ingotv1.BootMedium_BOOT_MEDIUM_STICK
		b.Operation = &ingotv1.Operation{Id: op, Machine: uuid, Action: ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM}
		w.Bmcs = []*ingotv1.BMCWanted{b}
	})
	c.eventually(t, "the operation is done", func() bool { return len(c.done[op]) > 0 })
	c.eventually(t, "the override is reported", func() bool {
		is := c.bmcs["b1"].GetStatus().GetMedium()
		return is.GetOverrideTarget() == "Usb" && is.GetOverrideEnabled() == "Continuous" && !is.GetInserted()
	})
	if e := c.done[op][0].GetError(); e != "" || len(s.Starts()) != 1 || s.Starts()[0] != "stick" {
		t.Errorf("%q, started from %v", e, s.Starts())
	}
}

package site

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Files serves the kernel and the initrd that iPXE loads, to servers in the
// boot network. It does so over HTTPS with a certificate of the partition's
// authority, since iPXE cannot check what it loads in another way.
type Files struct {
	cfg FilesConfig

	certificate atomic.Pointer[tls.Certificate]
	told        atomic.Bool // whether the offer was reported

	mu              sync.Mutex
	current, before map[string][]byte // by digest
	offered         *ingotv1.BootFiles
}

// FilesConfig of Files.
type FilesConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	// URLs returns where servers in the boot network reach Handler, one for
	// each leaf this host is connected to.
	URLs func() []*url.URL
}

// NewFiles returns Files that offer none yet.
func NewFiles(c FilesConfig) *Files { return &Files{cfg: c} }

// An offer is what iPXE loads, and where that came from.
type offer struct {
	kernelSource, initrdSource string
	kernel, initrd             []byte
}

// Offer serves these files from now on, beside those before, which a server may
// be loading. It returns where; nil if that was told already.
func (f *Files) Offer(ctx context.Context, o offer) (*ingotv1.BootFiles, error) {
	urls := f.cfg.URLs()
	if len(urls) == 0 {
		return nil, fault.New(fault.Unavailable, "boot files", "this host has no address in the boot network yet", "check the cables and the fabric's service ports")
	}
	if err := f.certify(ctx, urls); err != nil {
		return nil, err
	}
	b := &ingotv1.BootFiles{KernelSource: o.kernelSource, InitrdSource: o.initrdSource, KernelSha256: sumOf(o.kernel), InitrdSha256: sumOf(o.initrd)}
	for _, u := range urls {
		b.KernelUrls = append(b.KernelUrls, u.JoinPath("sha256-"+b.GetKernelSha256()).String())
		b.InitrdUrls = append(b.InitrdUrls, u.JoinPath("sha256-"+b.GetInitrdSha256()).String())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	same := f.offered.GetKernelSha256() == b.GetKernelSha256() && f.offered.GetInitrdSha256() == b.GetInitrdSha256()
	if !same {
		f.before, f.current = f.current, map[string][]byte{b.GetKernelSha256(): o.kernel, b.GetInitrdSha256(): o.initrd}
	}
	if same && slices.Equal(f.offered.GetKernelUrls(), b.GetKernelUrls()) && f.offered.GetKernelSource() == b.GetKernelSource() &&
		f.offered.GetInitrdSource() == b.GetInitrdSource() && f.told.Load() {
		return nil, nil
	}
	f.offered = b
	f.told.Store(true)
	return b, nil
}

// untold has the next offer reported again.
func (f *Files) untold() {
	if f != nil {
		f.told.Store(false)
	}
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// certify gets a certificate for the addresses of this host in the boot network
// if there is none, or if a third of its validity is left.
func (f *Files) certify(ctx context.Context, urls []*url.URL) error {
	const object = "certificate of the boot files"
	var addresses []net.IP
	for _, u := range urls {
		addresses = append(addresses, net.ParseIP(u.Hostname()))
	}
	if c := f.certificate.Load(); c != nil && time.Now().Before(c.Leaf.NotAfter.Add(-c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/3)) &&
		!slices.ContainsFunc(addresses, func(a net.IP) bool { return c.Leaf.VerifyHostname(a.String()) != nil }) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{IPAddresses: addresses}, key)
	if err != nil {
		return err
	}
	answer, err := f.cfg.API.Certificate(ctx, connect.NewRequest(&ingotv1.SiteServiceCertificateRequest{Partition: f.cfg.Partition, Request: csr}))
	if err != nil {
		return unavailable(object, "cannot be obtained", err)
	}
	c := &tls.Certificate{Certificate: answer.Msg.GetCertificates(), PrivateKey: key}
	if len(c.Certificate) == 0 {
		return fault.New(fault.Internal, object, "is missing in the answer", "")
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil || !key.PublicKey.Equal(c.Leaf.PublicKey) {
		return fault.New(fault.Internal, object, "cannot be read, or is for another key", "")
	}
	f.certificate.Store(c)
	return nil
}

// TLS returns a configuration with the newest certificate. iPXE does not speak
// TLS 1.3.
func (f *Files) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := f.certificate.Load(); c != nil {
				return c, nil
			}
			return nil, fault.New(fault.Unavailable, "boot files", "there is no certificate yet", "")
		},
	}
}

// Handler serves the files by their digests. They hold no secret.
func (f *Files) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, "/sha256-")
		f.mu.Lock()
		data := f.current[name]
		if data == nil {
			data = f.before[name]
		}
		f.mu.Unlock()
		if !ok || data == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
}

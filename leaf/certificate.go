package leaf

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// certificateFile holds metal-boot's key and certificates in PEM form.
const certificateFile = "metal-boot.pem"

// certify gives metal-boot a certificate for its address, from the folder or
// from the control plane. It asks anew when a third of the validity is left;
// until then, and while asking fails, the old one stays in use.
func (a *Agent) certify(ctx context.Context, b *ingotv1.LeafBoot) error {
	c := a.cfg.Boot.Certificate()
	if c == nil {
		var err error
		if c, err = loadCertificate(a.cfg.Dir); err != nil {
			return err
		}
		if c != nil && c.Leaf.VerifyHostname(b.GetAddress()) == nil {
			a.cfg.Boot.SetCertificate(c)
		}
	}
	if c != nil && !due(c.Leaf, b.GetAddress(), time.Now()) {
		return nil
	}
	c, err := a.request(ctx)
	if err != nil {
		return err
	}
	if err := c.Leaf.VerifyHostname(b.GetAddress()); err != nil {
		return fault.Wrap(fault.Invalid, "certificate of metal-boot", "is not for its address", err)
	}
	if err := saveCertificate(a.cfg.Dir, c); err != nil {
		return err
	}
	a.cfg.Boot.SetCertificate(c)
	a.cfg.Log.Info("metal-boot has a certificate", "until", c.Leaf.NotAfter)
	return nil
}

// due reports whether a certificate has to be replaced.
func due(c *x509.Certificate, address string, now time.Time) bool {
	return c.VerifyHostname(address) != nil || now.After(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore)/3))
}

// request makes a key and has it certified. The names are the control plane's
// to choose.
func (a *Agent) request(ctx context.Context) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: a.cfg.Switch}}, key)
	if err != nil {
		return nil, err
	}
	answer, err := a.cfg.API.Certificate(ctx, connect.NewRequest(&ingotv1.LeafServiceCertificateRequest{
		Switch: a.cfg.Switch, Partition: a.cfg.Partition, Request: csr,
	}))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "certificate of metal-boot", "cannot be obtained", err)
	}
	c := &tls.Certificate{Certificate: answer.Msg.GetCertificates(), PrivateKey: key}
	if len(c.Certificate) == 0 {
		return nil, fault.New(fault.Internal, "certificate of metal-boot", "is missing in the answer", "")
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return nil, fault.Wrap(fault.Internal, "certificate of metal-boot", "cannot be read", err)
	}
	if !key.PublicKey.Equal(c.Leaf.PublicKey) {
		return nil, fault.New(fault.Internal, "certificate of metal-boot", "is for another key", "")
	}
	return c, nil
}

func saveCertificate(dir string, c *tls.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range c.Certificate {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c}))
	}
	return writeFile(filepath.Join(dir, certificateFile), b.Bytes())
}

// loadCertificate returns the certificate in the folder, nil if there is none
// that can be used.
func loadCertificate(dir string) (*tls.Certificate, error) {
	b, err := os.ReadFile(filepath.Join(dir, certificateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, nil //nolint:nilerr // a damaged file is replaced by a new certificate
	}
	return &c, nil
}

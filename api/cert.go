package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	caLife   = 20 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour // renewed when a third is left
	// backdate is how far a clock may be behind: certificates are valid before
	// they are made.
	backdate = 24 * time.Hour
)

// ensureCA makes the installation's certificate authority if there is none.
func (s *Server) ensureCA(ctx context.Context) error {
	if _, ok := newestCA(s.db.Snapshot()); ok {
		return nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, now := newID(), s.cfg.Now()
	key, err := s.sealKey("ca", id, private)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Ingot CA " + id[len(id)-8:]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if key.Public, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private); err != nil {
		return err
	}
	key.Created = timestamppb.New(now)
	key.Retired = timestamppb.New(now.Add(caLife - leafLife))
	key.Expires = timestamppb.New(template.NotAfter)
	return s.db.Update(ctx, func(tx *store.Tx) error {
		tx.Guard("key/ca/")
		if _, ok := newestCA(tx); ok {
			return nil
		}
		return records.Keys.Insert(tx, key)
	})
}

func newestCA(r store.Reader) (*privatev1.Key, bool) {
	var newest *privatev1.Key
	for k := range records.Keys.Prefix(r, records.Key("ca", "")) {
		if newest == nil || newest.GetCreated().AsTime().Before(k.GetCreated().AsTime()) {
			newest = k
		}
	}
	return newest, newest != nil
}

// CA returns the certificates, in PEM, of the authority that clients must
// trust.
func (s *Server) CA() []byte {
	var out bytes.Buffer
	for k := range records.Keys.Prefix(s.db.Snapshot(), records.Key("ca", "")) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: k.GetPublic()}) // a Buffer does not fail
	}
	return out.Bytes()
}

// TLS returns a configuration whose certificate is for these names and
// addresses. It is made by the installation's authority, in memory, and made
// again before it expires; connections notice nothing.
func (s *Server) TLS(hosts ...string) *tls.Config {
	l := &leafCertificate{Server: s, hosts: hosts}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.current() },
	}
}

type leafCertificate struct {
	*Server
	hosts []string

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

// current returns the certificate, a new one if it is time.
func (l *leafCertificate) current() (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	if l.cert != nil && now.Before(l.renew) {
		return l.cert, nil
	}
	cert, err := l.issueLeaf(now)
	switch {
	case err == nil:
		l.cert, l.renew = cert, now.Add(leafLife*2/3)
	case l.cert != nil: // it is valid for another while
		l.log.Error("api: the server's certificate cannot be renewed", "error", err)
		l.renew = now.Add(time.Minute)
	default:
		return nil, err
	}
	return l.cert, nil
}

func (l *leafCertificate) issueLeaf(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := l.certify(key.Public(), "ingotd", l.hosts, now.Add(leafLife))
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
}

// certify returns a certificate for a server's key, valid until a time for
// some names and addresses, and the authority's, both in DER.
func (s *Server) certify(public crypto.PublicKey, name string, hosts []string, until time.Time) ([][]byte, error) {
	k, ok := newestCA(s.db.Snapshot())
	if !ok {
		return nil, fault.New(fault.Internal, "certificate authority", "not found", "")
	}
	caKey, err := s.openKey(k)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(k.GetPublic())
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "certificate authority", "cannot be parsed", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    s.cfg.Now().Add(-backdate),
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, a.WithZone("").AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, public, caKey)
	if err != nil {
		return nil, err
	}
	return [][]byte{der, k.GetPublic()}, nil
}

// serial returns a random serial number (RFC 5280, section 4.1.2.2).
func serial() *big.Int {
	n := make([]byte, 16)
	rand.Read(n)
	n[0] &= 0x7f
	return new(big.Int).SetBytes(n)
}

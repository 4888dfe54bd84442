package cli

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// httpClient speaks TLS with the profile's authority and sends its token.
func httpClient(p profile) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, fault.Wrap(fault.Precondition, "ca-file", "cannot be read", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.New(fault.Invalid, "ca-file "+p.CAFile, "holds no certificate", "name a PEM file")
		}
	}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     conf,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	return &http.Client{Transport: bearer{t, p.Token}}, nil
}

// bearer adds the token to every request (RFC 6750).
type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

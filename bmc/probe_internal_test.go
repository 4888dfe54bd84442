package bmc

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A certificate that roots vouch for under the address asked needs no trust on
// first use; one for another name does.
func TestVouched(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	chain := []*x509.Certificate{s.Certificate()}
	roots := x509.NewCertPool()
	if err := vouched(chain, "127.0.0.1", roots); err == nil {
		t.Error("vouched for without roots")
	}
	roots.AddCert(s.Certificate())
	if err := vouched(chain, "127.0.0.1", roots); err != nil {
		t.Error(err)
	}
	if err := vouched(chain, "192.0.2.1", roots); err == nil {
		t.Error("vouched for under another name")
	}
}

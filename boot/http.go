package boot

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// maxRequest is the largest body of a request: an inventory has tens of kB.
const maxRequest = 4 << 20

// web is what is served over HTTP. Without TLS that is only what holds no
// secret and what a server needs before it can check a certificate: whether
// metal-boot lives, and the begin of a boot with the current time.
func (s *Server) web(secure bool) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	s.handleTokens(mux, secure)
	if secure {
		s.handleProxy(mux)
	}
	return &http.Server{
		Handler:           http.MaxBytesHandler(mux, maxRequest),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute, // streams last, so that nothing bounds a whole answer
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is theirs
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				if c := s.certificate.Load(); c != nil {
					return c, nil
				}
				return nil, fault.New(fault.Unavailable, "metal-boot", "has no certificate yet", "")
			},
		},
	}
}

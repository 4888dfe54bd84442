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
func (s *Server) web(p place, secure bool) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	s.handleTokens(mux, secure)
	if secure {
		s.handleProxy(mux)
		s.handleScript(mux, p)
	}
	return &http.Server{
		Handler:           http.MaxBytesHandler(modern(mux), maxRequest),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute, // streams last, so that nothing bounds a whole answer
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is theirs
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, // for the boot script; see modern
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				if c := s.certificate.Load(); c != nil {
					return c, nil
				}
				return nil, fault.New(fault.Unavailable, "metal-boot", "has no certificate yet", "")
			},
		},
	}
}

// modern serves what is asked for over TLS 1.3 or in clear, and over older
// versions of TLS only the boot script.
func modern(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && r.TLS.Version < tls.VersionTLS13 && r.URL.Path != scriptPath {
			http.Error(w, "metal-boot serves this over TLS 1.3 only", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

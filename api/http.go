package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Limits of connections. A stream may stay open for ever, but neither side may
// keep the other waiting in the middle of a message.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	bodyTimeout   = 30 * time.Second // for each read
	pingAfter     = 30 * time.Second // of silence on a connection of HTTP/2
	maxHeader     = 32 << 10
	drainTimeout  = 10 * time.Second // for calls under way when the server stops
)

// Serve serves the API on a listener with TLS, HTTP/1.1 and HTTP/2, and runs
// it, until ctx ends. Then streams end, and calls under way get a while.
func (s *Server) Serve(ctx context.Context, ln net.Listener, conf *tls.Config) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{
		Handler:           patient(s.handler),
		TLSConfig:         conf,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter / 2, WriteByteTimeout: bodyTimeout},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- srv.ServeTLS(ln, "", "")
		stop()
	}()
	err := s.Run(ctx)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if stopping := srv.Shutdown(drain); stopping != nil {
		err = errors.Join(err, stopping, srv.Close())
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// patient gives each read of a body, and each write of an answer, its time,
// and a stream as much as it wants between them.
func patient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		r.Body = &timedBody{r.Body, c}
		h.ServeHTTP(&timedWriter{w, c}, r)
	})
}

type timedBody struct {
	io.ReadCloser
	c *http.ResponseController
}

// Read implements io.Reader. Where there is no deadline to set, there is none
// to keep.
func (b *timedBody) Read(p []byte) (int, error) {
	_ = b.c.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = b.c.SetReadDeadline(time.Time{}) }()
	return b.ReadCloser.Read(p)
}

type timedWriter struct {
	http.ResponseWriter
	c *http.ResponseController
}

// Write implements io.Writer.
func (w *timedWriter) Write(p []byte) (int, error) {
	_ = w.c.SetWriteDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = w.c.SetWriteDeadline(time.Time{}) }()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *timedWriter) Flush() {
	_ = w.c.SetWriteDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = w.c.SetWriteDeadline(time.Time{}) }()
	_ = w.c.Flush()
}

// Unwrap lets http.ResponseController find the writer beneath.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Headers that pages of other origins may send and see.
var (
	requestHeaders = strings.Join([]string{
		"Authorization", "Content-Type", "Connect-Protocol-Version", "Connect-Timeout-Ms", "Connect-Accept-Encoding",
		"Connect-Content-Encoding", "Grpc-Timeout", "X-Grpc-Web", "X-User-Agent",
	}, ", ")
	responseHeaders = strings.Join([]string{
		"Content-Encoding", "Connect-Content-Encoding", "Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin", RevisionHeader,
	}, ", ")
)

// crossOrigin lets pages of every origin call the API: who may do what is
// decided by the token, and there are no cookies.
func crossOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "" {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
			w.Header().Set("Access-Control-Allow-Headers", requestHeaders)
			w.Header().Set("Access-Control-Max-Age", "7200")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Access-Control-Expose-Headers", responseHeaders)
		h.ServeHTTP(w, r)
	})
}

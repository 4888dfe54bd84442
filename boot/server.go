package boot

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A Server is metal-boot on one leaf: names, time, tokens and the way to the
// control plane for servers that are in the boot network. It keeps nothing
// about them, so that any instance can be restarted at any time.
//
// It listens on metal-boot's anycast address inside the boot VRF; towards the
// control plane it uses the switch's own network. No packet passes from one
// to the other.
type Server struct {
	// Switch and Partition are who vouches for the servers.
	Switch, Partition string
	// API is where the control plane listens, Upstream how to get there. A
	// server brings its own identity; beside it, Upstream gives the leaf's.
	API      *url.URL
	Upstream http.RoundTripper
	// Tokens is the control plane with the leaf's identity.
	Tokens ingotv1connect.BootServiceClient
	Log    *slog.Logger

	once        sync.Once
	changed     chan struct{} // has an element when wanted is new
	mu          sync.Mutex
	wanted      place
	certificate atomic.Pointer[tls.Certificate]
}

// A place is where a Server listens and what it tells.
type place struct {
	device  string // the VRF; empty: any
	address netip.Addr
	domain  string
}

func (s *Server) init() {
	s.once.Do(func() {
		s.changed = make(chan struct{}, 1)
		if s.Log == nil {
			s.Log = slog.Default()
		}
	})
}

// Configure says where to listen from now on. What is served already goes on
// if nothing changed.
func (s *Server) Configure(b *ingotv1.LeafBoot) error {
	s.init()
	p := place{device: b.GetVrf(), domain: b.GetDomain()}
	var err error
	if p.address, err = netip.ParseAddr(b.GetAddress()); err != nil {
		return fault.Wrap(fault.Invalid, "metal-boot's address", "cannot be read", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p != s.wanted {
		s.wanted = p
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	return nil
}

// Certificate returns the certificate in use, nil if there is none yet.
func (s *Server) Certificate() *tls.Certificate { return s.certificate.Load() }

// SetCertificate is the certificate of all connections that begin from now on.
func (s *Server) SetCertificate(c *tls.Certificate) { s.certificate.Store(c) }

// again is how long Run waits before it listens anew after a failure.
const again = time.Second

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.init()
	for {
		s.mu.Lock()
		p := s.wanted
		s.mu.Unlock()
		serving, stop := context.WithCancel(ctx)
		var err error // of serving, once that has ended
		ended := make(chan struct{})
		if p.address.IsValid() {
			go func() { // ends with serving, and is waited for
				defer close(ended)
				err = s.serve(serving, p)
			}()
		} else {
			close(ended)
		}
		select {
		case <-ctx.Done():
			stop()
			<-ended
			return nil
		case <-s.changed:
			stop()
			<-ended
			continue
		case <-ended:
			stop()
		}
		var retry <-chan time.Time
		if err != nil {
			s.Log.Error("metal-boot does not serve", "address", p.address, "error", err)
			retry = time.After(again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-retry:
		}
	}
}

// serve listens on all ports and serves until ctx ends or one of them fails.
func (s *Server) serve(ctx context.Context, p place) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := func(what string, run func() error, end func() error) {
		g.Go(func() error {
			if err := run(); err != nil && ctx.Err() == nil {
				return fault.Wrap(fault.Unavailable, "metal-boot", what+" ended", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return end()
		})
	}
	names := p.zone()
	for _, port := range []string{"53", "123"} {
		c, err := p.control().ListenPacket(ctx, "udp", net.JoinHostPort(p.address.String(), port))
		if err != nil {
			return s.abort(g, err)
		}
		if port == "123" {
			stop("NTP", func() error { return serveTime(c) }, c.Close)
			continue
		}
		d := names.server()
		d.PacketConn = c
		stop("DNS", d.ActivateAndServe, c.Close)
	}
	for _, port := range []string{"53", "80", "443"} {
		l, err := p.control().Listen(ctx, "tcp", net.JoinHostPort(p.address.String(), port))
		if err != nil {
			return s.abort(g, err)
		}
		l = newFair(l)
		if port == "53" {
			d := names.server()
			d.Listener = l
			stop("DNS over TCP", d.ActivateAndServe, l.Close)
			continue
		}
		h := s.web(p, port == "443")
		serve := h.Serve
		if port == "443" {
			serve = func(l net.Listener) error { return h.ServeTLS(l, "", "") }
		}
		stop("HTTP on "+port, func() error { return ignoreClosed(serve(l)) }, h.Close)
	}
	s.Log.Info("metal-boot serves", "address", p.address, "vrf", p.device)
	return g.Wait()
}

// abort ends what was begun when a port cannot be listened on.
func (s *Server) abort(g *errgroup.Group, err error) error {
	g.Go(func() error { return fault.Wrap(fault.Unavailable, "metal-boot", "cannot listen", err) })
	return g.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// control binds sockets to the VRF: only what comes from its ports reaches
// them, and only there do their answers go.
func (p place) control() *net.ListenConfig {
	c := &net.ListenConfig{}
	if p.device == "" {
		return c
	}
	c.Control = func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), p.device) }); e != nil {
			return e
		}
		return err
	}
	return c
}

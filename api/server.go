// Package api serves the metal-stack v2 API and ingot.v1: over Connect, gRPC
// and gRPC-Web, on one port, by one handler.
//
// There is one file per resource. A service is a type that embeds *Server and
// implements the generated handler interface; it is switched on by one line in
// services.go. When its method is called, the caller is known, may make the
// call, and the request is valid. What it returns as a fault becomes a status
// code in errors.go.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
)

// Config of a Server. DB and Ring are required; the zero value of the others
// means what their comment says.
type Config struct {
	DB   *store.DB
	Ring *secret.Ring // seals private keys and what must not be readable at rest

	URL      string               // clients reach the API here: issuer and audience of tokens
	Provider string               // login of the provider tenant, if it must be made; "ingot"
	Version  *apiv2.Version       // of this program
	Metrics  *prometheus.Registry // where to register metrics, and what /metrics shows; a new one
	Log      *slog.Logger         // slog.Default
	Now      func() time.Time     // the clock; time.Now
	LifeSign time.Duration        // how often a stream shows that it is alive; 20 s

	Pages map[string]http.Handler // served beside the API, by patterns of http.ServeMux, without authentication; none
}

func (c Config) withDefaults() Config {
	if c.Provider == "" {
		c.Provider = "ingot"
	}
	if c.Version == nil {
		c.Version = &apiv2.Version{}
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.LifeSign == 0 {
		c.LifeSign = 20 * time.Second
	}
	return c
}

// A Server is the API. It works from New on; Run keeps it in order.
type Server struct {
	cfg       Config
	db        *store.DB
	ring      *secret.Ring
	log       *slog.Logger
	validator protovalidate.Validator
	metrics   metrics
	streams   streams
	sightings sightings
	readings  readings
	progress  progress
	verified  verified
	served    map[string]bool // full names of services
	handler   http.Handler
}

// New returns a Server on an open store. It makes the keys that sign tokens and
// proofs and the certificate authority if there are none.
func New(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("api: validator: %w", err)
	}
	s := &Server{cfg: cfg, db: cfg.DB, ring: cfg.Ring, log: cfg.Log, validator: v, metrics: newMetrics(cfg.Metrics)}
	s.streams.open = map[*stream]struct{}{}
	s.served = map[string]bool{}
	s.readings = newReadings()
	if err := s.ensureTokenKey(ctx); err != nil {
		return nil, fmt.Errorf("api: key for tokens: %w", err)
	}
	if err := s.ensureWipeKey(ctx); err != nil {
		return nil, fmt.Errorf("api: key for proofs: %w", err)
	}
	if err := s.ensureCA(ctx); err != nil {
		return nil, fmt.Errorf("api: certificate authority: %w", err)
	}
	s.handler = s.mux()
	return s, nil
}

// Handler returns the whole API, /livez, /readyz and /metrics.
func (s *Server) Handler() http.Handler { return s.handler }

// Intervals of what Run does.
const (
	streamCheck = time.Second // how soon a revoked token ends its streams
	sweepEvery  = time.Hour
)

// Run ends the streams of callers who lost the right to them, writes when
// machines were heard of, deletes what has expired and renews the keys that
// sign tokens and proofs, until ctx ends. Then it ends all streams.
func (s *Server) Run(ctx context.Context) error {
	check, sweep, flush := time.NewTicker(streamCheck), time.NewTicker(sweepEvery), time.NewTicker(flushEvery)
	defer check.Stop()
	defer flush.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-check.C:
			s.checkStreams()
		case <-sweep.C:
			if err := s.ensureTokenKey(ctx); err != nil {
				s.log.Error("api: the key for tokens cannot be renewed", "error", err)
			}
			if err := s.ensureWipeKey(ctx); err != nil {
				s.log.Error("api: the key for proofs of wipes cannot be renewed", "error", err)
			}
			if err := s.sweep(ctx); err != nil {
				s.log.Error("api: what has expired cannot be deleted", "error", err)
			}
		case <-flush.C:
			if err := s.flushSightings(ctx); err != nil {
				s.log.Error("api: sightings cannot be written", "error", err)
			}
		case <-ctx.Done():
			s.streams.closeAll(errStopping)
			return nil
		}
	}
}

// A call is one request on its way.
type call struct {
	method *access.Method
	caller access.Caller
	via    via
	snap   store.Snapshot
	rev    store.Rev // for the header
	start  time.Time
	peer   string
}

type callKey struct{}

// callOf returns the call of a handler's context.
func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// callerOf returns who calls.
func callerOf(ctx context.Context) access.Caller { return callOf(ctx).caller }

// view returns the store as the call sees it: authorization and all reads of
// one call see the same.
func (s *Server) view(ctx context.Context) store.Snapshot { return callOf(ctx).snap }

// update runs a change for a call. What view returns afterwards includes it.
func (s *Server) update(ctx context.Context, fn func(*store.Tx) error, opts ...store.UpdateOption) error {
	// The intent to record in the audit outbox belongs here: in the same
	// transaction, before fn.
	if err := s.db.Update(ctx, fn, opts...); err != nil {
		return err
	}
	callOf(ctx).snap = s.db.Snapshot()
	return nil
}

var _ connect.Interceptor = (*interceptor)(nil)

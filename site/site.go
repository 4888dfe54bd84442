// Package site is what a partition's management server does: it finds the
// machines behind their BMCs and keeps media, boot order and power as wanted,
// builds and serves the boot medium, and caches the images.
//
// It decides nothing. The control plane streams what is wanted; the site makes
// it so, and reports what it found.
package site

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Config of a Site.
type Config struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	Log       *slog.Logger
}

// A Part is one promise of a site: bmc, boot or cache.
type Part interface {
	// Name of the part, for people.
	Name() string
	// Run brings about what is wanted until ctx ends.
	Run(ctx context.Context, wanted Wanted)
}

// Wanted returns what is wanted now, nil if nothing is known yet, and a
// channel that is closed when that changes.
type Wanted func() (*ingotv1.SiteWanted, <-chan struct{})

// A Site follows what the control plane wants and feeds its parts.
type Site struct {
	cfg   Config
	parts []Part

	mu     sync.Mutex
	wanted *ingotv1.SiteWanted
	moved  chan struct{} // closed and replaced when wanted changes
}

// New returns a site with the given parts.
func New(cfg Config, parts ...Part) *Site {
	return &Site{cfg: cfg, parts: parts, moved: make(chan struct{})}
}

// Run follows the control plane and works until ctx ends. While the control
// plane is away, the parts go on with what was wanted last.
func (s *Site) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, p := range s.parts {
		all.Go(func() { p.Run(ctx, s.current) })
	}
	stayTuned(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.SiteServiceWantedResponse], error) {
		w, _ := s.current()
		return s.cfg.API.Wanted(ctx, connect.NewRequest(&ingotv1.SiteServiceWantedRequest{Partition: s.cfg.Partition, Have: w.GetGeneration()}))
	}, func(m *ingotv1.SiteServiceWantedResponse) {
		if w := m.GetWanted(); w != nil {
			s.accept(w)
		}
	}, func(err error) { s.cfg.Log.Warn("the control plane is away", "error", err) })
	all.Wait()
	return nil
}

// silence is how long the control plane may say nothing before the site
// connects again.
const silence = 45 * time.Second

// stayTuned hands on what a stream of the control plane says, and opens it
// again whatever ended it, until ctx ends. lost hears why.
func stayTuned[M any](ctx context.Context, open func(context.Context) (*connect.ServerStreamForClient[M], error), take func(*M), lost func(error)) {
	f := client.Follower{Retry: client.Retry{Min: 200 * time.Millisecond, Max: 15 * time.Second}, Silence: silence, Always: true, Lost: lost}
	_ = client.Follow(ctx, f, open, func(m *M) error { // returns when ctx has ended
		take(m)
		return nil
	})
}

// accept takes a newer wanted state. An older one comes from a control plane
// that was restored without raising its epoch, or was delayed: refused.
func (s *Site) accept(w *ingotv1.SiteWanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted != nil && !client.Newer(w.GetGeneration(), s.wanted.GetGeneration()) {
		s.cfg.Log.Warn("an old wanted state is refused", "generation", w.GetGeneration().GetN(), "have", s.wanted.GetGeneration().GetN())
		return
	}
	s.wanted = w
	close(s.moved)
	s.moved = make(chan struct{})
}

// current returns the wanted state, nil if none is known, and a channel that
// is closed when there is another one.
func (s *Site) current() (*ingotv1.SiteWanted, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted, s.moved
}

// follow calls step whenever something else is wanted, and when it asked for
// it, until ctx ends. Before anything is wanted there is nothing to do.
func follow(ctx context.Context, log *slog.Logger, part string, current Wanted, step func(context.Context, *ingotv1.SiteWanted) (time.Duration, error)) {
	failures := 0
	for ctx.Err() == nil {
		wanted, moved := current()
		again := time.Hour
		if wanted != nil {
			var err error
			if again, err = step(ctx, wanted); err == nil {
				failures = 0
			} else if ctx.Err() == nil {
				failures++
				again = min(30*time.Second, time.Second<<min(failures-1, 5))
				log.Error("a part of the site failed", "part", part, "again", again, "error", err)
			}
		}
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-moved:
		case <-t.C:
		}
		t.Stop()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func unavailable(object, fact string, err error) error {
	return fault.Wrap(fault.Unavailable, object, fact, err)
}

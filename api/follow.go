package api

import (
	"context"
	"errors"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// coalesce is how long changes are collected before a stream tells them.
const coalesce = 200 * time.Millisecond

// follow calls fn at once and whenever something below the prefixes has
// changed, until ctx ends or fn returns an error. What changes in quick
// succession is one call. With sign set the stream must say something, if only
// that it is alive: that is so at least every two LifeSigns, also when all that
// changes does not concern this stream.
func (s *Server) follow(ctx context.Context, fn func(snap store.Snapshot, sign bool) error, prefixes ...string) error {
	signed := time.Now()
	call := func(idle bool) (store.Snapshot, error) {
		now, snap := time.Now(), s.db.Snapshot()
		sign := idle || now.Sub(signed) >= s.cfg.LifeSign/2
		if sign {
			signed = now
		}
		return snap, fn(snap, sign)
	}
	for ctx.Err() == nil {
		snap, err := call(false)
		if err != nil {
			return err
		}
		ran := time.Now()
		for e, err := range s.db.Watch(ctx, store.WatchOptions{After: snap.Rev(), Prefixes: prefixes, Idle: s.cfg.LifeSign}) {
			if errors.Is(err, fault.Conflict) {
				break // too much has changed to be listed: fn looks at everything anyway
			}
			if err != nil {
				return err
			}
			idle := e.Table == ""
			if !idle && e.Rev <= snap.Rev() {
				continue // snap had it
			}
			if !idle && !sleep(ctx, coalesce-time.Since(ran)) {
				break
			}
			ran = time.Now()
			if snap, err = call(idle); err != nil {
				return err
			}
		}
		if !sleep(ctx, coalesce-time.Since(ran)) {
			break
		}
	}
	return context.Cause(ctx)
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

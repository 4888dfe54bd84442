package api

import (
	"context"
	"time"

	"github.com/ingot-cloud/ingot/store"
)

const (
	// lifeSign is how often a stream shows that it is alive.
	lifeSign = 20 * time.Second
	// coalesce is how long changes are collected before a stream tells them.
	coalesce = 200 * time.Millisecond
)

// follow calls fn at once, whenever something below the prefixes has changed,
// and with idle set when nothing has for a while, until ctx ends or fn returns
// an error. What changes in quick succession is one call.
func (s *Server) follow(ctx context.Context, fn func(snap store.Snapshot, idle bool) error, prefixes ...string) error {
	snap := s.db.Snapshot()
	if err := fn(snap, false); err != nil {
		return err
	}
	ran := time.Now()
	for e, err := range s.db.Watch(ctx, store.WatchOptions{After: snap.Rev(), Prefixes: prefixes, Idle: lifeSign}) {
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
		snap, ran = s.db.Snapshot(), time.Now()
		if err := fn(snap, idle); err != nil {
			return err
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

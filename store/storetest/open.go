// Package storetest is what other packages need to test against a store, and
// the suite that every store.KV must pass.
package storetest

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/store"
)

// Start is the time of a new Clock.
var Start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// A Clock is a time that moves only when it is told to. It may be used by many
// goroutines.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a Clock that shows Start.
func NewClock() *Clock { return &Clock{now: Start} }

// Now returns the time shown.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set makes the clock show t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// Advance moves the clock on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Open returns an empty DB in memory whose clock stands at Start.
func Open(t testing.TB, tables ...store.AnyTable) *store.DB {
	t.Helper()
	return OpenAt(t, NewClock(), tables...)
}

// OpenAt is Open with a clock of the test's own.
func OpenAt(t testing.TB, c *Clock, tables ...store.AnyTable) *store.DB {
	t.Helper()
	return OpenKV(t, store.NewMem(), store.Options{Tables: tables, Now: c.Now})
}

// OpenKV returns a DB over kv that lives as long as the test. It never grows
// stale because of a busy machine, unless opt says so.
func OpenKV(t testing.TB, kv store.KV, opt store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), kv, testOptions(opt))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func testOptions(opt store.Options) store.Options {
	if opt.StaleAfter == 0 {
		opt.StaleAfter = time.Minute
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return opt
}

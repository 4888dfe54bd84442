// Package store keeps protobuf records in etcd behind an indexed snapshot in
// memory.
//
// Reads take a pointer: no lock, no network. A change runs a function against
// one snapshot, remembers what it relied on, and commits in a single etcd
// transaction that fails if any of that moved; then it runs again. What a
// function relies on is what it asked for with Get, Insert, Put, Change,
// Delete, Rely, Guard or Bump. Scans (All, Prefix, By, Count, LowestGap, Peek)
// rely on nothing: a uniqueness rule is therefore a key, never a scan.
//
// The package knows protobuf and etcd, not machines: tables are declared in
// package records.
//
// Layout in etcd: every key is PREFIX TABLE "/" KEY, every value is the 8-byte
// number of the transaction that wrote it and the record in protobuf's wire
// format. Keys whose table starts with "!" are the store's own.
//
// The store panics where its caller broke a rule that no input can break: a
// table that was not opened, an index that does not exist, a change of a
// record's key, a Guard of no table.
package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// Options of a DB. The zero value of a field means what its comment says.
type Options struct {
	Tables []AnyTable
	Prefix string           // of all keys; "ingot/"
	Name   string           // of this replica; random. Of two with the same name the younger works
	Now    func() time.Time // the clock of Tx.Now; time.Now
	Log    *slog.Logger     // slog.Default

	// StaleAfter is how long the store serves without knowing that it has all
	// that etcd has; 2 s.
	StaleAfter time.Duration
	// History is how many revisions Watch can look back; 8192.
	History int
	// CommitTimeout bounds the wait for etcd's answer to a commit; 5 s.
	CommitTimeout time.Duration
	// LeaseTTL is how long a leader that has vanished keeps others out; 5 s.
	LeaseTTL time.Duration
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.StaleAfter, 2*time.Second)
	def(&o.CommitTimeout, 5*time.Second)
	def(&o.LeaseTTL, 5*time.Second)
	if o.Prefix == "" {
		o.Prefix = "ingot/"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.History == 0 {
		o.History = 8192
	}
	if o.Name == "" {
		o.Name = rand.Text()
	}
	return o
}

// A reserved table holds keys that are not records.
type reserved string

func (r reserved) tableName() string                      { return string(r) }
func (r reserved) indexNames() []string                   { return nil }
func (r reserved) indexValues([]byte) ([][]string, error) { return nil, nil }

const (
	bumps    reserved = "!bump"    // guard records
	leaders  reserved = "!lead"    // who leads
	sessions reserved = "!session" // see session.go
)

// A DB is one open store.
type DB struct {
	kv      KV
	opt     Options
	tables  []AnyTable
	places  map[AnyTable]int
	byName  map[string]int
	session session
	queue   queue
	hub     *hub
	stats   counters

	snap  atomic.Pointer[snapshot]
	heard atomic.Pointer[time.Time] // the cache has everything up to this moment

	mu      sync.Mutex
	moved   chan struct{} // closed and replaced when snap moves on
	pending map[txID]Rev  // transactions on their way, and where the cache saw them
	broken  error         // why the cache is not kept any more

	cancel context.CancelFunc
	done   chan struct{} // closed when every goroutine of the DB has ended
}

// Open loads the records of the tables and keeps them current until ctx ends
// or Close is called.
func Open(ctx context.Context, kv KV, opt Options) (*DB, error) {
	opt = opt.withDefaults()
	db := &DB{
		kv: kv, opt: opt, places: map[AnyTable]int{}, byName: map[string]int{},
		queue: queue{lines: map[string]*line{}},
		moved: make(chan struct{}), pending: map[txID]Rev{}, done: make(chan struct{}),
	}
	for i, t := range append(slices.Clone(opt.Tables), bumps, leaders, sessions) {
		if _, twice := db.byName[t.tableName()]; twice {
			panic(fmt.Sprintf("store: two tables are called %q", t.tableName()))
		}
		db.tables = append(db.tables, t)
		db.places[t], db.byName[t.tableName()] = i, i
	}
	start := time.Now()
	var err error
	if db.session, err = newSession(ctx, kv, opt); err != nil {
		return nil, err
	}
	s, err := db.load(ctx)
	if err != nil {
		return nil, err
	}
	db.snap.Store(s)
	db.heard.Store(&start)
	db.hub = newHub(opt.History, s.rev)
	ctx, db.cancel = context.WithCancel(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { db.follow(ctx) })
	loops.Go(func() { db.listen(ctx) })
	go func() {
		loops.Wait()
		close(db.done)
		db.hub.close(errClosed)
	}()
	return db, nil
}

// Close stops the DB and waits until it no longer uses its KV. Updates on
// their way end with an error or are committed.
func (db *DB) Close() {
	db.cancel()
	<-db.done
}

// Snapshot returns the store as the cache has it now. It does not ask how
// fresh that is: who answers questions of the outside asks Fresh first.
func (db *DB) Snapshot() Snapshot { return Snapshot{db, db.snap.Load()} }

// Fresh returns fault.Unavailable if the cache may lack something that was
// committed more than StaleAfter ago.
func (db *DB) Fresh() error {
	db.mu.Lock()
	broken := db.broken
	db.mu.Unlock()
	if broken != nil {
		return broken
	}
	if age := time.Since(*db.heard.Load()); age > db.opt.StaleAfter {
		return fault.New(fault.Unavailable, "store", fmt.Sprintf("has not heard from etcd for %v", age.Round(time.Millisecond)),
			"check that etcd is running and has a quorum, then try again")
	}
	return nil
}

// Stale reports whether Fresh would return an error.
func (db *DB) Stale() bool { return db.Fresh() != nil }

// Wait blocks until the cache has seen everything up to a revision.
func (db *DB) Wait(ctx context.Context, rev Rev) error {
	for nudged := false; ; {
		db.mu.Lock()
		moved, broken := db.moved, db.broken
		db.mu.Unlock()
		if db.snap.Load().rev >= rev {
			return nil
		}
		if broken != nil {
			return broken
		}
		p, canAsk := db.kv.(progresser)
		var late <-chan time.Time
		if canAsk {
			late = time.After(20 * time.Millisecond)
		}
		select {
		case <-moved:
		case <-late:
			// the revision may have written elsewhere in etcd only
			if err := p.Progress(ctx); err != nil && !nudged {
				db.opt.Log.Warn("store: asking etcd for progress", "error", err)
				nudged = true
			}
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, "store", fmt.Sprintf("revision %d has not arrived", rev), ctx.Err())
		case <-db.done:
			return errClosed
		}
	}
}

var errClosed = fault.New(fault.Unavailable, "store", "is closed", "")

func (db *DB) position(t AnyTable) int {
	i, ok := db.places[t]
	if !ok {
		panic(fmt.Sprintf("store: table %s was not opened", t.tableName()))
	}
	return i
}

// locate splits a key without the DB's prefix into the position of its table
// and the key in it.
func (db *DB) locate(full string) (i int, key string, ok bool) {
	name, key, ok := strings.Cut(full, "/")
	if !ok {
		return 0, "", false
	}
	i, ok = db.byName[name]
	return i, key, ok
}

func (db *DB) find(s *snapshot, full string) (row, bool) {
	i, key, ok := db.locate(full)
	if !ok {
		return row{}, false
	}
	return s.shelves[i].get(key)
}

// Stats counts what a DB has done since it was opened.
type Stats struct {
	Rev       Rev           // of the cache
	Heard     time.Duration // since the cache was known to be complete
	Records   map[string]int
	Commits   int64 // transactions that committed
	Conflicts int64 // that lost a race
	Queued    int64 // that waited for a rival in this process
	Unknown   int64 // whose outcome had to be found out
	Reloads   int64 // times the watch was lost and everything loaded again
}

type counters struct{ commits, conflicts, queued, unknown, reloads atomic.Int64 }

// Stats returns what has been counted.
func (db *DB) Stats() Stats {
	s := db.snap.Load()
	st := Stats{
		Rev: s.rev, Heard: time.Since(*db.heard.Load()), Records: map[string]int{},
		Commits: db.stats.commits.Load(), Conflicts: db.stats.conflicts.Load(), Queued: db.stats.queued.Load(),
		Unknown: db.stats.unknown.Load(), Reloads: db.stats.reloads.Load(),
	}
	for i, t := range db.opt.Tables {
		st.Records[t.tableName()] = s.shelves[i].rows.Len()
	}
	return st
}

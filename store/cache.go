package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// load returns all of etcd below the prefix.
func (db *DB) load(ctx context.Context) (*snapshot, error) {
	entries, rev, err := db.kv.Range(ctx, db.opt.Prefix)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "store", "cannot be read", err)
	}
	s := &snapshot{rev: rev}
	for _, t := range db.tables {
		s.shelves = append(s.shelves, newShelf(t))
	}
	for _, e := range entries {
		i, key, ok := db.locate(strings.TrimPrefix(e.Key, db.opt.Prefix))
		if !ok {
			continue // of a table that this program does not know
		}
		_, val, err := unseal(e.Value)
		if err == nil {
			_, err = s.shelves[i].set(row{key, e.Mod, val})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Key, err)
		}
	}
	return s, nil
}

// follow keeps the cache current. It returns when ctx ends or a record cannot
// be read; then the store no longer serves.
func (db *DB) follow(ctx context.Context) {
	for wait := time.Duration(0); ctx.Err() == nil; {
		err := db.watch(ctx, &wait)
		if errors.Is(err, ErrCompacted) {
			db.stats.reloads.Add(1)
			err = db.reload(ctx)
			db.opt.Log.Info("store: the watch was lost and everything read again", "revision", db.snap.Load().rev, "error", err)
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, fault.Internal):
			db.opt.Log.Error("store: the cache cannot follow etcd", "error", err)
			db.fail(err)
			return
		default:
			db.opt.Log.Warn("store: the watch ended and is started again", "error", err)
			pause(ctx, wait)
			wait = min(max(2*wait, 20*time.Millisecond), time.Second)
		}
	}
}

// watch applies batch after batch until the watch ends, and says why.
func (db *DB) watch(ctx context.Context, wait *time.Duration) error {
	for b, err := range db.kv.Watch(ctx, db.opt.Prefix, db.snap.Load().rev) {
		if err != nil {
			return err
		}
		*wait = 0
		if err := db.apply(b); err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "store", "the watch ended", "")
}

// apply makes the snapshot of the next revision.
func (db *DB) apply(b Batch) error {
	old := db.snap.Load()
	if b.Rev <= old.rev {
		return nil
	}
	next := &snapshot{b.Rev, old.shelves}
	if len(b.Entries) > 0 {
		next = old.clone()
		next.rev = b.Rev
	}
	var id txID
	var events []Event
	for _, e := range b.Entries {
		i, key, ok := db.locate(strings.TrimPrefix(e.Key, db.opt.Prefix))
		if !ok {
			continue
		}
		r := row{key: key, mod: e.Mod}
		if e.Value != nil {
			var err error
			if id, r.val, err = unseal(e.Value); err != nil {
				return fmt.Errorf("%s: %w", e.Key, err)
			}
		}
		if next.shelves[i] == old.shelves[i] {
			next.shelves[i] = old.shelves[i].fork()
		}
		was, err := next.shelves[i].set(r)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		events = db.event(events, b.Rev, i, was, r)
	}
	db.move(next, events, id)
	return nil
}

// event appends what happened to a row, if that is of interest.
func (db *DB) event(events []Event, rev Rev, table int, was, is row) []Event {
	if table >= len(db.opt.Tables) || was.val == nil && is.val == nil {
		return events
	}
	return append(events, Event{Rev: rev, Table: db.tables[table].tableName(), Key: is.key, Value: is.val, Old: was.val, Deleted: is.val == nil})
}

// reload reads everything again and applies the difference as one step.
func (db *DB) reload(ctx context.Context) error {
	next, err := db.load(ctx)
	if err != nil {
		return err
	}
	old := db.snap.Load()
	var events []Event
	for i := range next.shelves {
		for r := range old.shelves[i].below("") {
			if _, ok := next.shelves[i].get(r.key); !ok {
				events = db.event(events, next.rev, i, r, row{key: r.key})
			}
		}
		for r := range next.shelves[i].below("") {
			if was, _ := old.shelves[i].get(r.key); was.mod != r.mod {
				events = db.event(events, next.rev, i, was, r)
			}
		}
	}
	db.move(next, events, 0)
	return nil
}

// move publishes a snapshot and tells everybody who waits.
func (db *DB) move(next *snapshot, events []Event, id txID) {
	db.mu.Lock()
	if _, ok := db.pending[id]; ok {
		db.pending[id] = next.rev
	}
	db.snap.Store(next)
	close(db.moved)
	db.moved = make(chan struct{})
	db.mu.Unlock()
	db.hub.publish(next.rev, events)
}

// fail says that the cache is not kept any more.
func (db *DB) fail(err error) {
	db.mu.Lock()
	db.broken = fault.Wrap(fault.Unavailable, "store", "cannot follow etcd", err)
	close(db.moved)
	db.moved = make(chan struct{})
	db.mu.Unlock()
	db.hub.close(db.broken)
}

// listen asks etcd again and again for its revision and notes since when the
// cache is known to have it all. The question needs a quorum, so a replica that
// is cut off from it grows stale although its own etcd member answers.
func (db *DB) listen(ctx context.Context) {
	for pause(ctx, db.opt.StaleAfter/4) {
		start := time.Now()
		ask, cancel := context.WithTimeout(ctx, db.opt.StaleAfter)
		_, rev, err := db.kv.Range(ask, db.opt.Prefix+db.session.full())
		if err == nil {
			err = db.Wait(ask, rev)
		}
		cancel()
		if err == nil {
			db.heard.Store(&start)
		} else if ctx.Err() == nil {
			db.opt.Log.Warn("store: no word from etcd", "since", time.Since(*db.heard.Load()), "error", err)
		}
	}
}

// pause sleeps and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ours reports whether the session of a snapshot is this DB's.
func (db *DB) ours(s *snapshot) (Rev, bool) {
	r, _ := db.find(s, db.session.full())
	return r.mod, bytes.Equal(r.val, db.session.owner)
}

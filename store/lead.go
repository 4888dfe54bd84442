package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A Leader is the proof that this replica leads under a name: a key that is
// bound to a lease. The proof is void as soon as the key is gone.
type Leader struct {
	Name string
	mod  Rev
}

// RequireLeader makes the commit depend on the lead, and returns
// fault.Precondition if it is known to be lost.
func (tx *Tx) RequireLeader(l Leader) error {
	tx.guard(leaders, l.Name)
	if tx.seen[leaders.tableName()+"/"+l.Name] != l.mod {
		return notLeader(l.Name)
	}
	return nil
}

func notLeader(name string) error {
	return fault.New(fault.Precondition, "leader of "+name, "is another replica now", "")
}

// LeaderOf returns the name of the replica that leads, if any does.
func LeaderOf(r Reader, name string) (replica string, ok bool) {
	row, ok := r.read(leaders).get(name)
	return string(row.val), ok
}

// Lead waits until this replica leads under the name and then runs fn, whose
// context ends when the lead is lost; then it waits for the lead again. It
// returns when ctx ends, with the error of ctx, or when fn returns while it
// leads, with the error of fn; then it gives up the lead.
//
// The context is a hint to stop early. What keeps a leader that does not know
// of its loss from doing harm is RequireLeader in each of its transactions.
func (db *DB) Lead(ctx context.Context, name string, fn func(context.Context, Leader) error) error {
	leaser, ok := db.kv.(Leaser)
	if !ok {
		return fault.New(fault.Unimplemented, fmt.Sprintf("%T", db.kv), "knows no leases", "")
	}
	for {
		if err := db.until(ctx, func(s *snapshot) bool {
			_, taken := db.find(s, leaders.tableName()+"/"+name)
			return !taken
		}); err != nil {
			return err
		}
		c := candidate{db, leaser, name, 0}
		done, err := c.try(ctx, fn)
		if done {
			return err
		}
		if err != nil {
			db.opt.Log.Warn("store: no lead", "of", name, "error", err)
			if !pause(ctx, db.opt.LeaseTTL/10) {
				return ctx.Err()
			}
		}
	}
}

// until waits for a snapshot that satisfies ok.
func (db *DB) until(ctx context.Context, ok func(*snapshot) bool) error {
	for {
		db.mu.Lock()
		moved, broken := db.moved, db.broken
		db.mu.Unlock()
		if broken != nil {
			return broken
		}
		if ok(db.snap.Load()) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.done:
			return errClosed
		}
	}
}

// A candidate is one attempt to lead.
type candidate struct {
	db     *DB
	leaser Leaser
	name   string
	lease  LeaseID
}

// try runs fn if the lead can be had now, and reports whether fn has returned
// while it had it.
func (c candidate) try(ctx context.Context, fn func(context.Context, Leader) error) (done bool, err error) {
	db := c.db
	granted := time.Now()
	if c.lease, err = c.leaser.Grant(ctx, db.opt.LeaseTTL); err != nil {
		return false, err
	}
	// Revoking deletes the key, also if it is not known whether it was written.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.opt.LeaseTTL)
		defer cancel()
		if err := c.leaser.Revoke(ctx, c.lease); err != nil {
			db.opt.Log.Warn("store: a lease is left to its end", "of", c.name, "error", err)
		}
	}()
	key := db.opt.Prefix + leaders.tableName() + "/" + c.name
	value := db.session.newID().seal([]byte(db.opt.Name))
	rev, ok, err := db.kv.Commit(ctx, []Cond{{Key: key}}, []Write{{Key: key, Value: value, Lease: c.lease}})
	if err != nil {
		return false, err
	}
	if err := db.Wait(ctx, rev); err != nil || !ok {
		return false, err
	}
	l := Leader{c.name, rev}
	lead, lose := context.WithCancelCause(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { lose(c.renew(lead, granted)) })
	loops.Go(func() { lose(c.watch(lead, l)) })
	err = fn(lead, l)
	lost := lead.Err() != nil
	lose(nil)
	loops.Wait()
	if lost && ctx.Err() == nil {
		db.opt.Log.Warn("store: the lead is lost", "of", c.name, "cause", context.Cause(lead), "error", err)
		return false, nil
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = ctx.Err()
	}
	return true, err
}

// renew keeps the lease alive until it cannot.
func (c candidate) renew(ctx context.Context, granted time.Time) error {
	ttl := c.db.opt.LeaseTTL
	for pause(ctx, ttl/4) {
		start := time.Now()
		ask, cancel := context.WithTimeout(ctx, ttl/4)
		err := c.leaser.Renew(ask, c.lease)
		cancel()
		switch {
		case err == nil:
			granted = start
		case errors.Is(err, fault.NotFound) || time.Since(granted) > ttl*3/4:
			return err
		}
	}
	return ctx.Err()
}

// watch returns when the key of the lead is not the leader's any more.
func (c candidate) watch(ctx context.Context, l Leader) error {
	if err := c.db.until(ctx, func(s *snapshot) bool {
		r, _ := c.db.find(s, leaders.tableName()+"/"+l.Name)
		return r.mod != l.mod
	}); err != nil {
		return err
	}
	return notLeader(l.Name)
}

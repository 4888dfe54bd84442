// Package loop keeps the promises of the control plane: one loop each, one file
// each. A loop is level-based: its Step looks at how things are and takes what
// is missing, so that it does not matter how often or for what reason it is
// called. Run feeds keys to the loops of the replica that leads.
package loop

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// A Loop is one promise.
type Loop struct {
	// Name of the promise. The replica that holds the lead under it steps.
	Name string
	// Inputs are the tables it reads: a change of a record in them is a reason
	// to step the keys it concerns.
	Inputs []string
	// Outputs are the tables it writes.
	Outputs []string
	// Concerns yields the keys that a change concerns.
	Concerns func(r store.Reader, e store.Event) iter.Seq[string]
	// All yields every key there is. They are stepped at the start and every
	// Every, for what time alone changes.
	All   func(r store.Reader) iter.Seq[string]
	Every time.Duration
	// Settle is how long a change waits for others that concern the same key.
	Settle time.Duration
	// Step takes what is missing for a key, and says after which time to step
	// it again without a reason; zero is never. In each of its transactions it
	// calls lead.
	Step func(ctx context.Context, lead Lead, key string) (again time.Duration, err error)
}

// A Lead is called in every transaction of a step: it makes the commit depend
// on this replica still leading.
type Lead func(tx *store.Tx) error

// Unled is the Lead of tests and simulations, where there is one replica.
func Unled(*store.Tx) error { return nil }

// Retries of a step that fails.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Run runs the loops until ctx ends.
func Run(ctx context.Context, db *store.DB, log *slog.Logger, loops ...Loop) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range loops {
		g.Go(func() error {
			return db.Lead(ctx, l.Name, func(ctx context.Context, leader store.Leader) error {
				return l.run(ctx, db, log, func(tx *store.Tx) error { return tx.RequireLeader(leader) })
			})
		})
	}
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// run feeds keys until ctx ends or the lead is lost.
func (l Loop) run(ctx context.Context, db *store.DB, log *slog.Logger, lead Lead) error {
	for ctx.Err() == nil {
		err := l.feed(ctx, db, log, lead)
		switch {
		case errors.Is(err, fault.Conflict): // fell behind; start over
		case err != nil:
			return err
		}
	}
	return ctx.Err()
}

// feed steps all keys, and then those that changes concern or that are due.
func (l Loop) feed(ctx context.Context, db *store.DB, log *slog.Logger, lead Lead) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snap := db.Snapshot()
	q := newQueue(l.All(snap))
	watch := store.WatchOptions{After: snap.Rev()}
	for _, t := range l.Inputs {
		watch.Prefixes = append(watch.Prefixes, t+"/")
	}
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		for e, err := range db.Watch(ctx, watch) {
			if err != nil {
				return err
			}
			for key := range l.Concerns(db.Snapshot(), e) {
				q.add(key, l.Settle)
			}
		}
		return nil
	})
	sweep := time.Now().Add(l.Every)
	for ctx.Err() == nil {
		if !time.Now().Before(sweep) {
			for key := range l.All(db.Snapshot()) {
				q.add(key, 0)
			}
			sweep = time.Now().Add(l.Every)
		}
		key, ok := q.next(ctx, sweep)
		if !ok {
			continue
		}
		again, err := l.Step(ctx, lead, key)
		switch {
		case ctx.Err() != nil: // whoever leads next steps it
		case errors.Is(err, fault.NotFound):
			q.forget(key)
		case err != nil:
			wait := q.failed(key)
			log.WarnContext(ctx, "loop: step failed", "loop", l.Name, "key", key, "error", err, "again", wait)
		default:
			q.done(key, again)
		}
	}
	return g.Wait()
}

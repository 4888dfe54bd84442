package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// An UpdateOption changes how Update goes about its work.
type UpdateOption func(*update)

// Hot names keys that many rivals are about to change: Update holds them from
// the start, first come first served within this process, instead of finding
// out by losing. Any name will do; rivals use the same.
func Hot(keys ...string) UpdateOption {
	return func(u *update) { u.hot = append(u.hot, keys...) }
}

type update struct {
	hot []string
	hold
}

// Update runs fn until what it did commits. fn may run more than once and must
// touch nothing but its Tx; an error of fn is returned as it is, and nothing is
// written. When Update returns nil, the change is in etcd and every later
// Snapshot of this DB shows it.
//
// An error that is ErrUnknown means that ctx ended while etcd did not answer
// and the change may have happened; any other error means that it did not.
//
// After a lost race the Update queues for the keys it lost, and one about to
// commit a key that somebody holds queues behind them.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error, opts ...UpdateOption) error {
	u := update{hold: hold{q: &db.queue}}
	for _, o := range opts {
		o(&u)
	}
	defer u.release()
	for attempt := 0; ; {
		if err := u.take(ctx, u.hot); err != nil {
			return fault.Wrap(fault.Unavailable, "store", "still waiting for rivals", err)
		}
		if err := db.Fresh(); err != nil {
			return err
		}
		tx := newTx(db, db.snap.Load(), attempt)
		if err := fn(tx); err != nil {
			return err
		}
		conds, writes := tx.request()
		if len(writes) == 0 {
			return nil
		}
		var keys []string
		for _, w := range writes {
			keys = append(keys, w.Key)
		}
		if u.hot = u.busy(keys); len(u.hot) > 0 {
			db.stats.queued.Add(1)
			continue
		}
		ok, err := db.commit(ctx, tx, conds, writes)
		if err != nil || ok {
			return err
		}
		db.stats.conflicts.Add(1)
		attempt++
		u.hot = tx.lostTo(db.snap.Load())
	}
}

// commit sends a transaction to etcd. When it returns, the cache shows the
// change, or, if the race was lost, why.
func (db *DB) commit(ctx context.Context, tx *Tx, conds []Cond, writes []Write) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fault.Wrap(fault.Unavailable, "store", "not committed", err)
	}
	mod, ours := db.ours(tx.base)
	if !ours {
		return false, fault.New(fault.Unavailable, "store", "another process works under the name "+db.opt.Name, "give every replica a name of its own")
	}
	id := db.session.newID()
	conds = append(conds, Cond{Key: db.session.full(), Mod: mod})
	if !slices.ContainsFunc(writes, func(w Write) bool { return w.Value != nil }) {
		writes = append(writes, Write{Key: db.session.nonce(), Value: []byte{}}) // deletes bear no number
	}
	for i := range conds {
		conds[i].Key = db.opt.Prefix + conds[i].Key
	}
	for i, w := range writes {
		writes[i].Key = db.opt.Prefix + w.Key
		if w.Value != nil {
			writes[i].Value = id.seal(w.Value)
		}
	}
	if err := checkLimits(conds, writes); err != nil {
		return false, err
	}
	db.mu.Lock()
	db.pending[id] = 0
	db.mu.Unlock()
	defer func() {
		db.mu.Lock()
		delete(db.pending, id)
		db.mu.Unlock()
	}()

	// A caller that goes away must not leave the outcome open.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.opt.CommitTimeout)
	defer cancel()
	rev, ok, err := db.kv.Commit(ask, conds, writes)
	switch {
	case errors.Is(err, ErrUnknown):
		db.stats.unknown.Add(1)
		return db.resolve(ctx, id, mod, err)
	case err != nil:
		if fault.KindOf(err) == fault.Internal {
			err = fault.Wrap(fault.Unavailable, "store", "not committed", err)
		}
		return false, err
	case !ok:
		return false, db.Wait(ctx, rev)
	}
	db.stats.commits.Add(1)
	// It is committed whatever happens now; without ctx or cache there is no
	// later read that could miss it.
	_ = db.Wait(ctx, rev)
	return true, nil
}

// resolve finds out whether a transaction was applied whose answer got lost,
// and makes sure that it will not be later.
func (db *DB) resolve(ctx context.Context, id txID, mod Rev, cause error) (bool, error) {
	fence := []Write{{Key: db.opt.Prefix + db.session.full(), Value: db.session.newID().seal(db.session.owner)}}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		// If the compare fails, somebody has put up a fence already.
		ask, cancel := context.WithTimeout(ctx, db.opt.CommitTimeout)
		rev, _, err := db.kv.Commit(ask, []Cond{{Key: db.opt.Prefix + db.session.full(), Mod: mod}}, fence)
		cancel()
		if err == nil && db.Wait(ctx, rev) == nil {
			db.mu.Lock()
			applied := db.pending[id] != 0
			db.mu.Unlock()
			return applied, nil
		}
		select {
		case <-db.done:
			return false, fault.Wrap(fault.Unavailable, "store", "closed before etcd answered", cause)
		default:
		}
		if !pause(ctx, wait) {
			return false, fault.Wrap(fault.Unavailable, "store", "etcd did not answer", cause).Do("look whether the change has happened before trying again")
		}
	}
}

package storetest

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// A Trouble is a KV that fails as it is told to. At first it does not.
type Trouble struct {
	store.KV

	mu     sync.Mutex
	commit CommitHook
	reads  error
	leases error
	held   chan struct{}   // closed when watches may start
	cut    context.Context // ends when running watches must
	end    context.CancelFunc
}

// A CommitHook stands between the store and a commit, which it may do or not.
type CommitHook func(commit func() (store.Rev, bool, error)) (store.Rev, bool, error)

// NewTrouble returns a Trouble over kv.
func NewTrouble(kv store.KV) *Trouble {
	x := &Trouble{KV: kv, held: make(chan struct{})}
	close(x.held)
	x.cut, x.end = context.WithCancel(context.Background())
	return x
}

// OnCommit sets the hook of every commit to come; nil is none.
func (x *Trouble) OnCommit(h CommitHook) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.commit = h
}

// FailReads lets every Range fail, until err is nil.
func (x *Trouble) FailReads(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reads = err
}

// FailLeases lets every renewal of a lease fail, until err is nil.
func (x *Trouble) FailLeases(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leases = err
}

// Hold ends the watches and lets none start until the function it returns is
// called.
func (x *Trouble) Hold() (release func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end()
	x.cut, x.end = context.WithCancel(context.Background())
	held := make(chan struct{})
	x.held = held
	return sync.OnceFunc(func() { close(held) })
}

// Range implements store.KV.
func (x *Trouble) Range(ctx context.Context, prefix string) ([]store.Entry, store.Rev, error) {
	x.mu.Lock()
	err := x.reads
	x.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	return x.KV.Range(ctx, prefix)
}

// Commit implements store.KV.
func (x *Trouble) Commit(ctx context.Context, conds []store.Cond, writes []store.Write) (store.Rev, bool, error) {
	x.mu.Lock()
	hook := x.commit
	x.mu.Unlock()
	commit := func() (store.Rev, bool, error) { return x.KV.Commit(context.WithoutCancel(ctx), conds, writes) }
	if hook == nil {
		return commit()
	}
	return hook(commit)
}

// Watch implements store.KV.
func (x *Trouble) Watch(ctx context.Context, prefix string, after store.Rev) iter.Seq2[store.Batch, error] {
	return func(yield func(store.Batch, error) bool) {
		x.mu.Lock()
		held, cut := x.held, x.cut
		x.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return
		}
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(cut, cancel)()
		for b, err := range x.KV.Watch(inner, prefix, after) {
			if cut.Err() != nil {
				break
			}
			if !yield(b, err) {
				return
			}
		}
		if cut.Err() != nil {
			yield(store.Batch{}, fault.New(fault.Unavailable, "watch", "cut", ""))
		}
	}
}

// Grant implements store.Leaser.
func (x *Trouble) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	return x.KV.(store.Leaser).Grant(ctx, ttl)
}

// Renew implements store.Leaser.
func (x *Trouble) Renew(ctx context.Context, id store.LeaseID) error {
	x.mu.Lock()
	err := x.leases
	x.mu.Unlock()
	if err != nil {
		return err
	}
	return x.KV.(store.Leaser).Renew(ctx, id)
}

// Revoke implements store.Leaser.
func (x *Trouble) Revoke(ctx context.Context, id store.LeaseID) error {
	x.mu.Lock()
	err := x.leases
	x.mu.Unlock()
	if err != nil {
		return err
	}
	return x.KV.(store.Leaser).Revoke(ctx, id)
}

// Progress makes the watches report the revision they have reached, if the KV
// below can.
func (x *Trouble) Progress(ctx context.Context) error {
	if p, ok := x.KV.(interface{ Progress(context.Context) error }); ok {
		return p.Progress(ctx)
	}
	return nil
}

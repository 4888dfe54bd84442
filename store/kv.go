package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// Rev is an etcd revision. Zero means that a key does not exist.
type Rev = int64

// A KV is the part of etcd the store needs. Mem and Etcd implement it; the
// suite in storetest says what an implementation promises.
type KV interface {
	// Range returns every key that starts with prefix, in key order, and the
	// revision of the answer. It is linearizable: it sees every commit that
	// was acknowledged before it was called.
	Range(ctx context.Context, prefix string) ([]Entry, Rev, error)
	// Commit applies all writes in one revision if all conds hold, and nothing
	// otherwise. It returns the revision of the commit, or, if ok is false, one
	// at which a condition did not hold. An error that is ErrUnknown means that
	// the writes may have been applied or may still be; any other error means
	// that they were not and never will be.
	Commit(ctx context.Context, conds []Cond, writes []Write) (rev Rev, ok bool, err error)
	// Watch yields every revision after the given one that wrote below prefix,
	// whole and in order, until ctx ends or an error was yielded. A Batch
	// without entries says that nothing happened up to its revision. The error
	// is ErrCompacted if the revisions to start from are gone.
	Watch(ctx context.Context, prefix string, after Rev) iter.Seq2[Batch, error]
}

// A Leaser is a KV whose keys can be bound to the life of a process.
type Leaser interface {
	// Grant returns a new lease that ends after ttl unless it is renewed.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// Renew starts the ttl of a lease again; fault.NotFound if it has ended.
	Renew(ctx context.Context, id LeaseID) error
	// Revoke ends a lease, which deletes the keys bound to it.
	Revoke(ctx context.Context, id LeaseID) error
}

// A progresser is a KV that, when asked, tells its watches the revision they
// have reached although nothing below their prefix was written.
type progresser interface {
	Progress(ctx context.Context) error
}

type (
	// LeaseID names a lease of a KV; zero is none.
	LeaseID int64

	// An Entry is one key at one revision; in a Batch, a nil Value means that
	// the key was deleted.
	Entry struct {
		Key   string
		Value []byte
		Mod   Rev
	}

	// A Cond must hold for a commit to happen: Key was last written at
	// revision Mod (zero: does not exist), or, if Prefix is set, every key
	// that starts with Key was last written at Mod or before.
	Cond struct {
		Key    string
		Mod    Rev
		Prefix bool
	}

	// A Write sets a key, or deletes it if Value is nil. A key bound to a
	// lease is deleted when the lease ends.
	Write struct {
		Key   string
		Value []byte
		Lease LeaseID
	}

	// A Batch is what one revision wrote.
	Batch struct {
		Rev     Rev
		Entries []Entry
	}
)

var (
	// ErrCompacted says that the revisions asked for are no longer kept.
	ErrCompacted = errors.New("the revision has been compacted")
	// ErrUnknown says that a commit may or may not have happened, or may still.
	ErrUnknown = errors.New("the outcome of the commit is unknown")
)

// The limits of etcd at its default settings, which an external cluster has.
const (
	// MaxOps bounds the compares of one transaction, and its writes. A range
	// compare counts once.
	MaxOps = 128
	// MaxBytes bounds all keys and values of one transaction, and so a value.
	MaxBytes = 3 << 19 // 1.5 MiB

	opBytes = 32 // what etcd adds to an operation or a compare at most, beside key and value
)

// checkLimits says what is wrong with a transaction that etcd would refuse.
func checkLimits(conds []Cond, writes []Write) error {
	if n := len(conds); n > MaxOps {
		return fault.New(fault.Invalid, "transaction", fmt.Sprintf("relies on %d keys, the limit is %d", n, MaxOps),
			"guard a prefix or a guard record instead of single keys, or work in steps")
	}
	if n := len(writes); n > MaxOps {
		return fault.New(fault.Invalid, "transaction", fmt.Sprintf("writes %d records, the limit is %d", n, MaxOps),
			"make a plan of recorded steps")
	}
	total := 1024 // the envelope
	for _, c := range conds {
		total += 2*len(c.Key) + opBytes // a range compare has an end, too
	}
	for _, w := range writes {
		if n := len(w.Value); n > MaxBytes-1024 {
			return fault.New(fault.Invalid, w.Key, fmt.Sprintf("%d bytes are too large for one record, the limit is %d", n, MaxBytes-1024),
				"keep large values outside the store")
		}
		total += len(w.Key) + len(w.Value) + opBytes
	}
	if total > MaxBytes {
		return fault.New(fault.Invalid, "transaction", fmt.Sprintf("is %d bytes long, the limit is %d", total, MaxBytes),
			"make a plan of recorded steps")
	}
	return nil
}

package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"

	"github.com/ingot-cloud/ingot/fault"
)

// A txID is the number of one attempt to commit, different from all others
// with all but certainty. Every value in etcd starts with the number of its
// transaction, so the watch tells whether a commit whose answer got lost was
// applied.
//
// It must also be known that such a commit is not applied later. Therefore
// every transaction compares the session key of its DB: writing that key
// anew is a fence that nothing sent before can pass.
type txID uint64

const idBytes = 8

// A session is the identity of an open DB.
type session struct {
	key   string // in the table of sessions
	owner []byte // the value of the key
	next  *atomic.Uint64
}

// newSession takes over the session of this name.
func newSession(ctx context.Context, kv KV, opt Options) (session, error) {
	s := session{key: opt.Name, owner: make([]byte, 16), next: new(atomic.Uint64)}
	rand.Read(s.owner)
	s.next.Store(binary.BigEndian.Uint64(s.owner))
	w := Write{Key: opt.Prefix + s.full(), Value: s.newID().seal(s.owner)}
	if _, _, err := kv.Commit(ctx, nil, []Write{w}); err != nil {
		return s, fault.Wrap(fault.Unavailable, "store", "cannot be written", err)
	}
	return s, nil
}

func (s session) full() string  { return sessions.tableName() + "/" + s.key }
func (s session) newID() txID   { return txID(s.next.Add(1)) }
func (s session) nonce() string { return s.full() + "/nonce" }

// seal returns a value as it is stored.
func (id txID) seal(value []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, idBytes+len(value)), uint64(id)), value...)
}

// unseal is the inverse of seal.
func unseal(stored []byte) (txID, []byte, error) {
	if len(stored) < idBytes {
		return 0, nil, fault.New(fault.Internal, "store", "a value lacks the number of its transaction", "the key was not written by this program")
	}
	return txID(binary.BigEndian.Uint64(stored)), stored[idBytes:], nil
}

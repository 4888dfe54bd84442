package store

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/ingot-cloud/ingot/fault"
)

// Mem is a KV in memory, for tests and simulations. It keeps its history
// until Compact.
type Mem struct {
	mu      sync.Mutex
	rev     Rev
	now     btree.Map[string, memEntry]
	log     []Batch // the revisions since compact
	compact Rev
	more    chan struct{} // closed and replaced when log grows or is compacted
	lease   LeaseID
	leases  map[LeaseID]*memLease
}

type memEntry struct {
	Entry
	lease LeaseID
}

type memLease struct {
	ttl   time.Duration
	timer *time.Timer
}

// NewMem returns an empty Mem.
func NewMem() *Mem {
	return &Mem{rev: 1, compact: 1, more: make(chan struct{}), leases: map[LeaseID]*memLease{}}
}

// Range implements KV.
func (m *Mem) Range(ctx context.Context, prefix string) ([]Entry, Rev, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Entry
	m.below(prefix, func(e memEntry) bool {
		out = append(out, e.Entry)
		return true
	})
	return out, m.rev, nil
}

func (m *Mem) below(prefix string, yield func(memEntry) bool) {
	m.now.Ascend(prefix, func(k string, e memEntry) bool {
		return strings.HasPrefix(k, prefix) && yield(e)
	})
}

// Commit implements KV.
func (m *Mem) Commit(ctx context.Context, conds []Cond, writes []Write) (Rev, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conds {
		if !m.holds(c) {
			return m.rev, false, nil
		}
	}
	for _, w := range writes {
		if w.Lease != 0 && m.leases[w.Lease] == nil {
			return 0, false, fault.Newf(fault.NotFound, "lease", "has ended")
		}
	}
	m.apply(writes)
	return m.rev, true, nil
}

func (m *Mem) holds(c Cond) bool {
	if !c.Prefix {
		e, _ := m.now.Get(c.Key)
		return e.Mod == c.Mod
	}
	ok := true
	m.below(c.Key, func(e memEntry) bool {
		ok = e.Mod <= c.Mod
		return ok
	})
	return ok
}

// apply makes one revision of writes. Like etcd it does not count a revision
// that deletes nothing and puts nothing.
func (m *Mem) apply(writes []Write) {
	b := Batch{Rev: m.rev + 1}
	for _, w := range writes {
		e := Entry{Key: w.Key, Mod: b.Rev}
		if w.Value != nil {
			e.Value = slices.Clone(w.Value)
			m.now.Set(w.Key, memEntry{e, w.Lease})
		} else if _, ok := m.now.Delete(w.Key); !ok {
			continue
		}
		b.Entries = append(b.Entries, e)
	}
	if len(b.Entries) == 0 {
		return
	}
	m.rev = b.Rev
	m.log = append(m.log, b)
	m.wake()
}

func (m *Mem) wake() {
	close(m.more)
	m.more = make(chan struct{})
}

// Watch implements KV.
func (m *Mem) Watch(ctx context.Context, prefix string, after Rev) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for {
			m.mu.Lock()
			if after < m.compact {
				m.mu.Unlock()
				yield(Batch{}, ErrCompacted)
				return
			}
			todo, more := m.log[min(int(after-m.compact), len(m.log)):], m.more
			m.mu.Unlock()
			for _, b := range todo {
				after = b.Rev
				// entries elsewhere are dropped; the rest is a progress note
				b.Entries = slices.DeleteFunc(slices.Clone(b.Entries), func(e Entry) bool { return !strings.HasPrefix(e.Key, prefix) })
				if !yield(b, nil) {
					return
				}
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Compact forgets the history up to the present, and so cuts off every watch
// that has not seen it.
func (m *Mem) Compact(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log, m.compact = nil, m.rev
	m.wake()
	return nil
}

// Grant implements Leaser.
func (m *Mem) Grant(_ context.Context, ttl time.Duration) (LeaseID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease++
	id := m.lease
	m.leases[id] = &memLease{ttl, time.AfterFunc(ttl, func() { m.end(id) })}
	return id, nil
}

// Renew implements Leaser.
func (m *Mem) Renew(_ context.Context, id LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil {
		return fault.Newf(fault.NotFound, "lease", "has ended")
	}
	l.timer.Reset(l.ttl)
	return nil
}

// Revoke implements Leaser.
func (m *Mem) Revoke(_ context.Context, id LeaseID) error {
	m.end(id)
	return nil
}

func (m *Mem) end(id LeaseID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil {
		return
	}
	l.timer.Stop()
	delete(m.leases, id)
	var dels []Write
	m.below("", func(e memEntry) bool {
		if e.lease == id {
			dels = append(dels, Write{Key: e.Key})
		}
		return true
	})
	m.apply(dels)
}

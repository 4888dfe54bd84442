package store

import (
	"cmp"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/tidwall/btree"
)

// A row is one record in the cache: its key within the table, the revision
// that wrote it, and its bytes, which nobody changes.
type row struct {
	key string
	mod Rev
	val []byte
}

// A ref is one index entry: the row with this key has this index value.
type ref struct{ value, key string }

func lessRow(a, b row) bool { return a.key < b.key }

func lessRef(a, b ref) bool {
	if c := cmp.Compare(a.value, b.value); c != 0 {
		return c < 0
	}
	return a.key < b.key
}

// A shelf holds the rows of one table and its indexes. Once part of a
// published snapshot it is never written; a change is made to a fork.
type shelf struct {
	mu      sync.Mutex // held to fork: copying a tree marks the original
	table   AnyTable
	rows    *btree.BTreeG[row]
	indexes []*btree.BTreeG[ref] // in the order of the table's index names
}

func newShelf(t AnyTable) *shelf {
	s := &shelf{table: t, rows: btree.NewBTreeGOptions(lessRow, btree.Options{NoLocks: true})}
	for range t.indexNames() {
		s.indexes = append(s.indexes, btree.NewBTreeGOptions(lessRef, btree.Options{NoLocks: true}))
	}
	return s
}

// fork returns a copy that shares everything with s until it is written.
func (s *shelf) fork() *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &shelf{table: s.table, rows: s.rows.Copy(), indexes: make([]*btree.BTreeG[ref], len(s.indexes))}
	for i, x := range s.indexes {
		f.indexes[i] = x.Copy()
	}
	return f
}

func (s *shelf) get(key string) (row, bool) { return s.rows.Get(row{key: key}) }

// set replaces the row of r's key, or deletes it if r has no bytes, and
// returns what was there.
func (s *shelf) set(r row) (old row, err error) {
	var was, is [][]string
	old, existed := s.get(r.key)
	if len(s.indexes) > 0 {
		if existed {
			if was, err = s.table.indexValues(old.val); err != nil {
				return old, err
			}
		}
		if r.val != nil {
			if is, err = s.table.indexValues(r.val); err != nil {
				return old, err
			}
		}
	}
	if r.val == nil {
		s.rows.Delete(r)
	} else {
		if existed {
			r.key = old.key // one copy of the key serves all versions
		}
		s.rows.Set(r)
	}
	for i, x := range s.indexes {
		if was != nil && is != nil && slices.Equal(was[i], is[i]) {
			continue
		}
		if was != nil {
			for _, v := range was[i] {
				x.Delete(ref{v, r.key})
			}
		}
		if is != nil {
			for _, v := range is[i] {
				x.Set(ref{intern(x, v), r.key})
			}
		}
	}
	return old, nil
}

// intern returns the copy of v that an index already holds, if it does.
func intern(x *btree.BTreeG[ref], v string) string {
	x.Ascend(ref{value: v}, func(r ref) bool {
		if r.value == v {
			v = r.value
		}
		return false
	})
	return v
}

// below yields the rows whose key starts with prefix, in key order.
func (s *shelf) below(prefix string) iter.Seq[row] {
	return func(yield func(row) bool) {
		s.rows.Ascend(row{key: prefix}, func(r row) bool {
			return strings.HasPrefix(r.key, prefix) && yield(r)
		})
	}
}

// by yields the rows with the given index value, in key order.
func (s *shelf) by(index int, value string) iter.Seq[row] {
	return func(yield func(row) bool) {
		s.indexes[index].Ascend(ref{value: value}, func(x ref) bool {
			if x.value != value {
				return false
			}
			r, _ := s.get(x.key)
			return yield(r)
		})
	}
}

// rank returns how many items of a tree come before the first that is not
// less than pivot. The tree finds the i-th item from the counts in its nodes,
// so this is a binary search over positions.
func rank[T any](t *btree.BTreeG[T], less func(a, b T) bool, pivot T) int {
	return sort.Search(t.Len(), func(i int) bool {
		x, _ := t.GetAt(i)
		return !less(x, pivot)
	})
}

// count returns the number of rows with the given index value.
func (s *shelf) count(index int, value string) int {
	x := s.indexes[index]
	return rank(x, lessRef, ref{value: value + "\x00"}) - rank(x, lessRef, ref{value: value})
}

// lowestGap returns the lowest position in [lo, hi] whose key is not taken.
// key is strictly increasing and the table has no other keys between key(lo)
// and key(hi); hence the row i places after the first is key(lo+i) exactly
// when everything up to there is taken, and the gap is found by bisection.
func (s *shelf) lowestGap(lo, hi uint64, key func(uint64) string) (uint64, bool) {
	if lo > hi {
		return 0, false
	}
	base := rank(s.rows, lessRow, row{key: key(lo)})
	size := s.rows.Len() - base
	if span := hi - lo; span < uint64(size) { // avoids the overflow of span+1
		size = int(span) + 1
	}
	n := uint64(sort.Search(size, func(i int) bool {
		r, _ := s.rows.GetAt(base + i)
		return r.key != key(lo+uint64(i))
	}))
	if n > hi-lo {
		return 0, false
	}
	return lo + n, true
}

// A snapshot is etcd at one revision. It is never written.
type snapshot struct {
	rev     Rev
	shelves []*shelf // by the position of the table in the DB; the last holds keys that are not records
}

// with returns a snapshot in which the given shelves may be replaced.
func (s *snapshot) clone() *snapshot {
	return &snapshot{s.rev, slices.Clone(s.shelves)}
}

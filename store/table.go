package store

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/fault"
)

// A Table describes the records of one type. Tables are package-level values
// made by NewTable and never changed; one table serves any number of DBs.
//
//	var IPs = store.NewTable(store.Table[*apiv2.IP]{
//		Name:    "ip",
//		Key:     func(ip *apiv2.IP) string { return ip.GetNamespace() + "/" + ip.GetIp() },
//		Indexes: map[string]func(*apiv2.IP) []string{
//			"project": func(ip *apiv2.IP) []string { return []string{ip.GetProject()} },
//		},
//	})
//
// Every record it returns is a copy that belongs to the caller.
type Table[T proto.Message] struct {
	// Name is the first element of every key, and the noun in errors.
	Name string
	// Key returns the key of a record within the table. It must not change
	// while the record lives.
	Key func(T) string
	// Indexes maps the name of an index to the values a record has in it. The
	// functions depend on nothing but the record.
	Indexes map[string]func(T) []string
	// Stamp, if set, notes in a record when it was created or changed.
	Stamp func(rec T, now time.Time, created bool)
	// Label, if set, makes a key readable in errors.
	Label func(key string) string

	names []string // of the indexes, sorted
}

// AnyTable is a *Table of whatever type.
type AnyTable interface {
	tableName() string
	indexNames() []string
	indexValues(value []byte) ([][]string, error) // in the order of indexNames
}

var tableName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// NewTable returns a table. It panics if the description is not complete.
func NewTable[T proto.Message](t Table[T]) *Table[T] {
	if !tableName.MatchString(t.Name) || t.Key == nil {
		panic(fmt.Sprintf("store: table %q: needs a name of lower-case letters, digits and dashes, and a key function", t.Name))
	}
	t.names = slices.Sorted(maps.Keys(t.Indexes))
	return &t
}

func (t *Table[T]) tableName() string    { return t.Name }
func (t *Table[T]) indexNames() []string { return t.names }

func (t *Table[T]) indexValues(value []byte) ([][]string, error) {
	rec, err := t.Decode(value)
	if err != nil {
		return nil, err
	}
	out := make([][]string, len(t.names))
	for i, n := range t.names {
		out[i] = t.Indexes[n](rec)
	}
	return out, nil
}

// Decode returns the record in the value of an Event.
func (t *Table[T]) Decode(value []byte) (T, error) {
	var zero T
	rec := zero.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(value, rec); err != nil {
		return zero, fault.Wrap(fault.Internal, t.Name, "a stored record cannot be read", err)
	}
	return rec, nil
}

// decode is Decode for bytes that have been read before: the cache reads every
// record of an indexed table when it takes it in, and a record of this type
// that cannot be read is a broken invariant.
func (t *Table[T]) decode(r row) T {
	rec, err := t.Decode(r.val)
	if err != nil {
		panic(fmt.Sprintf("store: %s: %v", t.object(r.key), err))
	}
	return rec
}

func (t *Table[T]) object(key string) string {
	if t.Label != nil {
		key = t.Label(key)
	}
	return t.Name + " " + key
}

func (t *Table[T]) notFound(key string) error {
	return fault.New(fault.NotFound, t.object(key), "not found", "")
}

// Get returns a record, or fault.NotFound. In a Tx it guards the key: the Tx
// conflicts if the record is written, created or deleted by somebody else
// before it commits.
func (t *Table[T]) Get(r Reader, key string) (T, error) {
	t.Rely(guarder(r), key)
	rec, ok := t.Peek(r, key)
	if !ok {
		return rec, t.notFound(key)
	}
	return rec, nil
}

// Peek returns a record if it exists. It guards nothing.
func (t *Table[T]) Peek(r Reader, key string) (T, bool) {
	row, ok := r.read(t).get(key)
	if !ok {
		var zero T
		return zero, false
	}
	return t.decode(row), true
}

// All yields every record in key order, as of the call of the iterator, also
// while the loop's body writes to the table. It guards nothing.
func (t *Table[T]) All(r Reader) iter.Seq[T] { return t.Prefix(r, "") }

// Prefix is All for the keys that start with prefix.
func (t *Table[T]) Prefix(r Reader, prefix string) iter.Seq[T] {
	return func(yield func(T) bool) {
		for row := range r.scan(t).below(prefix) {
			if !yield(t.decode(row)) {
				return
			}
		}
	}
}

// By is All for the records that have the value in the index, which must
// exist.
func (t *Table[T]) By(r Reader, index, value string) iter.Seq[T] {
	i := t.index(index)
	return func(yield func(T) bool) {
		for row := range r.scan(t).by(i, value) {
			if !yield(t.decode(row)) {
				return
			}
		}
	}
}

// Count returns how many records By yields, or with an empty index how many
// there are, without looking at them. It guards nothing.
func (t *Table[T]) Count(r Reader, index, value string) int {
	if index == "" {
		return r.read(t).rows.Len()
	}
	return r.read(t).count(t.index(index), value)
}

func (t *Table[T]) index(name string) int {
	i, ok := slices.BinarySearch(t.names, name)
	if !ok {
		panic(fmt.Sprintf("store: table %s has no index %q", t.Name, name))
	}
	return i
}

// LowestGap returns the lowest number in [lo, hi] that no record stands for,
// and false if there is none. It reads O(log² n) keys whatever is taken. It
// guards nothing: the Insert that follows guards the absence of its key.
//
// key returns the key of a number. Keys must sort like their numbers (Ordered
// and OrderedAddr make such keys), and between key(lo) and key(hi) the table
// must hold no other keys than those of numbers. To make rivals for one pool
// aim apart, start at a higher lo.
func (t *Table[T]) LowestGap(r Reader, lo, hi uint64, key func(uint64) string) (uint64, bool) {
	return r.read(t).lowestGap(lo, hi, key)
}

// Insert adds a record; fault.Exists if its key is taken.
func (t *Table[T]) Insert(tx *Tx, rec T) error {
	key := t.Key(rec)
	t.Rely(tx, key)
	if _, taken := tx.read(t).get(key); taken {
		return fault.New(fault.Exists, t.object(key), "exists already", "")
	}
	return t.write(tx, rec, true)
}

// Put adds a record or replaces the one that has its key, which it guards.
func (t *Table[T]) Put(tx *Tx, rec T) error {
	key := t.Key(rec)
	t.Rely(tx, key)
	_, replaces := tx.read(t).get(key)
	return t.write(tx, rec, !replaces)
}

// Change edits a record, which it guards, and returns what it became;
// fault.NotFound if there is none. An edit that changes nothing writes nothing.
// An error of edit is returned as it is. The edit must not change the key.
func (t *Table[T]) Change(tx *Tx, key string, edit func(T) error) (T, error) {
	rec, err := t.Get(tx, key)
	if err != nil {
		return rec, err
	}
	old := proto.Clone(rec).(T)
	if err := edit(rec); err != nil {
		return old, err
	}
	if k := t.Key(rec); k != key {
		panic(fmt.Sprintf("store: %s: a change made the key %q", t.object(key), k))
	}
	if proto.Equal(rec, old) {
		return rec, nil
	}
	return rec, t.write(tx, rec, false)
}

// Delete removes a record, which it guards, and returns what it was;
// fault.NotFound if there is none.
func (t *Table[T]) Delete(tx *Tx, key string) (T, error) {
	rec, err := t.Get(tx, key)
	if err != nil {
		return rec, err
	}
	return rec, tx.set(t, row{key: key})
}

// Rely guards a key without reading it, typically that of a row seen in a scan.
func (t *Table[T]) Rely(tx *Tx, key string) {
	if tx != nil {
		tx.guard(t, key)
	}
}

func (t *Table[T]) write(tx *Tx, rec T, created bool) error {
	key := t.Key(rec)
	if key == "" || strings.ContainsRune(key, 0) {
		return fault.Newf(fault.Invalid, t.Name, "%q cannot be a key", key)
	}
	if t.Stamp != nil {
		t.Stamp(rec, tx.Now(), created)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		return fault.Wrap(fault.Invalid, t.object(key), "cannot be stored", err)
	}
	if value == nil {
		value = []byte{} // an empty message is a record, too
	}
	if old, ok := tx.read(t).get(key); ok && bytes.Equal(old.val, value) {
		return nil
	}
	return tx.set(t, row{key: key, val: value})
}

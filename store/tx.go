package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Reader sees the store at one moment: a Snapshot, or a Tx, which also sees
// its own writes.
type Reader interface {
	// Rev returns the revision seen.
	Rev() Rev

	read(AnyTable) *shelf // for a single answer
	scan(AnyTable) *shelf // for an iteration, which later writes must not disturb
}

// A Snapshot is the store at one revision. It costs nothing and may be kept,
// at the price of the memory of what has changed since.
type Snapshot struct {
	db *DB
	s  *snapshot
}

// Rev returns the revision of the last event the snapshot includes.
func (s Snapshot) Rev() Rev               { return s.s.rev }
func (s Snapshot) read(t AnyTable) *shelf { return s.s.shelves[s.db.position(t)] }
func (s Snapshot) scan(t AnyTable) *shelf { return s.read(t) }

// A Tx is one attempt at a change: it sees one snapshot and its own writes,
// remembers what it relied on, and commits in one etcd transaction or not at
// all. It must not be used by two goroutines, nor after its function returned.
type Tx struct {
	db      *DB
	base    *snapshot
	now     time.Time
	attempt int

	view   *snapshot         // base, with the shelves of written tables forked
	forked map[int]bool      // shelves of view that are the Tx's own to write
	seen   map[string]Rev    // the keys it relies on, and their revision in base
	ranges map[string]bool   // the prefixes it relies on
	writes map[string][]byte // nil deletes
}

func newTx(db *DB, base *snapshot, attempt int) *Tx {
	return &Tx{db: db, base: base, now: db.opt.Now(), attempt: attempt, view: base,
		forked: map[int]bool{}, seen: map[string]Rev{}, ranges: map[string]bool{}, writes: map[string][]byte{}}
}

// Now returns the time of this attempt, the same at every call.
func (tx *Tx) Now() time.Time { return tx.now }

// Attempt counts the earlier attempts that lost a race.
func (tx *Tx) Attempt() int { return tx.attempt }

// Rev returns the revision of the snapshot the Tx sees.
func (tx *Tx) Rev() Rev { return tx.base.rev }

func (tx *Tx) read(t AnyTable) *shelf { return tx.view.shelves[tx.db.position(t)] }

func (tx *Tx) scan(t AnyTable) *shelf {
	i := tx.db.position(t)
	delete(tx.forked, i) // the next write forks again, beneath the iteration
	return tx.view.shelves[i]
}

// guarder returns the Tx of r, or nil.
func guarder(r Reader) *Tx {
	tx, _ := r.(*Tx)
	return tx
}

// guard makes the commit depend on the key being as base has it.
func (tx *Tx) guard(t AnyTable, key string) {
	full := t.tableName() + "/" + key
	if _, ok := tx.seen[full]; ok {
		return
	}
	was, _ := tx.base.shelves[tx.db.position(t)].get(key)
	tx.seen[full] = was.mod
}

// set writes a row; without bytes it deletes it.
func (tx *Tx) set(t AnyTable, r row) error {
	i := tx.db.position(t)
	if !tx.forked[i] {
		if tx.view == tx.base {
			tx.view = tx.base.clone()
		}
		tx.view.shelves[i] = tx.view.shelves[i].fork()
		tx.forked[i] = true
	}
	r.mod = tx.base.rev + 1
	if _, err := tx.view.shelves[i].set(r); err != nil {
		return err
	}
	tx.writes[t.tableName()+"/"+r.key] = r.val
	return nil
}

// Guard makes the commit fail if a record whose key starts with prefix is
// created or changed by somebody else. Deletes do not matter to it. The prefix
// begins with the name of a table and a slash; it should cover fewer than a
// thousand records, because etcd looks at each of them.
func (tx *Tx) Guard(prefix string) {
	name, _, ok := strings.Cut(prefix, "/")
	if _, known := tx.db.byName[name]; !ok || !known {
		panic(fmt.Sprintf("store: Guard(%q): the prefix must start with the name of a table and a slash", prefix))
	}
	tx.ranges[prefix] = true
}

// Bump reads and writes a guard record: of all transactions that bump the same
// key, each sees what the ones before it did. It stands for a set too large to
// Guard, and every writer of the set bumps it. The key is any name.
func (tx *Tx) Bump(key string) {
	tx.guard(bumps, key)
	tx.writes[bumps.tableName()+"/"+key] = []byte{}
}

// request returns the Tx as it goes to etcd, without the DB's prefix, in key
// order.
func (tx *Tx) request() (conds []Cond, writes []Write) {
	for _, k := range slices.Sorted(maps.Keys(tx.seen)) {
		conds = append(conds, Cond{Key: k, Mod: tx.seen[k]})
	}
	for _, p := range slices.Sorted(maps.Keys(tx.ranges)) {
		conds = append(conds, Cond{Key: p, Mod: tx.base.rev, Prefix: true})
	}
	for _, k := range slices.Sorted(maps.Keys(tx.writes)) {
		if tx.writes[k] == nil && tx.seen[k] == 0 {
			continue // made and unmade by this Tx
		}
		writes = append(writes, Write{Key: k, Value: tx.writes[k]})
	}
	return conds, writes
}

// lostTo returns the keys and prefixes the Tx relied on that are different in
// a later snapshot.
func (tx *Tx) lostTo(now *snapshot) []string {
	var lost []string
	for k, mod := range tx.seen {
		if r, _ := tx.db.find(now, k); r.mod != mod {
			lost = append(lost, k)
		}
	}
	for p := range tx.ranges {
		i, key, _ := tx.db.locate(p)
		for r := range now.shelves[i].below(key) {
			if r.mod > tx.base.rev {
				lost = append(lost, p)
				break
			}
		}
	}
	return lost
}

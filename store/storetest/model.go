package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"pgregory.net/rapid"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// A model is what the table IPs should hold: the project by key. The keys are
// "n/" and an ordered number below modelKeys.
type model map[string]string

const modelKeys = 24

func modelKey(n uint64) string { return "n/" + store.Ordered(n) }

// agree compares everything a reader can tell with the model.
func (m model) agree(t *rapid.T, what string, r store.Reader) {
	var all []string
	for rec := range IPs.All(r) {
		all = append(all, IPs.Key(rec))
		if want := m[IPs.Key(rec)]; rec.GetProject() != want {
			t.Fatalf("%s: %s is %q, want %q", what, IPs.Key(rec), rec.GetProject(), want)
		}
	}
	keys := slices.Sorted(maps.Keys(m))
	if !slices.Equal(all, keys) || IPs.Count(r, "", "") != len(m) {
		t.Fatalf("%s: keys are %v, %d of them; want %v", what, all, IPs.Count(r, "", ""), keys)
	}
	for _, p := range []string{"a", "b", "c"} {
		var want []string
		for _, k := range keys {
			if m[k] == p {
				want = append(want, k)
			}
		}
		if got := names(IPs.By(r, "project", p)); got != strings.Join(want, " ") || IPs.Count(r, "project", p) != len(want) {
			t.Fatalf("%s: of %s are %s, %d of them; want %v", what, p, got, IPs.Count(r, "project", p), want)
		}
	}
	lo := uint64(0)
	for ; lo < modelKeys; lo++ {
		if _, taken := m[modelKey(lo)]; !taken {
			break
		}
	}
	if got, ok := IPs.LowestGap(r, 0, modelKeys-1, modelKey); ok != (lo < modelKeys) || ok && got != lo {
		t.Fatalf("%s: the lowest gap is %d %v, want %d", what, got, ok, lo)
	}
}

// Model checks a store over the KVs that open returns against a map: first one
// writer with all there is, then rivals.
func Model(t *testing.T, open func(t *testing.T) store.KV) {
	n := 0
	next := func() *suite {
		n++
		return &suite{open(t), fmt.Sprintf("test/%s/%d/", t.Name(), n)}
	}
	t.Run("Alone", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { alone(rt, t, next()) })
	})
	t.Run("Rivals", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { serial(rt, t, next()) })
	})
}

// open opens a DB that rapid's check closes.
func (s *suite) rapid(rt *rapid.T, kv store.KV) *store.DB {
	db, err := store.Open(context.Background(), kv, testOptions(store.Options{Prefix: s.prefix, Tables: []store.AnyTable{IPs, Networks}}))
	if err != nil {
		rt.Fatal(err)
	}
	rt.Cleanup(db.Close)
	return db
}

// alone lets one writer at a time do anything, keeps old snapshots, loses
// watches, answers and history, and compares at every step.
func alone(rt *rapid.T, t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	rt.Repeat(rapid.StateMachineActions(&lone{
		ctx: t.Context(), suite: s, trouble: x, dbs: []*store.DB{s.rapid(rt, x), s.rapid(rt, s.kv)}, model: model{},
	}))
}

// lone is the state of alone, and its methods are what may happen.
type lone struct {
	ctx     context.Context
	suite   *suite
	trouble *Trouble
	dbs     []*store.DB // the first is in trouble
	model   model
	newest  store.Rev
	olds    []old
}

// old is a snapshot and what it should show.
type old struct {
	model
	store.Snapshot
}

// Check compares every replica and every kept snapshot with the model.
func (l *lone) Check(rt *rapid.T) {
	for i, db := range l.dbs {
		if err := db.Wait(l.ctx, l.newest); err != nil {
			rt.Fatal(err)
		}
		l.model.agree(rt, fmt.Sprint("replica ", i), db.Snapshot())
	}
	for _, o := range l.olds {
		o.agree(rt, "an old snapshot", o.Snapshot)
	}
}

// commit runs ops on a replica and on the model; an error, if not nil, is what
// the transaction returns in the end.
func (l *lone) commit(rt *rapid.T, db *store.DB, ops []op, refused error) {
	var after model
	err := db.Update(l.ctx, func(tx *store.Tx) error {
		after = maps.Clone(l.model)
		for _, o := range ops {
			o.run(rt, tx, after)
		}
		after.agree(rt, "within the tx", tx)
		return refused
	})
	if !errors.Is(err, refused) {
		rt.Fatal(err)
	}
	if refused == nil {
		l.model, l.newest = after, db.Snapshot().Rev()
	}
}

// Update runs a transaction on either replica.
func (l *lone) Update(rt *rapid.T) {
	ops := rapid.SliceOfN(genOp, 1, 8).Draw(rt, "ops")
	var refused error
	if rapid.IntRange(0, 9).Draw(rt, "refuse") == 0 {
		refused = errors.New("refused")
	}
	l.commit(rt, l.dbs[rapid.IntRange(0, 1).Draw(rt, "replica")], ops, refused)
}

// Keep keeps a snapshot.
func (l *lone) Keep(*rapid.T) {
	if len(l.olds) < 4 {
		l.olds = append(l.olds, old{maps.Clone(l.model), l.dbs[0].Snapshot()})
	}
}

// LoseAnswer lets the next commit's answer get lost.
func (l *lone) LoseAnswer(rt *rapid.T) {
	applied := rapid.Bool().Draw(rt, "applied")
	l.trouble.OnCommit(once(func(commit func() (store.Rev, bool, error)) (store.Rev, bool, error) {
		if applied {
			_, _, _ = commit()
		}
		return unknown()
	}))
}

// CutWatch lets one replica miss something, perhaps for good.
func (l *lone) CutWatch(rt *rapid.T) {
	release := l.trouble.Hold()
	defer release()
	l.commit(rt, l.dbs[1], []op{genOp.Draw(rt, "op")}, nil)
	if rapid.Bool().Draw(rt, "compact") {
		if err := l.suite.kv.(interface{ Compact(context.Context) error }).Compact(l.ctx); err != nil {
			rt.Fatal(err)
		}
	}
}

// Restart opens a replica again.
func (l *lone) Restart(rt *rapid.T) {
	l.dbs[1].Close()
	l.dbs[1] = l.suite.rapid(rt, l.suite.kv)
}

// An op is one step of a transaction.
type op struct {
	Do      string
	N       uint64
	Project string
}

var genOp = rapid.Custom(func(t *rapid.T) op {
	return op{
		rapid.SampledFrom([]string{"insert", "put", "change", "delete", "get", "peek", "gap"}).Draw(t, "do"),
		rapid.Uint64Range(0, modelKeys-1).Draw(t, "n"),
		rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "project"),
	}
})

// run does an op to the Tx and to the model and compares the outcome.
func (o op) run(rt *rapid.T, tx *store.Tx, m model) {
	key := modelKey(o.N)
	was, there := m[key]
	rec := ip("n", store.Ordered(o.N), o.Project)
	var got *apiv2.IP
	var err error
	want, missing := was, fault.NotFound
	switch o.Do {
	case "gap":
		n, ok := IPs.LowestGap(tx, 0, modelKeys-1, modelKey)
		if !ok {
			return
		}
		key, there, missing = modelKey(n), true, fault.Internal
		rec.Ip, want = store.Ordered(n), ""
		err, m[key] = IPs.Insert(tx, rec), o.Project
	case "insert":
		err, want = IPs.Insert(tx, rec), ""
		if there = !there; there {
			m[key] = o.Project
		}
		missing = fault.Exists
	case "put":
		err, m[key], there, want = IPs.Put(tx, rec), o.Project, true, ""
	case "change":
		got, err = IPs.Change(tx, key, func(r *apiv2.IP) error { r.Project = o.Project; return nil })
		if want = o.Project; there {
			m[key] = o.Project
		}
	case "delete":
		got, err = IPs.Delete(tx, key)
		delete(m, key)
	case "get":
		got, err = IPs.Get(tx, key)
	case "peek":
		var ok bool
		if got, ok = IPs.Peek(tx, key); !ok {
			err = fault.NotFound
		}
	}
	if there == (err != nil) || err != nil && fault.KindOf(err) != missing {
		rt.Fatalf("%+v: error %v, the record is there: %v", o, err, there)
	}
	if err == nil && got.GetProject() != want {
		rt.Fatalf("%+v: got %q, want %q", o, got.GetProject(), want)
	}
}

// A deed is what one rival's transaction saw and did, to be repeated on the
// model in the order of the revisions.
type deed struct {
	id     string
	read   map[string]string // what it got; "" is absent
	scan   map[string]string // what it scanned under a Guard, nil if it did not
	writes map[string]string // "" deletes
	count  int               // what it counted under a Bump, or -1
}

// serial lets rivals in two replicas run transactions at the same time, and
// then finds every one of them consistent with the state left by those of
// lower revisions: the transactions are serializable as far as they guard.
func serial(rt *rapid.T, t *testing.T, s *suite) {
	scripts := rapid.SliceOfN(rapid.SliceOfN(rapid.SliceOfN(genRival, 1, 4), 1, 4), 2, 6).Draw(rt, "rivals")
	dbs := []*store.DB{s.rapid(rt, s.kv), s.rapid(rt, s.kv)}
	start := dbs[0].Snapshot().Rev()
	var mu sync.Mutex
	deeds := map[string]deed{}
	var wg sync.WaitGroup
	for i, txs := range scripts {
		wg.Go(func() {
			for j, ops := range txs {
				var d deed
				err := dbs[i%2].Update(t.Context(), func(tx *store.Tx) error {
					d = deed{id: fmt.Sprintf("%d.%d", i, j), read: map[string]string{}, writes: map[string]string{}, count: -1}
					for _, o := range ops {
						if err := d.run(tx, o); err != nil {
							return err
						}
					}
					return Networks.Insert(tx, &apiv2.Network{Id: d.id})
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				deeds[d.id] = d
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	m := model{}
	n := len(deeds)
	for e, err := range dbs[0].Watch(t.Context(), store.WatchOptions{After: start, Prefixes: []string{"network/"}}) {
		if err != nil {
			rt.Fatal(err)
		}
		deeds[e.Key].repeat(rt, m)
		if n--; n == 0 {
			break
		}
	}
	for _, db := range dbs {
		if err := db.Wait(t.Context(), dbs[0].Snapshot().Rev()); err != nil {
			rt.Fatal(err)
		}
		m.agree(rt, "in the end", db.Snapshot())
	}
}

var genRival = rapid.Custom(func(t *rapid.T) op {
	return op{
		rapid.SampledFrom([]string{"get", "put", "delete", "gap", "scan", "count"}).Draw(t, "do"),
		rapid.Uint64Range(0, 3).Draw(t, "n"),
		rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "project"),
	}
})

func (d *deed) run(tx *store.Tx, o op) error {
	key := modelKey(o.N)
	see := func() {
		if _, mine := d.writes[key]; !mine {
			r, _ := IPs.Get(tx, key)
			d.read[key] = r.GetProject()
		}
	}
	switch o.Do {
	case "get":
		see()
	case "put":
		// Whoever changes how many records there are bumps the count's guard.
		tx.Bump("count")
		d.writes[key] = o.Project
		return IPs.Put(tx, ip("n", store.Ordered(o.N), o.Project))
	case "delete":
		see()
		tx.Bump("count")
		if _, err := IPs.Delete(tx, key); err == nil {
			d.writes[key] = ""
		} else if !errors.Is(err, fault.NotFound) {
			return err
		}
	case "gap":
		n, ok := IPs.LowestGap(tx, 0, modelKeys-1, modelKey)
		if !ok {
			return nil
		}
		tx.Bump("count")
		d.writes[modelKey(n)] = o.Project
		return IPs.Insert(tx, ip("n", store.Ordered(n), o.Project))
	case "scan":
		tx.Guard("ip/n/")
		d.scan = map[string]string{}
		for r := range IPs.Prefix(tx, "n/") {
			if _, mine := d.writes[IPs.Key(r)]; !mine {
				d.scan[IPs.Key(r)] = r.GetProject()
			}
		}
	case "count":
		if len(d.writes) == 0 {
			tx.Bump("count")
			d.count = IPs.Count(tx, "", "")
		}
	}
	return nil
}

// repeat checks that the deed saw the state of the model and does its writes.
func (d deed) repeat(rt *rapid.T, m model) {
	for k, v := range d.read {
		if m[k] != v {
			rt.Fatalf("%s read %s as %q, it was %q", d.id, k, v, m[k])
		}
	}
	if d.scan != nil {
		for k, v := range m {
			// deletes do not matter to a Guard, so there may be more in the scan
			if _, mine := d.writes[k]; !mine && d.scan[k] != v {
				rt.Fatalf("%s scanned %v, there was %v", d.id, d.scan, m)
			}
		}
	}
	if d.count >= 0 && d.count != len(m) {
		rt.Fatalf("%s counted %d, there were %d", d.id, d.count, len(m))
	}
	for k, v := range d.writes {
		if delete(m, k); v != "" {
			m[k] = v
		}
	}
}

package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

func guardOfAbsence(t *testing.T, s *suite) {
	a, b := s.open(t), s.open(t)
	tries := 0
	err := a.Update(t.Context(), func(tx *store.Tx) error {
		if tries++; tries == 1 {
			update(t, b, func(tx *store.Tx) { check(t, IPs.Insert(tx, ip("n", "1", "b"))) })
		}
		return IPs.Insert(tx, ip("n", "1", "a"))
	})
	wantKind(t, err, fault.Exists, "ip n/1")
	r, err := IPs.Get(a.Snapshot(), "n/1")
	check(t, err)
	want(t, "owner", r.GetProject(), "b")
	if tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

// race runs fn in a Tx of one replica while another writes once in between,
// and returns how often fn ran.
func (s *suite) race(t *testing.T, fn, between func(tx *store.Tx)) (tries int) {
	t.Helper()
	a, b := s.open(t), s.open(t)
	update(t, a, func(tx *store.Tx) {
		if a := tx.Attempt(); a != tries {
			t.Errorf("attempt %d, tried %d times before", a, tries)
		}
		fn(tx)
		if tries++; tries == 1 {
			update(t, b, between)
		}
	})
	return tries
}

func guardOfRead(t *testing.T, s *suite) {
	update(t, s.open(t), func(tx *store.Tx) {
		for _, k := range []string{"1", "2"} {
			check(t, IPs.Insert(tx, ip("n", k, "p")))
		}
	})
	get := func(key string) func(tx *store.Tx) {
		return func(tx *store.Tx) {
			_, _ = IPs.Get(tx, key)
			tx.Bump("unrelated")
		}
	}
	touch := func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Name += "."; return nil })
		check(t, err)
	}
	if n := s.race(t, get("n/1"), touch); n != 2 {
		t.Errorf("a change of what was read: %d tries", n)
	}
	if n := s.race(t, get("n/2"), touch); n != 1 {
		t.Errorf("a change of something else: %d tries", n)
	}
	if n := s.race(t, get("n/3"), func(tx *store.Tx) { check(t, IPs.Insert(tx, ip("n", "3", "p"))) }); n != 2 {
		t.Errorf("an insert of what was not found: %d tries", n)
	}
	if n := s.race(t, get("n/3"), func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/3"); check(t, err) }); n != 2 {
		t.Errorf("a delete of what was read: %d tries", n)
	}
}

func relyAndPeek(t *testing.T, s *suite) {
	update(t, s.open(t), func(tx *store.Tx) { check(t, IPs.Insert(tx, ip("n", "1", "p"))) })
	touch := func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Name += "."; return nil })
		check(t, err)
	}
	scan := func(tx *store.Tx) {
		for range IPs.By(tx, "project", "p") {
			IPs.Peek(tx, "n/1")
		}
		tx.Bump("unrelated")
	}
	if n := s.race(t, scan, touch); n != 1 {
		t.Errorf("a scan guards: %d tries", n)
	}
	if n := s.race(t, func(tx *store.Tx) { IPs.Rely(tx, "n/1"); scan(tx) }, touch); n != 2 {
		t.Errorf("Rely does not guard: %d tries", n)
	}
}

func phantom(t *testing.T, s *suite) {
	insert := func(net, addr string) func(tx *store.Tx) {
		return func(tx *store.Tx) { check(t, IPs.Insert(tx, ip(net, addr, "p"))) }
	}
	guard := func(tx *store.Tx) {
		tx.Guard("ip/n/")
		tx.Bump("unrelated")
	}
	if n := s.race(t, guard, insert("n", "1")); n != 2 {
		t.Errorf("an insert: %d tries", n)
	}
	if n := s.race(t, guard, insert("m", "1")); n != 1 {
		t.Errorf("an insert elsewhere: %d tries", n)
	}
	if n := s.race(t, guard, func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Name = "x"; return nil })
		check(t, err)
	}); n != 2 {
		t.Errorf("a change: %d tries", n)
	}
	if n := s.race(t, guard, func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/1"); check(t, err) }); n != 1 {
		t.Errorf("a delete: %d tries", n)
	}
}

func bump(t *testing.T, s *suite) {
	// Two who each may add only while the other has not: without the guard
	// record both would.
	a, b := s.open(t), s.open(t)
	add := func(db *store.DB, addr string, between func()) error {
		return db.Update(t.Context(), func(tx *store.Tx) error {
			tx.Bump("quota/p")
			if IPs.Count(tx, "project", "p") >= 1 {
				return fault.New(fault.Exhausted, "project p", "has its address", "")
			}
			if tx.Attempt() == 0 {
				between()
			}
			return IPs.Insert(tx, ip("n", addr, "p"))
		})
	}
	err := add(a, "1", func() { check(t, add(b, "2", func() {})) })
	wantKind(t, err, fault.Exhausted, "")
	want(t, "added", names(IPs.All(a.Snapshot())), "n/2")
}

func readYourWrites(t *testing.T, s *suite) {
	db := s.open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				key := fmt.Sprintf("%d-%d", i, j)
				if err := db.Update(t.Context(), func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", key, "p")) }); err != nil {
					t.Error(err)
				}
				if _, err := IPs.Get(db.Snapshot(), "n/"+key); err != nil {
					t.Error("after its commit:", err)
				}
			}
		})
	}
	wg.Wait()
}

func restart(t *testing.T, s *suite) {
	db := s.open(t)
	update(t, db, func(tx *store.Tx) {
		check(t, IPs.Insert(tx, ip("n", "1", "p")))
		check(t, Networks.Insert(tx, &apiv2.Network{Id: "n"}))
		tx.Bump("x")
	})
	db.Close()
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", "2", "p")) }); err != nil && fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after Close: %v", err)
	}
	again := OpenKV(t, s.kv, store.Options{Prefix: s.prefix, Tables: []store.AnyTable{IPs}})
	if _, err := IPs.Get(again.Snapshot(), "n/1"); err != nil {
		t.Error(err)
	}
}

func limits(t *testing.T, s *suite) {
	db := s.open(t)
	run := 0
	try := func(guards, writes, size int) error {
		run++
		return db.Update(t.Context(), func(tx *store.Tx) error {
			for i := range guards {
				IPs.Rely(tx, fmt.Sprintf("g/%d", i))
			}
			for i := range writes {
				r := ip("n", fmt.Sprint(i), fmt.Sprint(run))
				r.Name = strings.Repeat("x", size/writes)
				if err := IPs.Put(tx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	check(t, try(0, store.MaxOps-1, 0))
	wantKind(t, try(0, store.MaxOps+1, 0), fault.Invalid, "the limit is 128")
	check(t, try(store.MaxOps-2, 1, 0))
	wantKind(t, try(store.MaxOps, 1, 0), fault.Invalid, "the limit is 128")
	check(t, try(0, 1, store.MaxBytes-3000))
	wantKind(t, try(0, 1, store.MaxBytes), fault.Invalid, "the limit is")
	check(t, try(0, 100, store.MaxBytes-30000))
	wantKind(t, try(0, 100, store.MaxBytes), fault.Invalid, "the limit is")
}

func rivals(t *testing.T, s *suite) {
	// 64 rivals in each of two replicas count one record up.
	dbs := []*store.DB{s.open(t), s.open(t)}
	update(t, dbs[0], func(tx *store.Tx) { check(t, IPs.Insert(tx, ip("n", "1", "p"))) })
	check(t, dbs[1].Wait(t.Context(), dbs[0].Snapshot().Rev()))
	var mu sync.Mutex
	seen := map[int]bool{}
	var wg sync.WaitGroup
	const each = 64
	for i := range 2 * each {
		wg.Go(func() {
			var n int
			err := dbs[i%2].Update(t.Context(), func(tx *store.Tx) error {
				_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error {
					r.Description += "x"
					n = len(r.GetDescription())
					return nil
				})
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[n] {
				t.Errorf("number %d again, or %v", n, err)
			}
			seen[n] = true
		})
	}
	wg.Wait()
	if len(seen) != 2*each || !seen[2*each] {
		t.Error("a count was lost")
	}
}

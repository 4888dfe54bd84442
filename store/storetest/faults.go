package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// once makes a hook that works on the first commit after it only.
func once(h CommitHook) CommitHook {
	var o sync.Once
	return func(commit func() (store.Rev, bool, error)) (rev store.Rev, ok bool, err error) {
		first := false
		o.Do(func() { first = true })
		if first {
			return h(commit)
		}
		return commit()
	}
}

func unknown() (store.Rev, bool, error) {
	return 0, false, fmt.Errorf("%w: broken wire", store.ErrUnknown)
}

// count counts a record up in one Update.
func count(ctx context.Context, db *store.DB, opts ...store.UpdateOption) (n int, err error) {
	err = db.Update(ctx, func(tx *store.Tx) error {
		r, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Description += "x"; return nil })
		n = len(r.GetDescription())
		return err
	}, opts...)
	return n, err
}

func lostAnswer(t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	db := s.with(t, x, store.Options{})
	insert(t, db, ip("n", "1", "p"))
	for i, c := range []struct {
		name string
		hook CommitHook
	}{
		{"after it was applied", func(commit func() (store.Rev, bool, error)) (store.Rev, bool, error) {
			if _, ok, err := commit(); !ok || err != nil {
				t.Error(ok, err)
			}
			return unknown()
		}},
		{"before it was applied", func(func() (store.Rev, bool, error)) (store.Rev, bool, error) { return unknown() }},
	} {
		x.OnCommit(once(c.hook))
		n, err := count(t.Context(), db)
		if err != nil || n != i+1 {
			t.Errorf("the answer got lost %s: counted to %d, %v", c.name, n, err)
		}
	}
	// A transaction that only deletes has no value to tell it by.
	x.OnCommit(once(func(commit func() (store.Rev, bool, error)) (store.Rev, bool, error) {
		_, _, _ = commit()
		return unknown()
	}))
	update(t, db, func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/1"); check(t, err) })
	if n := db.Stats().Unknown; n != 3 {
		t.Errorf("%d unknown outcomes", n)
	}
	x.OnCommit(once(func(func() (store.Rev, bool, error)) (store.Rev, bool, error) {
		return 0, false, errors.New("refused")
	}))
	err := db.Update(t.Context(), func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", "2", "p")) })
	wantKind(t, err, fault.Unavailable, "refused")
	want(t, "left", names(IPs.All(db.Snapshot())), "")
}

func lateCommit(t *testing.T, s *suite) {
	// An insert gets stuck on its way. The store gives it up, tries again and
	// succeeds; the record is deleted; then the first insert arrives. All it
	// had asked for is true again, yet it must not happen.
	x := NewTrouble(s.kv)
	db := s.with(t, x, store.Options{})
	var late func() (store.Rev, bool, error)
	x.OnCommit(once(func(commit func() (store.Rev, bool, error)) (store.Rev, bool, error) {
		late = commit
		return unknown()
	}))
	insert(t, db, ip("n", "1", "p"))
	update(t, db, func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/1"); check(t, err) })
	if _, ok, err := late(); ok || err != nil {
		t.Errorf("the late commit: %v %v", ok, err)
	}
	insert(t, db, ip("n", "2", "p"))
	want(t, "left", names(IPs.All(db.Snapshot())), "n/2")
}

func noAnswer(t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	db := s.with(t, x, store.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	x.OnCommit(func(func() (store.Rev, bool, error)) (store.Rev, bool, error) {
		cancel()
		return unknown()
	})
	err := db.Update(ctx, func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", "1", "p")) })
	wantKind(t, err, fault.Unavailable, "look whether the change has happened")
	if !errors.Is(err, store.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

func sameName(t *testing.T, s *suite) {
	elder := s.with(t, s.kv, store.Options{Name: "twin"})
	insert(t, elder, ip("n", "1", "p"))
	younger := s.with(t, s.kv, store.Options{Name: "twin"})
	insert(t, younger, ip("n", "2", "p"))
	err := elder.Update(t.Context(), func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", "3", "p")) })
	wantKind(t, err, fault.Unavailable, "under the name twin")
}

func stale(t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	db := s.with(t, x, store.Options{StaleAfter: 300 * time.Millisecond})
	insert(t, db, ip("n", "1", "p"))
	x.FailReads(errors.New("cut off"))
	eventually(t, "growing stale", db.Stale)
	err := db.Update(t.Context(), func(tx *store.Tx) error { return IPs.Insert(tx, ip("n", "2", "p")) })
	wantKind(t, err, fault.Unavailable, "has not heard from etcd")
	x.FailReads(nil)
	eventually(t, "growing fresh", func() bool { return !db.Stale() })
	insert(t, db, ip("n", "2", "p"))

	// An etcd that answers is not enough: the cache must follow.
	release := x.Hold()
	defer release()
	insert(t, s.open(t), ip("n", "3", "p"))
	eventually(t, "growing stale without a watch", db.Stale)
	release()
	eventually(t, "growing fresh again", func() bool { return !db.Stale() })
}

func queue(t *testing.T, s *suite) {
	const n = 128
	for _, c := range []struct {
		name string
		opts []store.UpdateOption
		most int64 // conflicts
	}{
		{"named", []store.UpdateOption{store.Hot("n/1")}, 0},
		{"learned", nil, n},
	} {
		db := s.with(t, s.kv, store.Options{})
		update(t, db, func(tx *store.Tx) { check(t, IPs.Put(tx, ip("n", "1", c.name))) })
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if _, err := count(t.Context(), db, c.opts...); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		r, _ := IPs.Peek(db.Snapshot(), "n/1")
		if got := len(r.GetDescription()); got != n {
			t.Errorf("%s: counted to %d", c.name, got)
		}
		if st := db.Stats(); st.Conflicts > c.most {
			t.Errorf("%s: %d conflicts", c.name, st.Conflicts)
		}
	}
}

func lead(t *testing.T, s *suite) {
	a := s.with(t, s.kv, store.Options{Name: "a", LeaseTTL: time.Second})
	b := s.with(t, s.kv, store.Options{Name: "b", LeaseTTL: time.Second})
	step := make(chan store.Leader)
	ctx, stopA := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := a.Lead(ctx, "loop", func(ctx context.Context, l store.Leader) error {
			step <- l
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a led until %v", err)
		}
	})
	la := <-step
	if who, _ := store.LeaderOf(a.Snapshot(), "loop"); who != "a" {
		t.Errorf("%q leads", who)
	}
	enough := errors.New("enough")
	wg.Go(func() {
		err := b.Lead(t.Context(), "loop", func(_ context.Context, l store.Leader) error {
			step <- l
			<-step
			return enough
		})
		if !errors.Is(err, enough) {
			t.Errorf("b led until %v", err)
		}
	})
	write := func(db *store.DB, l store.Leader) error {
		return db.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.RequireLeader(l); err != nil {
				return err
			}
			return IPs.Put(tx, ip("n", "1", fmt.Sprint(tx.Rev())))
		})
	}
	check(t, write(a, la))
	select {
	case <-step:
		t.Fatal("two lead")
	case <-time.After(50 * time.Millisecond):
	}
	stopA()
	lb := <-step
	wantKind(t, write(a, la), fault.Precondition, "leader of loop")
	check(t, write(b, lb))
	step <- lb
	wg.Wait()
	eventually(t, "giving up the lead", func() bool {
		_, led := store.LeaderOf(b.Snapshot(), "loop")
		return !led
	})
}

func leadLost(t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	a := s.with(t, x, store.Options{Name: "a", LeaseTTL: time.Second})
	leads := make(chan store.Leader, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = a.Lead(ctx, "loop", func(ctx context.Context, l store.Leader) error {
			leads <- l
			<-ctx.Done()
			return nil
		})
	})
	first := <-leads
	x.FailLeases(errors.New("cut off"))
	eventually(t, "losing the lead", func() bool {
		_, led := store.LeaderOf(a.Snapshot(), "loop")
		return !led
	})
	err := a.Update(ctx, func(tx *store.Tx) error {
		if err := tx.RequireLeader(first); err != nil {
			return err
		}
		return IPs.Insert(tx, ip("n", "1", "p"))
	})
	wantKind(t, err, fault.Precondition, "leader of loop")
	x.FailLeases(nil)
	if second := <-leads; second == first {
		t.Error("the same lead twice")
	}
	cancel()
	wg.Wait()
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

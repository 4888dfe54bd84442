package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

func insert(t testing.TB, db *store.DB, recs ...*apiv2.IP) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		for _, r := range recs {
			if err := IPs.Insert(tx, r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// line writes an event so that it can be compared: "+ip/key=project" or "-",
// and a full stop if it is the last of its revision.
func line(e store.Event) string {
	var b strings.Builder
	switch {
	case e.Table == "":
		return "bookmark"
	case e.Deleted:
		b.WriteString("-")
	case e.Old == nil:
		b.WriteString("+")
	default:
		b.WriteString("~")
	}
	fmt.Fprintf(&b, "%s/%s", e.Table, e.Key)
	if e.Table == "ip" {
		for i, v := range [][]byte{e.Old, e.Value} {
			r, err := IPs.Decode(v)
			if err != nil {
				return err.Error()
			}
			b.WriteString([]string{":", ">"}[i] + r.GetProject())
		}
	}
	if e.Last {
		b.WriteString(".")
	}
	return b.String()
}

// watch collects n events.
func watch(t *testing.T, db *store.DB, o store.WatchOptions, n int) (lines string, revs []store.Rev) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []string
	for e, err := range db.Watch(ctx, o) {
		check(t, err)
		if now := db.Snapshot().Rev(); now < e.Rev {
			t.Errorf("event of revision %d, snapshot of %d", e.Rev, now)
		}
		out, revs = append(out, line(e)), append(revs, e.Rev)
		if len(out) == n {
			break
		}
	}
	return strings.Join(out, " "), revs
}

func watchEvents(t *testing.T, s *suite) {
	db := s.open(t)
	start := db.Snapshot().Rev()
	insert(t, db, ip("n", "1", "a"), ip("n", "2", "a"), ip("m", "1", "b"))
	update(t, db, func(tx *store.Tx) { tx.Bump("not shown") })
	update(t, db, func(tx *store.Tx) { check(t, Networks.Insert(tx, &apiv2.Network{Id: "n"})) })
	update(t, db, func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Project = "c"; return nil })
		check(t, err)
		_, err = IPs.Delete(tx, "n/2")
		check(t, err)
	})
	all := []string{"+ip/m/1:>b", "+ip/n/1:>a", "+ip/n/2:>a.", "+network/n.", "~ip/n/1:a>c", "-ip/n/2:a>."}
	got, revs := watch(t, db, store.WatchOptions{After: start}, len(all))
	want(t, "all", got, strings.Join(all, " "))
	for i := range all {
		if i+1 < len(all) && revs[i] != revs[i+1] {
			got, _ := watch(t, db, store.WatchOptions{After: revs[i]}, len(all)-i-1)
			want(t, "resumed after "+all[i], got, strings.Join(all[i+1:], " "))
		}
	}
	got, _ = watch(t, db, store.WatchOptions{After: start, Prefixes: []string{"ip/m/", "ip/n/1", "network/"}}, 4)
	want(t, "some", got, "+ip/m/1:>b +ip/n/1:>a. +network/n. ~ip/n/1:a>c.")

	// live, of another replica's doing, while it happens
	other := s.open(t)
	after := db.Snapshot().Rev()
	done := make(chan string)
	go func() {
		got, _ := watch(t, db, store.WatchOptions{After: after, Prefixes: []string{"ip/x/"}}, 100)
		done <- got
	}()
	var live []string
	for i := range 50 {
		insert(t, other, ip("x", fmt.Sprint(i), "p"), ip("x", fmt.Sprint(i)+"'", "q"), ip("y", fmt.Sprint(i), "p"))
		live = append(live, fmt.Sprintf("+ip/x/%d:>p +ip/x/%d':>q.", i, i))
	}
	want(t, "live", <-done, strings.Join(live, " "))
}

func watchBookmark(t *testing.T, s *suite) {
	db := s.open(t)
	o := store.WatchOptions{After: db.Snapshot().Rev(), Prefixes: []string{"ip/n/"}, Idle: time.Millisecond}
	insert(t, db, ip("m", "1", "p"))
	got, revs := watch(t, db, o, 1)
	want(t, "idle", got, "bookmark")
	if now := db.Snapshot().Rev(); revs[0] != now {
		t.Errorf("the bookmark is of revision %d, now is %d", revs[0], now)
	}
}

func watchSlow(t *testing.T, s *suite) {
	db := s.with(t, s.kv, store.Options{History: 4})
	start := db.Snapshot().Rev()
	fill := func(net string) {
		for i := range 10 {
			insert(t, db, ip(net, fmt.Sprint(i), "p"))
		}
	}
	// A consumer that stops reading is told what it has missed...
	var last error
	for e, err := range db.Watch(t.Context(), store.WatchOptions{Idle: time.Millisecond}) {
		if last = err; e.Rev == start {
			fill("a")
		}
	}
	wantKind(t, last, fault.Conflict, "list again")
	// ...as is one that comes back too late.
	for _, err := range db.Watch(t.Context(), store.WatchOptions{After: start}) {
		wantKind(t, err, fault.Conflict, "list again")
	}
	// What a consumer has no interest in does not push it out.
	for e, err := range db.Watch(t.Context(), store.WatchOptions{Prefixes: []string{"ip/c/"}, Idle: time.Millisecond}) {
		check(t, err)
		if e.Table != "" {
			want(t, "after a flood of others", line(e), "+ip/c/1:>p.")
			break
		}
		if IPs.Count(db.Snapshot(), "", "") == 10 {
			fill("b")
			insert(t, db, ip("c", "1", "p"))
		}
	}
}

func watchEnds(t *testing.T, s *suite) {
	db := s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range db.Watch(ctx, store.WatchOptions{Idle: time.Millisecond}) {
		check(t, err)
		cancel()
	}
	var last error
	for e, err := range db.Watch(t.Context(), store.WatchOptions{Idle: time.Millisecond}) {
		if last = err; e.Rev != 0 {
			go db.Close()
		}
	}
	wantKind(t, last, fault.Unavailable, "is closed")
}

func lostWatch(t *testing.T, s *suite) {
	x := NewTrouble(s.kv)
	db, other := s.with(t, x, store.Options{}), s.open(t)
	insert(t, db, ip("n", "1", "a"), ip("n", "2", "a"), ip("n", "3", "a"))
	check(t, other.Wait(t.Context(), db.Snapshot().Rev()))
	after := db.Snapshot().Rev()

	// A watch that is cut goes on where it was.
	release := x.Hold()
	insert(t, other, ip("n", "4", "b"))
	insert(t, other, ip("n", "5", "b"))
	release()
	got, _ := watch(t, db, store.WatchOptions{After: after}, 2)
	want(t, "after a cut", got, "+ip/n/4:>b. +ip/n/5:>b.")
	if n := db.Stats().Reloads; n != 0 {
		t.Errorf("%d reloads", n)
	}

	// If what it missed is compacted, everything is read again and compared.
	after = db.Snapshot().Rev()
	release = x.Hold()
	defer release()
	update(t, other, func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/1", func(r *apiv2.IP) error { r.Project = "c"; return nil })
		check(t, err)
	})
	update(t, other, func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/2"); check(t, err) })
	insert(t, other, ip("n", "6", "d"))
	insert(t, other, ip("n", "7", "d"))
	update(t, other, func(tx *store.Tx) { _, err := IPs.Delete(tx, "n/7"); check(t, err) })
	check(t, s.kv.(interface{ Compact(context.Context) error }).Compact(t.Context()))
	insert(t, other, ip("n", "8", "d"))
	if now := db.Snapshot().Rev(); now != after {
		t.Fatalf("the held cache moved to %d", now)
	}
	release()
	check(t, db.Wait(t.Context(), other.Snapshot().Rev()))
	got, _ = watch(t, db, store.WatchOptions{After: after}, 4)
	want(t, "the difference", got, "-ip/n/2:a> ~ip/n/1:a>c +ip/n/6:>d +ip/n/8:>d.")
	want(t, "all", names(IPs.All(db.Snapshot())), "n/1 n/3 n/4 n/5 n/6 n/8")
	want(t, "the index", names(IPs.By(db.Snapshot(), "project", "a")), "n/3")
	if n := db.Stats().Reloads; n != 1 {
		t.Errorf("%d reloads", n)
	}
	insert(t, db, ip("n", "9", "d"))
}

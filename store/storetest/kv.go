package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ingot-cloud/ingot/store"
)

func kvCommit(t *testing.T, s *suite) {
	ctx, k := t.Context(), s.prefix+"k"
	put := func(v string) []store.Write { return []store.Write{{Key: k, Value: []byte(v)}} }
	rev, ok, err := s.kv.Commit(ctx, []store.Cond{{Key: k}}, put("1"))
	if err != nil || !ok || rev == 0 {
		t.Fatal("a commit on absence:", rev, ok, err)
	}
	if at, ok, err := s.kv.Commit(ctx, []store.Cond{{Key: k}}, put("2")); ok || err != nil || at < rev {
		t.Fatal("the key is there:", at, ok, err)
	}
	rev2, ok, err := s.kv.Commit(ctx, []store.Cond{{Key: k, Mod: rev}}, append(put("2"), store.Write{Key: k + "2", Value: []byte{}}))
	if err != nil || !ok || rev2 <= rev {
		t.Fatal("a commit on a revision:", rev2, ok, err)
	}
	got, at, err := s.kv.Range(ctx, s.prefix)
	check(t, err)
	if len(got) != 2 || got[0].Key != k || string(got[0].Value) != "2" || got[1].Mod != rev2 || at != rev2 {
		t.Fatalf("got %+v at %d", got, at)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := s.kv.Commit(cancelled, nil, put("3")); err == nil {
		t.Fatal("a commit without time succeeded")
	}
}

func kvRangeGuard(t *testing.T, s *suite) {
	ctx := t.Context()
	commit := func(c store.Cond, w ...store.Write) (store.Rev, bool) {
		rev, ok, err := s.kv.Commit(ctx, []store.Cond{c}, w)
		check(t, err)
		return rev, ok
	}
	w := func(k string) store.Write { return store.Write{Key: s.prefix + k, Value: []byte("x")} }
	rev, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true}, w("a/1"), w("a/2"), w("b/1"))
	if !ok {
		t.Fatal("an empty range failed")
	}
	if _, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true, Mod: rev - 1}, w("no")); ok {
		t.Fatal("inserts went unnoticed")
	}
	if _, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true, Mod: rev}, store.Write{Key: s.prefix + "a/1"}); !ok {
		t.Fatal("nothing had changed")
	}
	if _, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true, Mod: rev}, w("b/2")); !ok {
		t.Fatal("a delete counted")
	}
	if _, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true, Mod: rev}, w("a/2")); !ok {
		t.Fatal("a change elsewhere counted")
	}
	if _, ok := commit(store.Cond{Key: s.prefix + "a/", Prefix: true, Mod: rev}, w("no")); ok {
		t.Fatal("a change went unnoticed")
	}
}

func kvWatch(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var revs []store.Rev
	write := func(n int) {
		var ws []store.Write
		for i := range n {
			ws = append(ws, store.Write{Key: fmt.Sprintf("%s%d", s.prefix, i), Value: []byte{byte(n)}})
		}
		rev, ok, err := s.kv.Commit(ctx, nil, ws)
		if err != nil || !ok {
			t.Fatal(err)
		}
		revs = append(revs, rev)
	}
	for n := range 20 {
		write(n + 1)
	}
	for _, from := range []int{0, 7, 19} {
		next := from + 1
		if next == 20 {
			write(21) // arrives live
		}
		for b, err := range s.kv.Watch(ctx, s.prefix, revs[from]) {
			check(t, err)
			if len(b.Entries) == 0 {
				continue
			}
			if b.Rev != revs[next] || len(b.Entries) != next+1 {
				t.Fatalf("got %d entries at %d, want %d at %d", len(b.Entries), b.Rev, next+1, revs[next])
			}
			for i, e := range b.Entries {
				if e.Mod != b.Rev || e.Key != fmt.Sprintf("%s%d", s.prefix, i) {
					t.Fatalf("entry %d is %+v", i, e)
				}
			}
			if next++; next == len(revs) {
				break
			}
		}
	}
	if c, ok := s.kv.(interface{ Compact(context.Context) error }); ok {
		check(t, c.Compact(ctx))
		for _, err := range s.kv.Watch(ctx, s.prefix, revs[0]) {
			if !errors.Is(err, store.ErrCompacted) {
				t.Fatalf("got %v", err)
			}
			break
		}
	} else {
		t.Fatalf("%T cannot be compacted", s.kv)
	}
}

package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// IPs is the table the suite works on.
var IPs = store.NewTable(store.Table[*apiv2.IP]{
	Name: "ip",
	Key:  func(ip *apiv2.IP) string { return ip.GetNetwork() + "/" + ip.GetIp() },
	Indexes: map[string]func(*apiv2.IP) []string{
		"project": func(ip *apiv2.IP) []string { return []string{ip.GetProject()} },
		"word":    func(ip *apiv2.IP) []string { return strings.Fields(ip.GetDescription()) },
	},
})

// Networks is a table without indexes.
var Networks = store.NewTable(store.Table[*apiv2.Network]{
	Name: "network",
	Key:  func(n *apiv2.Network) string { return n.GetId() },
})

// A suite is one KV and the prefix of the test that runs.
type suite struct {
	kv     store.KV
	prefix string
}

// Run checks that the KV which open returns, together with the store over it,
// keeps every promise of package store. open is called once per subtest and
// may return the same KV again.
func Run(t *testing.T, open func(t *testing.T) store.KV) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"KV/Commit", kvCommit},
		{"KV/RangeGuard", kvRangeGuard},
		{"KV/Watch", kvWatch},
		{"CRUD", crud},
		{"Indexes", indexes},
		{"ScansDuringWrites", scansDuringWrites},
		{"LowestGap", lowestGap},
		{"GuardOfAbsence", guardOfAbsence},
		{"GuardOfRead", guardOfRead},
		{"RelyAndPeek", relyAndPeek},
		{"Phantom", phantom},
		{"Bump", bump},
		{"ReadYourWrites", readYourWrites},
		{"Restart", restart},
		{"Limits", limits},
		{"Rivals", rivals},
		{"Queue", queue},
		{"Watch", watchEvents},
		{"WatchBookmark", watchBookmark},
		{"WatchSlow", watchSlow},
		{"WatchEnds", watchEnds},
		{"LostWatch", lostWatch},
		{"LostAnswer", lostAnswer},
		{"LateCommit", lateCommit},
		{"NoAnswer", noAnswer},
		{"SameName", sameName},
		{"Stale", stale},
		{"Lead", lead},
		{"LeadLost", leadLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, &suite{open(t), "test/" + t.Name() + "/"})
		})
	}
}

func (s *suite) open(t testing.TB) *store.DB {
	t.Helper()
	return s.with(t, s.kv, store.Options{})
}

// with opens a DB over kv, which may be a Trouble over the suite's.
func (s *suite) with(t testing.TB, kv store.KV, opt store.Options) *store.DB {
	t.Helper()
	opt.Prefix, opt.Tables = s.prefix, []store.AnyTable{IPs, Networks}
	return OpenKV(t, kv, opt)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Fatalf("got error %v of kind %v, want %v with %q", err, fault.KindOf(err), kind, text)
	}
}

func update(t *testing.T, db *store.DB, fn func(tx *store.Tx)) {
	t.Helper()
	check(t, db.Update(t.Context(), func(tx *store.Tx) error {
		fn(tx)
		return nil
	}))
}

func ip(network, addr, project string) *apiv2.IP {
	return &apiv2.IP{Network: network, Ip: addr, Project: project}
}

func names(seq func(func(*apiv2.IP) bool)) string {
	var out []string
	for r := range seq {
		out = append(out, IPs.Key(r))
	}
	return strings.Join(out, " ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func crud(t *testing.T, s *suite) {
	db := s.open(t)
	update(t, db, func(tx *store.Tx) {
		check(t, IPs.Insert(tx, ip("n", "10.0.0.1", "p")))
		wantKind(t, IPs.Insert(tx, ip("n", "10.0.0.1", "q")), fault.Exists, "ip n/10.0.0.1: exists already")
		_, err := IPs.Get(tx, "n/10.0.0.2")
		wantKind(t, err, fault.NotFound, "ip n/10.0.0.2: not found")
	})
	before := db.Snapshot()
	update(t, db, func(tx *store.Tx) {
		got, err := IPs.Change(tx, "n/10.0.0.1", func(r *apiv2.IP) error { r.Name = "x"; return nil })
		check(t, err)
		want(t, "changed", got.GetName(), "x")
		got.Name = "the caller's own"
		got, err = IPs.Get(tx, "n/10.0.0.1")
		check(t, err)
		want(t, "seen by the tx", got.GetName(), "x")
		check(t, IPs.Put(tx, ip("n", "10.0.0.2", "p")))
	})
	if n := IPs.Count(before, "", ""); n != 1 {
		t.Errorf("the old snapshot has %d records", n)
	}
	if r, _ := IPs.Peek(before, "n/10.0.0.1"); r.GetName() != "" {
		t.Errorf("the old snapshot shows %v", r)
	}
	rev := db.Snapshot().Rev()
	update(t, db, func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/10.0.0.1", func(*apiv2.IP) error { return nil })
		check(t, err)
	})
	if now := db.Snapshot().Rev(); now != rev {
		t.Errorf("a change of nothing made revision %d from %d", now, rev)
	}
	update(t, db, func(tx *store.Tx) {
		old, err := IPs.Delete(tx, "n/10.0.0.1")
		check(t, err)
		want(t, "deleted", old.GetName(), "x")
		_, err = IPs.Delete(tx, "n/10.0.0.1")
		wantKind(t, err, fault.NotFound, "")
		check(t, IPs.Insert(tx, ip("n", "10.0.0.3", "p")))
		_, err = IPs.Delete(tx, "n/10.0.0.3")
		check(t, err)
	})
	want(t, "left", names(IPs.All(db.Snapshot())), "n/10.0.0.2")

	refused := errors.New("no")
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		check(t, IPs.Insert(tx, ip("n", "10.0.0.4", "p")))
		return refused
	}); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	want(t, "after a refusal", names(IPs.All(db.Snapshot())), "n/10.0.0.2")
	wantKind(t, db.Update(t.Context(), func(tx *store.Tx) error { return Networks.Insert(tx, &apiv2.Network{}) }), fault.Invalid, "cannot be a key")
}

func indexes(t *testing.T, s *suite) {
	db := s.open(t)
	update(t, db, func(tx *store.Tx) {
		for i := range 9 {
			r := ip("n", fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("p%d", i%3))
			r.Description = []string{"red", "red blue", "", "blue\x00 blue\x00"}[i%4]
			check(t, IPs.Insert(tx, r))
		}
		want(t, "within the tx", names(IPs.By(tx, "project", "p1")), "n/10.0.0.1 n/10.0.0.4 n/10.0.0.7")
	})
	look := func(r store.Reader, index, value, keys string) {
		t.Helper()
		want(t, index+"="+value, names(IPs.By(r, index, value)), keys)
		if n := IPs.Count(r, index, value); n != len(strings.Fields(keys)) {
			t.Errorf("%s=%s: counted %d", index, value, n)
		}
	}
	look(db.Snapshot(), "project", "p1", "n/10.0.0.1 n/10.0.0.4 n/10.0.0.7")
	look(db.Snapshot(), "project", "p", "")
	look(db.Snapshot(), "project", "", "")
	look(db.Snapshot(), "word", "red", "n/10.0.0.0 n/10.0.0.1 n/10.0.0.4 n/10.0.0.5 n/10.0.0.8")
	look(db.Snapshot(), "word", "blue", "n/10.0.0.1 n/10.0.0.5")
	look(db.Snapshot(), "word", "blue\x00", "n/10.0.0.3 n/10.0.0.7")
	update(t, db, func(tx *store.Tx) {
		_, err := IPs.Change(tx, "n/10.0.0.1", func(r *apiv2.IP) error { r.Project, r.Description = "p2", "blue"; return nil })
		check(t, err)
		_, err = IPs.Delete(tx, "n/10.0.0.7")
		check(t, err)
		look(tx, "project", "p1", "n/10.0.0.4")
	})
	for _, r := range []store.Reader{db.Snapshot(), s.open(t).Snapshot()} {
		look(r, "project", "p1", "n/10.0.0.4")
		look(r, "project", "p2", "n/10.0.0.1 n/10.0.0.2 n/10.0.0.5 n/10.0.0.8")
		look(r, "word", "blue", "n/10.0.0.1 n/10.0.0.5")
		look(r, "word", "blue\x00", "n/10.0.0.3")
		want(t, "prefix", names(IPs.Prefix(r, "n/10.0.0.8")), "n/10.0.0.8")
	}
}

func scansDuringWrites(t *testing.T, s *suite) {
	db := s.open(t)
	update(t, db, func(tx *store.Tx) {
		for i := range 100 {
			check(t, IPs.Insert(tx, ip("n", store.Ordered(uint64(i)), "p")))
		}
	})
	update(t, db, func(tx *store.Tx) {
		seen := 1
		_, err := IPs.Delete(tx, "n/"+store.Ordered(50)) // from here on the tx has a table of its own
		check(t, err)
		check(t, IPs.Insert(tx, ip("n", store.Ordered(100), "q")))
		for r := range IPs.By(tx, "project", "p") {
			seen++
			_, err := IPs.Change(tx, IPs.Key(r), func(r *apiv2.IP) error { r.Project = "q"; return nil })
			check(t, err)
		}
		if n := IPs.Count(tx, "project", "q"); seen != 100 || n != 100 {
			t.Errorf("saw %d, moved %d", seen, n)
		}
	})
	if n := IPs.Count(db.Snapshot(), "project", "q"); n != 100 {
		t.Errorf("%d moved", n)
	}
}

func lowestGap(t *testing.T, s *suite) {
	db := s.open(t)
	key := func(n uint64) string { return "n/" + store.Ordered(n) }
	gap := func(r store.Reader, lo, hi uint64) string {
		n, ok := IPs.LowestGap(r, lo, hi, key)
		return fmt.Sprint(n, ok)
	}
	want(t, "empty", gap(db.Snapshot(), 5, 9), "5 true")
	update(t, db, func(tx *store.Tx) {
		for _, net := range []string{"m", "n", "o"} {
			for _, n := range []uint64{0, 1, 2, 3, 5, 6, 9, 1 << 63, 1<<64 - 1} {
				check(t, IPs.Insert(tx, ip(net, store.Ordered(n), "p")))
			}
		}
		want(t, "in the tx", gap(tx, 0, 9), "4 true")
		check(t, IPs.Insert(tx, ip("n", store.Ordered(4), "p")))
		want(t, "after its write", gap(tx, 0, 9), "7 true")
	})
	r := db.Snapshot()
	for _, c := range []struct {
		lo, hi uint64
		want   string
	}{
		{0, 9, "7 true"}, {0, 6, "0 false"}, {0, 7, "7 true"}, {3, 6, "0 false"}, {8, 9, "8 true"}, {9, 9, "0 false"}, {9, 8, "0 false"},
		{9, 10, "10 true"}, {10, 1<<64 - 1, "10 true"}, {1 << 63, 1<<64 - 1, "9223372036854775809 true"}, {1<<64 - 1, 1<<64 - 1, "0 false"}, {0, 1<<64 - 1, "7 true"},
	} {
		want(t, fmt.Sprint(c.lo, "..", c.hi), gap(r, c.lo, c.hi), c.want)
	}
}

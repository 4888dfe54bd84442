package loop_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/loop"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

func keysOf(e store.Event) iter.Seq[string] { return slices.Values([]string{e.Key}) }

// TestRun steps every key at the start, those that change, and again those that
// fail or ask for it.
func TestRun(t *testing.T) {
	db := storetest.Open(t, records.Tables()...)
	put := func(key string) {
		change(t, db, func(tx *store.Tx) error {
			return records.Boots.Put(tx, &privatev1.Boot{Uuid: key, BootId: tx.Now().String() + key, Port: time.Now().String()})
		})
	}
	put("old")
	steps := make(chan string, 64)
	tries := map[string]int{}
	l := loop.Loop{
		Name: "test", Inputs: []string{"boot"}, Every: time.Hour,
		Concerns: func(_ store.Reader, e store.Event) iter.Seq[string] { return keysOf(e) },
		All:      func(store.Reader) iter.Seq[string] { return slices.Values([]string{"old"}) },
		Step: func(ctx context.Context, lead loop.Lead, key string) (time.Duration, error) {
			steps <- key
			tries[key]++
			if key == "bad" && tries[key] < 3 {
				return 0, errors.New("not yet")
			}
			if key == "again" && tries[key] < 3 {
				return time.Millisecond, nil
			}
			return 0, db.Update(ctx, func(tx *store.Tx) error { return lead(tx) })
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx, db, slog.New(slog.DiscardHandler), l) }()
	want := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			select {
			case got := <-steps:
				if got != key {
					t.Errorf("step of %q, want %q", got, key)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no step of %q", key)
			}
		}
	}
	want("old")
	put("new")
	want("new")
	put("bad")
	want("bad", "bad", "bad")
	put("again")
	want("again", "again", "again")
	cancel()
	check(t, <-ended)
	if n := len(steps); n != 0 {
		t.Errorf("%d more steps", n)
	}
}

// TestMachinesConcerns checks that a change is a reason to step the machine it
// is about.
func TestMachinesConcerns(t *testing.T) {
	db := leafStore(t)
	change(t, db, func(tx *store.Tx) error {
		check(t, records.Reclaims.Insert(tx, &privatev1.Reclaim{Machine: "m7"}))
		return records.Sightings.Insert(tx, &privatev1.Sightings{Key: "part/r1", Seen: map[string]*timestamppb.Timestamp{"m8": timestamppb.Now()}})
	})
	l := loop.Machines(db, func() string { return "id" })
	for table, c := range map[string]struct{ key, want string }{
		"machine":        {"m1", "m1"},
		"machine-bmc":    {"m1", "m1"},
		"operation":      {"m1", "m1"},
		"reclaim":        {"m1", "m1"},
		"leafport":       {records.PortKey("leaf1", "swp1"), "m1"},
		"leafgeneration": {"leaf1", "m7"},
		"sighting":       {"part/r1", "m8"},
	} {
		if !slices.Contains(l.Inputs, table) {
			t.Errorf("%s is no input", table)
		}
		if got := slices.Collect(l.Concerns(db.Snapshot(), store.Event{Table: table, Key: c.key})); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s %s concerns %v, want %s", table, c.key, got, c.want)
		}
	}
	for _, table := range l.Inputs {
		if n := len(slices.Collect(l.Concerns(db.Snapshot(), store.Event{Table: table, Key: "nothing"}))); table != "leafgeneration" && n > 1 {
			t.Errorf("a change in %s concerns %d machines", table, n)
		}
	}
}

// TestMachinesStep orders the boot medium for a new machine, once.
func TestMachinesStep(t *testing.T) {
	db := storetest.Open(t, records.Tables()...)
	change(t, db, func(tx *store.Tx) error {
		check(t, records.Machines.Insert(tx, &privatev1.Machine{Uuid: "m1", Partition: "part", Phase: ingotv1.MachinePhase_MACHINE_PHASE_DISCOVERED}))
		return records.MachineBMCs.Insert(tx, &privatev1.MachineBMC{Uuid: "m1", Partition: "part", Bmc: "b1"})
	})
	ids := 0
	l := loop.Machines(db, func() string { ids++; return "x" + string(rune('0'+ids)) })
	for step, again := range []bool{true, false, false} {
		after, err := l.Step(t.Context(), loop.Unled, "m1")
		check(t, err)
		o, _ := records.Operations.Peek(db.Snapshot(), "m1")
		if (after > 0) != again || o.GetOperation().GetId() != "x1" {
			t.Errorf("step %d: again after %s, operation %v", step, after, o)
		}
	}
	// Who no longer leads changes nothing.
	change(t, db, func(tx *store.Tx) error { _, err := records.Operations.Delete(tx, "m1"); return err })
	lost := errors.New("lost")
	if _, err := l.Step(t.Context(), func(*store.Tx) error { return lost }, "m1"); !errors.Is(err, lost) {
		t.Errorf("%v", err)
	}
	if n := records.Operations.Count(db.Snapshot(), "", ""); n != 0 {
		t.Errorf("%d operations ordered without the lead", n)
	}
}

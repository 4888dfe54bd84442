package machine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// wipe is what the agent reports of a disk of inventory that it has just wiped.
func wipe(uuid, bootID, serial string, at time.Time) *ingotv1.Wipe {
	w := &ingotv1.Wipe{
		Uuid: uuid, BootId: bootID, Partition: "p1",
		Result: ingotv1.WipeResult_WIPE_RESULT_DONE, Method: ingotv1.WipeMethod_WIPE_METHOD_DISCARD,
		Check: &ingotv1.WipeCheck{Samples: 64, SampleBytes: 8192, EdgeBytes: 1 << 20, Zeroes: true},
		Start: timestamppb.New(at.Add(-time.Second)), End: timestamppb.New(at), Recorded: timestamppb.New(at),
		Disk: &ingotv1.Disk{Name: "none", Serial: serial},
	}
	for _, d := range inventory("Ethernet0", nil).GetDisks() {
		if d.GetSerial() == serial || d.GetName() == serial {
			w.Disk = d
		}
	}
	return w
}

// registered returns a script with a machine m1 that has registered its disks.
func registered(t *testing.T) *script {
	t.Helper()
	s := newScript(t)
	for _, cmd := range []string{
		"scan b1 m1 On", "advance m1", "take m1 site/p1", "done m1 off",
		"begin m1 leaf1 Ethernet0", "token m1 leaf1 Ethernet0", "register m1 Ethernet0", "report m1 WIPE BEGUN",
	} {
		if err := s.run(cmd); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *script) wiped(w *ingotv1.Wipe) error {
	return s.do(func(tx *store.Tx) error { return machine.Wiped(tx, w) })
}

func (s *script) wipes() []string {
	var out []string
	for w := range records.Wipes.All(s.db.Snapshot()) {
		out = append(out, fmt.Sprint(w.GetDisk().GetName(), " ", strings.ToLower(w.GetResult().String()[len("WIPE_RESULT_"):])))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestWipedRefused holds what is no proof of a wipe.
func TestWipedRefused(t *testing.T) {
	s := registered(t)
	now := s.clock.Now()
	for _, c := range []struct {
		name string
		edit func(w *ingotv1.Wipe)
		want string
	}{
		{"an unknown machine", func(w *ingotv1.Wipe) { w.Uuid = "m9" }, "machine m9: not found"},
		{"another boot", func(w *ingotv1.Wipe) { w.BootId = "x99" }, "boot x99 is over"},
		{"a disk that is not there", func(w *ingotv1.Wipe) { w.Disk = &ingotv1.Disk{Name: "sdz"} }, "disk sdz: is not among those that are registered"},
		{"a disk that is another one", func(w *ingotv1.Wipe) { w.Disk = &ingotv1.Disk{Name: "sda", Serial: "other"} }, "disk sda: is not among those"},
		{"backwards", func(w *ingotv1.Wipe) { w.End = timestamppb.New(now.Add(-time.Hour)) }, "wiped before that began"},
		{"in the future", func(w *ingotv1.Wipe) { w.End = timestamppb.New(now.Add(time.Hour)) }, "which is to come"},
		{"by no method", func(w *ingotv1.Wipe) { w.Method = 0 }, "by no method"},
		{"not verified", func(w *ingotv1.Wipe) { w.Check = nil }, "without being verified"},
		{"done with an error", func(w *ingotv1.Wipe) { w.Error = "but" }, "with an error"},
		{"failed without a reason", func(w *ingotv1.Wipe) { w.Result = ingotv1.WipeResult_WIPE_RESULT_FAILED }, "the reason is missing"},
	} {
		w := wipe("m1", s.boot("m1"), "s-a", now)
		c.edit(w)
		if err := s.wiped(w); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if got := s.wipes(); len(got) != 0 {
		t.Errorf("recorded %v", got)
	}
}

// TestWipeFails keeps a machine out of the pool until the disk that cannot be
// wiped is wiped, or gone.
func TestWipeFails(t *testing.T) {
	s := registered(t)
	failed := wipe("m1", s.boot("m1"), "s-a", s.clock.Now())
	failed.Result, failed.Method, failed.Check = ingotv1.WipeResult_WIPE_RESULT_FAILED, 0, nil
	failed.Error = "disk sda (serial s-a): cannot be wiped: overwrite: input/output error; replace the disk"
	for range 2 { // the second tells nothing new
		if err := s.wiped(failed); err != nil {
			t.Fatal(err)
		}
	}
	err := s.run("wait m1 s-b")
	if err == nil || !strings.Contains(err.Error(), "disks sda were not wiped in this boot") {
		t.Errorf("it waits: %v", err)
	}
	issue := func() string {
		t.Helper()
		m, _ := records.Machines.Peek(s.db.Snapshot(), "m1")
		for _, i := range machine.Issues(s.db.Snapshot(), m, nil, s.clock.Now()) {
			if i.GetSeverity() == apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_CRITICAL {
				return i.GetDescription() + ": " + i.GetDetails()
			}
		}
		return ""
	}
	want := "a disk could not be wiped, which keeps the machine out of the pool: at " + failed.GetEnd().AsTime().UTC().Format(time.RFC3339) + ": " + failed.GetError()
	if got := issue(); got != want {
		t.Errorf("issue %q, want %q", got, want)
	}
	s.clock.Advance(time.Minute)
	if err := s.run("wait m1 s-a s-b"); err != nil {
		t.Fatal(err)
	}
	if got := issue(); got != "" {
		t.Errorf("wiped, but there is the issue %q", got)
	}
	if got, want := s.wipes(), []string{"sda done", "sda failed", "sdb done"}; !slices.Equal(got, want) {
		t.Errorf("wipes %v, want %v", got, want)
	}
	// It fails again; then the disk is taken out.
	s.clock.Advance(time.Minute)
	failed.Start, failed.End = timestamppb.New(s.clock.Now()), timestamppb.New(s.clock.Now())
	failed.Recorded = failed.End
	if err := s.wiped(failed); err != nil {
		t.Fatal(err)
	}
	if issue() == "" {
		t.Error("it failed again, but there is no issue")
	}
	if err := s.do(func(tx *store.Tx) error {
		h, err := records.Hardware.Get(tx, "m1")
		if err != nil {
			return err
		}
		h.Inventory.Disks = h.Inventory.Disks[1:]
		return records.Hardware.Put(tx, h)
	}); err != nil {
		t.Fatal(err)
	}
	if got := issue(); got != "" {
		t.Errorf("the disk is gone, but there is the issue %q", got)
	}
}

// TestWipesKept keeps the newest proofs of each disk, failures apart, and all
// of them when the machine is forgotten.
func TestWipesKept(t *testing.T) {
	s := registered(t)
	count := func(result ingotv1.WipeResult) (n int) {
		for w := range records.Wipes.All(s.db.Snapshot()) {
			if w.GetResult() == result {
				n++
			}
		}
		return n
	}
	for i := range 25 {
		s.clock.Advance(time.Minute)
		w := wipe("m1", s.boot("m1"), "s-a", s.clock.Now())
		if err := s.wiped(w); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			w = wipe("m1", s.boot("m1"), "s-a", s.clock.Now().Add(time.Second))
			w.Result, w.Error = ingotv1.WipeResult_WIPE_RESULT_FAILED, "no"
			if err := s.wiped(w); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.wiped(wipe("m1", s.boot("m1"), "s-b", s.clock.Now())); err != nil {
		t.Fatal(err)
	}
	if got := count(ingotv1.WipeResult_WIPE_RESULT_DONE); got != 21 {
		t.Errorf("%d proofs, want 20 of one disk and 1 of the other", got)
	}
	if got := count(ingotv1.WipeResult_WIPE_RESULT_FAILED); got != 3 {
		t.Errorf("%d failures, want 3", got)
	}
	if err := s.do(func(tx *store.Tx) error {
		if _, err := records.Machines.Change(tx, "m1", func(m *privatev1.Machine) error {
			m.Liveliness = apiv2.MachineLiveliness_MACHINE_LIVELINESS_DEAD
			return nil
		}); err != nil {
			return err
		}
		return machine.Forget(tx, "m1")
	}); err != nil {
		t.Fatal(err)
	}
	if got := count(ingotv1.WipeResult_WIPE_RESULT_DONE); got != 21 {
		t.Errorf("%d proofs are left of a machine that was forgotten, want 21", got)
	}
}

// TestWipeTakesLong gives a machine up that is not heard of any more, and not
// one with large disks.
func TestWipeTakesLong(t *testing.T) {
	s := registered(t)
	phase := func() ingotv1.MachinePhase {
		m, _ := records.Machines.Peek(s.db.Snapshot(), "m1")
		return m.GetPhase()
	}
	for range 30 {
		s.clock.Advance(time.Hour)
		if err := s.do(func(tx *store.Tx) error {
			m, err := records.Machines.Get(tx, "m1")
			if err != nil {
				return err
			}
			return records.Sightings.Put(tx, &privatev1.Sightings{
				Key: records.Key(m.GetPartition(), m.GetRack()), Seen: map[string]*timestamppb.Timestamp{"m1": timestamppb.New(tx.Now())},
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.run("advance m1"); err != nil {
			t.Fatal(err)
		}
		if p := phase(); p != ingotv1.MachinePhase_MACHINE_PHASE_WIPING {
			t.Fatalf("a machine that wipes a large disk is %s", p)
		}
	}
	s.clock.Advance(10 * time.Minute)
	for range 2 { // it counts as dead, then it is given up
		if err := s.run("advance m1"); err != nil {
			t.Fatal(err)
		}
	}
	if p := phase(); p != ingotv1.MachinePhase_MACHINE_PHASE_CRASHED {
		t.Errorf("a machine that is not heard of is %s", p)
	}
}

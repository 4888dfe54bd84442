package machine

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run go test -update and look at the difference. got:\n%s", path, got)
	}
}

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// in returns a machine in a phase since a time.
func in(p ingotv1.MachinePhase, since time.Time) *privatev1.Machine {
	return &privatev1.Machine{Uuid: "m", Phase: p, PhaseSince: timestamppb.New(since), LastEvent: timestamppb.New(since)}
}

// TestTable prints the table of states for the docs, with what each state
// means, and checks that every cell is a verdict.
func TestTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("# States of a machine\n\nWritten by the tests of package machine. Verdicts:\n\n")
	for _, v := range []struct {
		v verdict
		s string
	}{
		{move, "recorded; the machine enters the event's phase"},
		{same, "success; a sign of life, nothing else changes"},
		{note, "recorded; the phase stays"},
		{owned, "like `>`, but like `+` while the machine is allocated"},
		{late, "ignored"},
		{stray, "ignored; after five minutes it proves a failed reclaim"},
		{odd, "recorded as an error; the phase stays"},
		{strange, "remembered as the last error, not recorded"},
		{failed, "recorded as an error and a crash loop; the phase stays"},
		{restart, "recorded as an error and a crash loop; the machine enters the event's phase"},
	} {
		fmt.Fprintf(&b, "    %c  %s\n", v.v, v.s)
	}
	b.WriteString("\nThe first sign of a cell is for events that name the running boot, the second for those of the v2 API, which name none.\n")
	for _, l := range strings.Split(strings.TrimRight(grid, "\n"), "\n") {
		b.WriteString(strings.TrimRight("  "+l, " ") + "\n")
	}
	row := func(name string, s standing) {
		budget := "for ever"
		if s.budget > 0 {
			budget = s.budget.String()
		}
		fmt.Fprintf(&b, "\n%s\n    moved on by: %s\n    waits for:   %s\n    may take:    %s\n", name, s.mover, s.what, budget)
		if s.remedy != "" {
			fmt.Fprintf(&b, "    otherwise:   %s\n", s.remedy)
		}
	}
	for p := discovered; int(p) < phases; p++ {
		s := standings[p]
		if s.mover == "" || s.what == "" || s.budget > 0 && s.remedy == "" {
			t.Errorf("%s: its standing is not complete: %+v", phaseName(p), s)
		}
		row(phaseName(p), s)
		for e := range Event(events) {
			for _, v := range []verdict{table[p][e].boot, table[p][e].bare} {
				if !strings.ContainsRune(">=+o.f!?cx", rune(v)) {
					t.Errorf("%s <- %s: %q is no verdict", phaseName(p), e, v)
				}
			}
		}
		if p == waiting {
			row("waiting, allocated", allocatedWaiting)
		}
		if p == phonedHome {
			row("phoned home, not allocated", strandedHome)
			row("reclaiming, power", reclaimPower)
			row("reclaiming, ports", reclaimPorts)
		}
	}
	golden(t, "states.md", b.String())
}

// TestNextIsTotal applies every event to every phase, with the running boot's
// id, another's and none, and checks what must hold of any outcome.
func TestNextIsTotal(t *testing.T) {
	for p := discovered; int(p) < phases; p++ {
		for e := range Event(events) {
			for _, id := range []string{"", "this", "other"} {
				for _, allocation := range []string{"", "a"} {
					m := in(p, start)
					m.BootId, m.Allocation = "this", allocation
					was := proto.Clone(m).(*privatev1.Machine)
					out := Next(m, Happening{Event: e, BootID: id, Time: start.Add(time.Minute)})
					name := fmt.Sprintf("%s <- %s (boot %q, allocation %q)", phaseName(p), e, id, allocation)
					if out.Ignored && !proto.Equal(m, was) {
						t.Errorf("%s: is ignored but changed the machine", name)
					}
					if id == "other" && e != Began && !out.Ignored {
						t.Errorf("%s: an event of another boot has an effect", name)
					}
					if out.Moved && m.GetPhase() != known[e].to || !out.Moved && m.GetPhase() != p {
						t.Errorf("%s: moved is %t and the phase is %s", name, out.Moved, phaseName(m.GetPhase()))
					}
					if id == "this" {
						now := proto.Clone(m).(*privatev1.Machine)
						if again := Next(m, Happening{Event: e, BootID: m.GetBootId(), Time: start.Add(2 * time.Minute)}); m.GetBootId() != "" && e != Crashed && again.Recorded != nil && known[e].wire != unwired && out.Moved {
							t.Errorf("%s: repeating it is recorded again: %v, machine %v", name, again.Recorded, now)
						}
					}
				}
			}
		}
	}
}

func TestWireEvents(t *testing.T) {
	for n := range apiv2.MachineProvisioningEventType_name {
		wire := apiv2.MachineProvisioningEventType(n)
		e, ok := EventOf(wire)
		if wire == unwired {
			if ok {
				t.Errorf("unspecified is %s", e)
			}
			continue
		}
		if !ok || e.Wire() != wire {
			t.Errorf("%s maps to %s and back to %s", wire, e, e.Wire())
		}
	}
}

// TestBoots tells the stories that the boot id is for.
func TestBoots(t *testing.T) {
	type step struct {
		e     Event
		boot  string
		after time.Duration
		phase ingotv1.MachinePhase
		loop  bool
	}
	whole := []step{
		{Rebooting, "", 0, poweringOn, false}, {Began, "b1", 10 * time.Second, booting, false}, {Preparing, "b1", time.Second, preparing, false},
		{Registering, "b1", time.Second, registering, false}, {Wiping, "b1", time.Second, wiping, false}, {Waiting, "b1", time.Second, waiting, false},
	}
	for name, steps := range map[string][]step{
		"an agent repeats what was not answered": append(whole[:6:6],
			step{Registering, "b1", time.Second, waiting, false}, step{Waiting, "b1", time.Second, waiting, false},
			step{Installing, "b1", time.Second, installing, false}, step{Waiting, "b1", time.Second, installing, false}),
		"a late event of the boot before": append(whole[:6:6],
			step{Began, "b2", time.Hour, booting, false}, step{Waiting, "b1", time.Second, booting, false}, step{Crashed, "b1", time.Second, booting, false}),
		"power glitches of a waiting machine are no crash loop": append(whole[:6:6],
			step{Began, "b2", time.Minute, booting, false}, step{Preparing, "b2", time.Second, preparing, false},
			step{Registering, "b2", time.Second, registering, false}, step{Waiting, "b2", time.Second, waiting, false}),
		"three boots that lead to nothing are one": {
			{Began, "b1", 0, booting, false}, {Began, "b2", time.Minute, booting, false}, {Preparing, "b2", time.Second, preparing, false},
			{Began, "b3", time.Minute, booting, false}, {Began, "b4", time.Minute, booting, true}, {Preparing, "b4", time.Second, preparing, true},
			{Registering, "b4", time.Second, registering, true}, {Waiting, "b4", time.Second, waiting, false},
		},
		"three within an hour, not in a day": {
			{Began, "b1", 0, booting, false}, {Began, "b2", 40 * time.Minute, booting, false},
			{Began, "b3", 40 * time.Minute, booting, false}, {Began, "b4", 40 * time.Minute, booting, false},
		},
		"a late LLDP report between command and power off": {
			{PhonedHome, "", 0, phonedHome, false}, {Rebooting, "", time.Second, poweringOn, false},
			{PhonedHome, "", time.Second, poweringOn, false}, {Began, "b1", time.Minute, booting, false},
		},
	} {
		m, at := New("m", "p", start), start
		for i, s := range steps {
			at = at.Add(s.after)
			Next(m, Happening{Event: s.e, BootID: s.boot, Time: at})
			if m.GetPhase() != s.phase || m.GetCrashLoop() != s.loop {
				t.Errorf("%s: after step %d, %s: phase %s, crash loop %t; want %s, %t", name, i, s.e,
					phaseName(m.GetPhase()), m.GetCrashLoop(), phaseName(s.phase), s.loop)
			}
		}
	}
}

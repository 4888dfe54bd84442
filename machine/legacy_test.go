package machine

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// The names that the recorded matrix has for phases and events. Its state
// "Alive" is a fault that we do not have.
var legacyPhases = map[string]ingotv1.MachinePhase{
	"": discovered, "PXE Booting": booting, "Preparing": preparing, "Registering": registering, "Waiting": waiting, "Installing": installing,
	"Booting New Kernel": bootingNewKernel, "Phoned Home": phonedHome, "Planned Reboot": poweringOn, "Machine Reclaim": reclaiming, "Crashed": crashed,
}

var legacyEvents = map[string]Event{
	"PXE Booting": Began, "Preparing": Preparing, "Registering": Registering, "Waiting": Waiting, "Installing": Installing, "Booting New Kernel": BootingNewKernel,
	"Phoned Home": PhonedHome, "Planned Reboot": Rebooting, "Machine Reclaim": Reclaim, "Alive": Alive, "Crashed": Crashed,
}

// A difference from the legacy machine is one that we want. Each must explain
// at least one case of the matrix.
var differences = []struct {
	why  string
	when func(state, event string) bool
}{
	{"a late LLDP report does not undo a planned reboot", func(s, e string) bool { return s == "Planned Reboot" && e == "Phoned Home" }},
	{"repeating an event is a success", func(s, e string) bool {
		return s == e && (s == "Registering" || s == "Waiting" || s == "Installing" || s == "Booting New Kernel")
	}},
	{"a crash is a crash loop in every state", func(s, e string) bool {
		return e == "Crashed" && (s == "Phoned Home" || s == "Planned Reboot" || s == "Machine Reclaim" || s == "Crashed")
	}},
	{"a sign of life is no state", func(s, _ string) bool { return s == "Alive" }},
	{"an agent may register again", func(s, e string) bool { return s == "Waiting" && e == "Registering" }},
	{"LLDP reports are judged by the phase; after five minutes they prove a failed reclaim", func(s, e string) bool {
		return e == "Phoned Home" && (s == "PXE Booting" || s == "Preparing" || s == "Registering" || s == "Waiting")
	}},
	{"a system that is seen after a crash runs", func(s, e string) bool { return s == "Crashed" && e == "Phoned Home" }},
}

// TestLegacy replays what the state machine of metal-stack does with the
// events of the v2 API, recorded for all states, events and two gaps, and
// compares. The differences are exactly the listed ones.
func TestLegacy(t *testing.T) {
	f, err := os.Open("testdata/legacy-matrix.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var (
		got   strings.Builder
		gap   time.Duration
		cases int
		used  = make([]bool, len(differences))
	)
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		if g, ok := strings.CutPrefix(line, "### delta "); ok {
			if gap, err = time.ParseDuration(g); err != nil {
				t.Fatal(err)
			}
			continue
		}
		cases++
		state, rest, _ := strings.Cut(line, "<-")
		state = strings.TrimSpace(state)
		at := strings.Index(rest, "append=")
		event, want := strings.TrimSpace(rest[:at]), strings.Join(strings.Fields(rest[at:]), " ")
		have := ""
		if phase, ok := legacyPhases[state]; ok {
			have = legacyOutcome(phase, legacyEvents[event], gap)
		}
		if have == want {
			continue
		}
		why := "NOT LISTED"
		for i, d := range differences {
			if d.when(state, event) {
				why, used[i] = d.why, true
			}
		}
		if why == "NOT LISTED" {
			t.Errorf("%s <- %s after %s:\n got %s\nwant %s", state, event, gap, have, want)
		}
		if have == "" {
			have = "no such state"
		}
		fmt.Fprintf(&got, "%s <- %s after %s: %s\n    legacy %s\n    ours   %s\n", state, event, gap, why, want, have)
	}
	if cases != 264 {
		t.Errorf("%d cases, want 264", cases)
	}
	for i, d := range differences {
		if !used[i] {
			t.Errorf("the listed difference %q explains no case", d.why)
		}
	}
	golden(t, "legacy-differences.txt", got.String())
}

// legacyOutcome applies an event without a boot id and says what happened in
// the words of the matrix.
func legacyOutcome(p ingotv1.MachinePhase, e Event, gap time.Duration) string {
	run := func(crashLoop, failedReclaim bool) (*privatev1.Machine, Outcome) {
		m := in(p, start)
		m.CrashLoop, m.FailedReclaim = crashLoop, failedReclaim
		return m, Next(m, Happening{Event: e, Time: start.Add(gap)})
	}
	m, out := run(false, false)
	flagged, _ := run(true, true)
	live := "Alive"
	if out.Ignored {
		live = "Dead"
	}
	return fmt.Sprintf("append=%t lastErr=%t setCrash=%t clrCrash=%t setFR=%t clrFR=%t touch=%t live=%s",
		out.Recorded != nil, m.GetLastError() != nil, m.GetCrashLoop(), !flagged.GetCrashLoop(),
		m.GetFailedReclaim(), !flagged.GetFailedReclaim(), !out.Ignored, live)
}

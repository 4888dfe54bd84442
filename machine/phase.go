package machine

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A standing says what a phase means to people: who moves the machine on, what
// it waits for, how long that may take, and what to do if it takes longer.
type standing struct {
	mover  string
	what   string
	budget time.Duration // 0: it may take for ever
	remedy string
}

var standings = [phases]standing{
	discovered: {"site", "the site to insert the boot medium and cycle the power", 10 * time.Minute,
		"look at the BMC's last error with 'ingot bmc describe'; the machine must not be locked"},
	poweringOn: {"boot medium", "the firmware to start the boot medium and ask for a boot id", 15 * time.Minute,
		"look at the console: does the firmware boot from virtual media, over UEFI, and do the leaves' ports have link?"},
	booting: {"agent", "the agent to get its token", 5 * time.Minute,
		"look at the console; a refused token names the rule: boot window, port or uuid"},
	preparing: {"agent", "the agent to look at the hardware", 5 * time.Minute,
		"look at the console; an agent that hangs here usually waits for a disk or for LLDP"},
	registering: {"agent", "the agent to begin wiping or to wait", 5 * time.Minute,
		"look at the machine's last error: wiring and size are checked here"},
	wiping: {"agent", "the agent to wipe every disk", 2 * time.Hour,
		"look at the progress; a disk without secure erase is overwritten, which takes hours"},
	waiting: {"user", "an allocation", 0, ""},
	installing: {"agent", "the agent to write the operating system", 30 * time.Minute,
		"look at the failed step; the image must be reachable from the partition's cache or its origin"},
	bootingNewKernel: {"leaf", "both leaves to move the ports, and the new system to send LLDP", 10 * time.Minute,
		"look at the console, and at the generation that the leaves report; the image must run an LLDP sender"},
	phonedHome: {"user", "nothing", 0, ""},
	reclaiming: {"site", "the site to insert the boot medium and cycle the power", 10 * time.Minute,
		"look at the BMC's last error with 'ingot bmc describe'; the machine must not be locked; 'ingot machine boot-medium' tries at once"},
	crashed: {"loop", "the next try", time.Hour,
		"look at the last error and the console; 'ingot machine boot-medium' tries at once"},
}

// Other standings than the phase's own.
var (
	allocatedWaiting = standing{"agent", "the agent to fetch its installation", 2 * time.Minute,
		"look at the console; an agent that lost its connection tries again on its own, a dead one needs a power cycle"}
	strandedHome = standing{"operator", "somebody to reclaim it: the system of a former allocation still runs", time.Minute,
		"look at the BMC; power the machine off by hand if the BMC does not answer"}
	// The steps of a reclaim, before the machine boots the medium.
	reclaimPower = standing{"site", "the BMC to report power off", time.Minute,
		"look at the BMC's last error with 'ingot bmc describe' and cut the power by hand; if the BMC cannot tell that it is off, say so with 'ingot machine confirm-off'"}
	reclaimPorts = standing{"leaf", "both leaves to move the ports into the boot VRF", 2 * time.Minute,
		"look at the generation and the error that the leaves report with 'ingot switch describe'; " +
			"a switch that will not come back can be removed with 'ingot switch delete --force'"}
)

// standingOf returns what holds for m.
func standingOf(m *privatev1.Machine) standing {
	switch allocated := m.GetAllocation() != ""; {
	case m.GetPhase() == waiting && allocated:
		return allocatedWaiting
	case m.GetPhase() == phonedHome && !allocated:
		return strandedHome
	default:
		return standings[m.GetPhase()]
	}
}

// step returns what holds for m, and since when: the step of a reclaim, or else
// the phase.
func step(r store.Reader, m *privatev1.Machine) (standing, *timestamppb.Timestamp) {
	switch rec, ok := records.Reclaims.Peek(r, m.GetUuid()); {
	case ok && rec.GetPowerOffSeen() == nil:
		return reclaimPower, rec.GetCreated()
	case ok:
		return reclaimPorts, rec.GetPowerOffSeen()
	default:
		return standingOf(m), m.GetPhaseSince()
	}
}

// awaits says what m waits for, nil if for nothing.
func awaits(r store.Reader, m *privatev1.Machine) *ingotv1.Waiting {
	s, since := step(r, m)
	if s.what == "" || s.what == standings[phonedHome].what {
		return nil
	}
	w := &ingotv1.Waiting{What: s.what, Since: since, Remedy: s.remedy}
	if s.budget > 0 {
		w.OverdueAt = timestamppb.New(since.AsTime().Add(s.budget))
	}
	return w
}

// overdue reports whether m waits longer than that may take.
func overdue(r store.Reader, m *privatev1.Machine, now time.Time) bool {
	s, since := step(r, m)
	return s.budget > 0 && now.Sub(since.AsTime()) >= s.budget
}

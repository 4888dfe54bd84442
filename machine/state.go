package machine

import (
	"fmt"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// The phases, by their short names.
const (
	discovered       = ingotv1.MachinePhase_MACHINE_PHASE_DISCOVERED
	poweringOn       = ingotv1.MachinePhase_MACHINE_PHASE_POWERING_ON
	booting          = ingotv1.MachinePhase_MACHINE_PHASE_BOOTING
	preparing        = ingotv1.MachinePhase_MACHINE_PHASE_PREPARING
	registering      = ingotv1.MachinePhase_MACHINE_PHASE_REGISTERING
	wiping           = ingotv1.MachinePhase_MACHINE_PHASE_WIPING
	waiting          = ingotv1.MachinePhase_MACHINE_PHASE_WAITING
	installing       = ingotv1.MachinePhase_MACHINE_PHASE_INSTALLING
	bootingNewKernel = ingotv1.MachinePhase_MACHINE_PHASE_BOOTING_NEW_KERNEL
	phonedHome       = ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME
	reclaiming       = ingotv1.MachinePhase_MACHINE_PHASE_RECLAIMING
	crashed          = ingotv1.MachinePhase_MACHINE_PHASE_CRASHED
)

// An Event is something that happened to a machine and may move it.
type Event uint8

// The events in the order of a machine's life. All but Found, Wiping and
// Replace are provisioning events of the v2 API.
const (
	Found            Event = iota // a BMC answered with the machine's uuid
	Rebooting                     // power is cycled on purpose
	Began                         // the boot medium runs and asked for a boot id
	Preparing                     // the agent has a token and looks at the hardware
	Registering                   // the agent reported the hardware
	Wiping                        // the agent wipes the disks
	Waiting                       // the agent waits for an allocation
	Installing                    // the agent installs
	BootingNewKernel              // the installation is reported
	PhonedHome                    // a leaf saw the installed system
	Alive                         // a sign of life
	Crashed                       // the boot has failed
	Reclaim                       // the allocation was deleted
	Replace                       // another system shall take the place of the installed one
	events           = int(Replace) + 1
)

// about is what the table needs to know of an event.
type about struct {
	name  string
	to    ingotv1.MachinePhase // where it leads
	wire  apiv2.MachineProvisioningEventType
	ends  bool // ends a crash loop
	clean bool // proves that a reclaim did not fail after all
}

const unwired = apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_UNSPECIFIED

var known = [events]about{
	Found:            {"found", discovered, unwired, false, false},
	Rebooting:        {"reboot", poweringOn, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PLANNED_REBOOT, true, false},
	Began:            {"began", booting, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PXE_BOOTING, false, true},
	Preparing:        {"prepare", preparing, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PREPARING, false, true},
	Registering:      {"register", registering, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_REGISTERING, false, false},
	Wiping:           {"wipe", wiping, unwired, false, false},
	Waiting:          {"wait", waiting, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_WAITING, false, false},
	Installing:       {"install", installing, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_INSTALLING, false, false},
	BootingNewKernel: {"kernel", bootingNewKernel, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_BOOTING_NEW_KERNEL, false, false},
	PhonedHome:       {"home", phonedHome, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PHONED_HOME, true, false},
	Alive:            {"alive", 0, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_ALIVE, false, false},
	Crashed:          {"crash", crashed, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_CRASHED, false, false},
	Reclaim:          {"reclaim", reclaiming, apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_MACHINE_RECLAIM, true, false},
	Replace:          {"replace", poweringOn, unwired, true, false},
}

// String returns the event's column in the table.
func (e Event) String() string {
	if int(e) < events {
		return known[e].name
	}
	return fmt.Sprintf("event(%d)", uint8(e))
}

// Wire returns the event of the v2 API; unspecified for Found, Wiping and
// Replace.
func (e Event) Wire() apiv2.MachineProvisioningEventType { return known[e].wire }

// EventOf returns the event that the v2 API calls t, false if there is none.
func EventOf(t apiv2.MachineProvisioningEventType) (Event, bool) {
	if t != unwired {
		for e := range known {
			if known[e].wire == t {
				return Event(e), true
			}
		}
	}
	return 0, false
}

// A verdict is what an event does to a machine in a phase.
type verdict byte

const (
	move    verdict = '>' // recorded; the machine enters the event's phase
	same    verdict = '=' // success; a sign of life, nothing else changes
	note    verdict = '+' // recorded; the phase stays
	owned   verdict = 'o' // like move, but like note while the machine is allocated
	late    verdict = '.' // ignored: it tells of a time that has passed
	stray   verdict = 'f' // late; after strayAfter it proves a failed reclaim
	odd     verdict = '!' // recorded as an error; the phase stays
	strange verdict = '?' // remembered as the last error, not recorded; the phase stays
	failed  verdict = 'c' // recorded as an error and a crash loop; the phase stays
	restart verdict = 'x' // recorded as an error and a crash loop; the machine enters the event's phase
)

// grid is the table of moves. A cell has one verdict, or two: the first for an
// event that names the running boot, the second for one of the v2 API, which
// names none. Within one boot a machine only moves forward, so that an agent
// may repeat whatever was not answered; an event of another boot never does
// anything. Began is the exception: it names the boot that it starts.
const grid = `
                     found reboot began prepare register wipe wait install kernel home alive crash reclaim replace
  discovered         =     >      >     >       >        >    >    >       >      >    =     x     >       >
  powering on        =     >      >     >       !        !    !    !       !      .    =?    x     >       >
  booting            =     >      >=    >       !        !    !    !       !      f    =     x     >       >
  preparing          =     >      >x    =x      >        !    !    !       !      f    =     x     >       >
  registering        =     >      >x    =x      =        >    >    >       !      f    =     x     >       >
  wiping             =     >      >x    =x      =>       =    >    !       !      f    =     x     >       >
  waiting            =     >      >x    =x      =>       =!   =    >       !      f    =     x     >       >
  installing         =     >      >x    =x      =!       =!   =!   =       >      !    =     x     >       >
  booting new kernel =     o      >x    =x      =!       =!   =!   =!      =      >    =     x     >       >
  phoned home        =     o      >x    =x      .!       .!   .!   .!      =!     =    =?    c     >       >
  reclaiming         =     >      >     >       .!       .!   .!   .!      .!     f    .?    .c    >       >
  crashed            =     >      >     .>      .!       .!   .!   .!      .!     >    =?    =x    >       >
`

const (
	phases = int(crashed) + 1
	// strayAfter is how long a machine that is not allocated may still be seen
	// through the leaf before its reclaim counts as failed: LLDP reports lag.
	strayAfter = 5 * time.Minute
	// loopBoots failed boots within loopWindow are a crash loop.
	loopBoots  = 3
	loopWindow = time.Hour
)

// cell is the verdict for events of the running boot and for those without one.
type cell struct{ boot, bare verdict }

var table = parse(grid)

// parse reads the grid; a malformed one is a broken build.
func parse(grid string) (t [phases][events]cell) {
	lines := strings.Split(strings.Trim(grid, "\n"), "\n")
	for i, col := range strings.Fields(lines[0]) {
		if Event(i).String() != col {
			panic("machine: column " + col + " of the table stands where " + Event(i).String() + " belongs")
		}
	}
	for i, line := range lines[1:] {
		f := strings.Fields(line)
		name, cells := strings.Join(f[:len(f)-events], " "), f[len(f)-events:]
		p := discovered + ingotv1.MachinePhase(i)
		if phaseName(p) != name {
			panic("machine: row " + name + " of the table stands where " + phaseName(p) + " belongs")
		}
		for e, s := range cells {
			t[p][e] = cell{verdict(s[0]), verdict(s[len(s)-1])}
		}
	}
	return t
}

// phaseName returns a phase in lower-case words.
func phaseName(p ingotv1.MachinePhase) string {
	s := strings.TrimPrefix(p.String(), "MACHINE_PHASE_")
	return strings.ToLower(strings.ReplaceAll(s, "_", " "))
}

// A Happening is an event as it arrived.
type Happening struct {
	Event Event
	// BootID is the firmware boot it belongs to; empty for events of the v2
	// API, of a BMC and of a leaf. With Began it is the boot that starts.
	BootID  string
	Message string
	// Time is when the control plane received it.
	Time time.Time
}

// An Outcome is what became of a happening.
type Outcome struct {
	// Moved is set when the phase changed.
	Moved bool
	// Recorded is the event to keep; nil if it is not kept.
	Recorded *privatev1.Event
	// Ignored is set when not even the machine's liveliness changed.
	Ignored bool
}

// Next applies h to m, which it changes, and says what became of it.
func Next(m *privatev1.Machine, h Happening) Outcome {
	e := known[h.Event]
	v := judge(m, h)
	at := timestamppb.New(h.Time)
	if v == stray {
		if h.Time.Sub(m.GetPhaseSince().AsTime()) < strayAfter || m.GetAllocation() != "" {
			return Outcome{Ignored: true}
		}
		m.FailedReclaim = true
	}
	if v == late {
		return Outcome{Ignored: true}
	}
	m.Liveliness, m.LastEvent = apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE, at

	message := h.Message
	if v == odd || v == strange || v == restart && h.Event != Crashed {
		message = strings.TrimSuffix(fmt.Sprintf("[unexpectedly received in %s]: %s", phaseName(m.GetPhase()), h.Message), ": ")
	}
	var out Outcome
	switch v {
	case odd, strange, failed, restart:
		m.LastError = &apiv2.MachineProvisioningEvent{Time: at, Event: e.wire, Message: message}
	}
	if v == failed || v == restart {
		m.CrashLoop = true
	}
	good := v == move || v == note
	if good && e.ends {
		m.CrashLoop = false
	}
	if e.clean && (good || v == same && h.Event == Began) {
		m.FailedReclaim = false
	}
	if v != same && v != strange && v != stray && e.wire != unwired {
		out.Recorded = &privatev1.Event{Time: at, Type: e.wire, Message: message, BootId: h.BootID, Failed: v != move && v != note}
	}
	if v == move || v == restart {
		enter(m, h)
		out.Moved = true
	}
	return out
}

// judge finds the verdict, with owned resolved.
func judge(m *privatev1.Machine, h Happening) verdict {
	c := table[m.GetPhase()][h.Event]
	v := c.bare
	switch {
	case h.BootID == "":
	case h.Event == Began:
		v = c.boot
		if h.BootID == m.GetBootId() {
			v = same
		}
	case h.BootID != m.GetBootId():
		return late
	default:
		v = c.boot
	}
	if v == owned {
		if m.GetAllocation() != "" {
			return note
		}
		return move
	}
	return v
}

// enter moves m into the phase h leads to and keeps the count of boots that
// failed since the last one that ended well.
func enter(m *privatev1.Machine, h Happening) {
	from := m.GetPhase()
	m.Phase, m.PhaseSince = known[h.Event].to, timestamppb.New(h.Time)
	switch h.Event {
	case Began:
		if h.BootID != "" && from >= booting && from <= installing && from != waiting {
			failedBoot(m, h.Time)
		}
		m.BootId = h.BootID
	case Crashed:
		failedBoot(m, h.Time)
	case Waiting:
		if m.GetAllocation() != "" {
			return // that boot ends well when the system is installed
		}
		if m.FailedBoots = nil; h.BootID != "" {
			m.CrashLoop = false
		}
	case PhonedHome:
		m.FailedBoots = nil
	case Replace:
		m.BootId, m.FailedBoots = "", nil
	case Rebooting, Reclaim:
		m.BootId = ""
	}
}

// failedBoot counts a boot that did not end well.
func failedBoot(m *privatev1.Machine, at time.Time) {
	kept := m.FailedBoots[:0:0]
	for _, t := range m.FailedBoots {
		if at.Sub(t.AsTime()) < loopWindow {
			kept = append(kept, t)
		}
	}
	m.FailedBoots = append(kept, timestamppb.New(at))
	if len(m.FailedBoots) >= loopBoots {
		m.CrashLoop = true
	}
}

// New returns the state of a machine that was just found.
func New(uuid, partition string, at time.Time) *privatev1.Machine {
	return &privatev1.Machine{
		Uuid: uuid, Partition: partition,
		Phase: discovered, PhaseSince: timestamppb.New(at),
		Condition: &apiv2.MachineCondition{State: apiv2.MachineState_MACHINE_STATE_AVAILABLE},
	}
}

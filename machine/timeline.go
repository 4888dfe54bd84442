package machine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Timeline tells what happened to a machine, oldest first, and what it waits
// for.
func Timeline(r store.Reader, m *privatev1.Machine) *ingotv1.Timeline {
	t := &ingotv1.Timeline{Uuid: m.GetUuid(), Phase: m.GetPhase(), PhaseSince: m.GetPhaseSince(), Waiting: shown(r, m)}
	e, _ := records.Events.Peek(r, m.GetUuid())
	all := append(slices.Clone(e.GetSteps()), e.GetEvents()...)
	slices.Reverse(all) // what happened at the same time stays in its order
	slices.SortStableFunc(all, func(a, b *privatev1.Event) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
	for _, ev := range all {
		t.Entries = append(t.Entries, entry(ev))
	}
	return t
}

// Stands says where a machine stands: its timeline without the past.
func Stands(r store.Reader, m *privatev1.Machine) *ingotv1.Standing {
	return &ingotv1.Standing{Uuid: m.GetUuid(), Phase: m.GetPhase(), PhaseSince: m.GetPhaseSince(), Waiting: shown(r, m)}
}

// shown is what a machine waits for as people see it, with the signs of progress.
// What may take for ever is not missed.
func shown(r store.Reader, m *privatev1.Machine) *ingotv1.Waiting {
	w := awaited(r, m)
	if w.GetOverdueAt() != nil {
		w.Signs = signsOf(r, m)
	}
	return w
}

// entry returns an event as people see it.
func entry(ev *privatev1.Event) *ingotv1.TimelineEntry {
	e := &ingotv1.TimelineEntry{
		Time: ev.GetTime(), Source: ingotv1.TimelineSource(ev.GetSource()), Step: ev.GetStep(), Message: ev.GetMessage(),
		Failed: ev.GetFailed(), BootId: ev.GetBootId(),
	}
	if ev.GetTookMs() > 0 {
		e.Took = durationpb.New(time.Duration(ev.GetTookMs()) * time.Millisecond)
	}
	if event, ok := EventOf(ev.GetType()); ok {
		e.Step, e.Source = phaseName(known[event].to), sources[event]
		if event == Crashed || known[event].to == 0 {
			e.Step = event.String()
		}
	}
	return e
}

// sources are where the provisioning events come from.
var sources = [events]ingotv1.TimelineSource{
	Found:            fromBMC,
	Rebooting:        fromAPI,
	Began:            fromBoot,
	Preparing:        fromAgent,
	Registering:      fromAgent,
	Wiping:           fromAgent,
	Waiting:          fromAgent,
	Installing:       fromAgent,
	BootingNewKernel: fromAgent,
	PhonedHome:       fromLeaf,
	Alive:            fromAgent,
	Crashed:          fromAgent,
	Reclaim:          fromAPI,
	Replace:          fromAPI,
}

// awaited is awaits with what the other records tell more precisely: the step
// of a reclaim, and whether a site has taken the operation.
func awaited(r store.Reader, m *privatev1.Machine) *ingotv1.Waiting {
	w := awaits(r, m)
	if w == nil {
		return nil
	}
	if rec, ok := records.Reclaims.Peek(r, m.GetUuid()); ok && rec.GetPowerOffSeen() != nil {
		if missing := network.Unmoved(r, m.GetUuid(), ingotv1.PortClass_PORT_CLASS_BOOT); len(missing) > 0 {
			w.What += "; missing: " + strings.Join(missing, ", ")
		}
	}
	if a, ok := records.Allocations.Peek(r, m.GetUuid()); ok && a.GetInstalled() != nil && m.GetPhase() == crashed {
		w.What, w.Remedy = "the installed system to be seen through a leaf", "look at the console; an installed machine is not rebooted without being asked"
	}
	o, _ := records.Operations.Peek(r, m.GetUuid())
	switch op := o.GetOperation(); {
	case m.GetPhase() == reclaiming && !connected(r, m.GetUuid()):
		w.What += "; nobody knows how to reach its BMC"
		w.Remedy += "; add the BMC with 'ingot bmc create'"
	case op == nil:
	case op.GetDone() == nil && o.GetTaken() == nil:
		w.What += "; no site has taken the operation '" + actionName(op.GetAction()) + "' yet"
		w.Remedy = strings.TrimPrefix(w.Remedy+"; look whether the management server of partition "+m.GetPartition()+" is connected", "; ")
	case op.GetDone() == nil:
		if b, ok := records.MachineBMCs.Peek(r, m.GetUuid()); ok {
			if status, _ := records.BMCStatuses.Peek(r, records.BMCKey(b.GetPartition(), b.GetBmc())); status.GetStatus().GetLastError() != "" {
				w.What += "; its BMC: " + status.GetStatus().GetLastError()
			}
		}
	case inVain(r, m):
		times := ""
		if op.GetAttempts() > 0 {
			times = fmt.Sprintf(" %d times, last", op.GetAttempts()+1)
		}
		w.What += fmt.Sprintf("; '%s' failed%s at %s: %s", actionName(op.GetAction()), times, op.GetDone().AsTime().UTC().Format(time.RFC3339), op.GetError())
	}
	return w
}

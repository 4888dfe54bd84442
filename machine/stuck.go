package machine

import (
	"fmt"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// stuck flags a machine whose step from a deleted allocation to the boot medium
// takes too long or has failed, and one on which the system of a former
// allocation runs although the medium should. rec is the machine's reclaim, nil
// if it has none. It reports whether that is news. Steps are tried again all
// the same.
func stuck(tx *store.Tx, m *privatev1.Machine, rec *privatev1.Reclaim) (bool, error) {
	if m.GetFailedReclaim() || m.GetAllocation() != "" || m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED {
		return false, nil
	}
	note := Step{Source: fromAPI, Step: "reclaim", Failed: true}
	switch where := squatter(tx, m); {
	case where != "":
		note.Source, note.Message = fromLeaf, formerRuns+": heard on "+where
	case rec == nil && m.GetPhase() != reclaiming:
		return false, nil
	case overdue(tx, m, tx.Now()) || inVain(tx, m):
		note.Message = "still waits for " + awaited(tx, m).GetWhat()
	default:
		return false, nil
	}
	if err := failedReclaim(tx, m.GetUuid(), true); err != nil {
		return false, err
	}
	return true, Note(tx, m.GetUuid(), note)
}

// inVain reports whether the operation that would take a machine further was
// tried and has failed.
func inVain(r store.Reader, m *privatev1.Machine) bool {
	o, _ := records.Operations.Peek(r, m.GetUuid())
	op := o.GetOperation()
	if op.GetError() == "" {
		return false
	}
	if rec, ok := records.Reclaims.Peek(r, m.GetUuid()); ok {
		return rec.GetPowerOffSeen() == nil && op.GetId() == rec.GetOff()
	}
	return op.GetAction() == actBootMedium && !op.GetCreated().AsTime().Before(m.GetPhaseSince().AsTime())
}

// failedReclaim says whether the reclaim of a machine failed.
func failedReclaim(tx *store.Tx, uuid string, is bool) error {
	_, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		m.FailedReclaim = is
		return nil
	})
	return err
}

// squatAfter is how long after its power cycle a machine's old system must be
// heard to be running again: what a leaf tells may be half a minute old.
const squatAfter = 30 * time.Second

// formerRuns is what a squatter is.
const formerRuns = "the system of a former allocation runs instead of the boot medium"

// squatter returns the port on which the system of a former allocation was
// heard after the machine was to boot the medium; empty if it was not.
func squatter(r store.Reader, m *privatev1.Machine) string {
	if m.GetPhase() != poweringOn && m.GetPhase() != crashed || m.GetAllocation() != "" {
		return ""
	}
	for c := range records.Connections.By(r, "machine", m.GetUuid()) {
		p, ok := records.LeafPorts.Peek(r, records.PortKey(c.GetSwitch(), c.GetPort()))
		if ok && p.GetClass() == ingotv1.PortClass_PORT_CLASS_BOOT && network.Provisioned(p.GetNeighbor()) &&
			p.GetHeard().AsTime().Sub(m.GetPhaseSince().AsTime()) >= squatAfter {
			return portOf(c)
		}
	}
	return ""
}

// portOf is how people call the port of a leaf.
func portOf(c *privatev1.Connection) string { return c.GetPort() + " of " + c.GetSwitch() }

// reclaimTrouble tells what is wrong with the reclaim of a machine, since when,
// and what a person can do.
func reclaimTrouble(e evidence) string {
	if where := squatter(e.r, e.m); where != "" {
		return fmt.Sprintf("%s since %s: heard on %s; do: look at the boot order and at the virtual media of its BMC, power it off by hand, "+
			"then try again with 'ingot machine boot-medium'", formerRuns, e.m.GetPhaseSince().AsTime().UTC().Format(time.RFC3339), where)
	}
	w := awaited(e.r, e.m)
	if w == nil {
		return ""
	}
	details := fmt.Sprintf("waits since %s for %s", w.GetSince().AsTime().UTC().Format(time.RFC3339), w.GetWhat())
	if w.GetRemedy() != "" {
		details += "; do: " + w.GetRemedy()
	}
	return details
}

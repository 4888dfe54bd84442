package machine

import (
	"fmt"
	"hash/fnv"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// maxOrders is how many operations a partition's machines may have open
	// before more are ordered without a person asking: a rack that loses power
	// must not come back all at once.
	maxOrders = 32
	// resurrectAfter is how long a waiting machine is dead before its power is
	// cycled, plus a share of resurrectJitter.
	resurrectAfter, resurrectJitter = time.Hour, 10 * time.Minute
)

// Advance does for a machine what is due without a person: it notices that
// nothing is heard of it any more, ends operations
// that nobody ends, takes the steps of a reclaim, gives up boots that lead to
// nothing and orders the boot medium. It takes one step at a time and reports
// whether it took one; id is for the operation it may order. Machines that are
// installed or locked are not touched.
func Advance(tx *store.Tx, uuid, id string) (bool, error) {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return false, err
	}
	if did, err := heed(tx, m); did || err != nil {
		return did, err
	}
	if did, err := Expire(tx, uuid); did || err != nil && !isNotFound(err) {
		return did, err
	}
	rec, err := records.Reclaims.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return false, err
	}
	if rec != nil {
		if did, err := reclaim(tx, m, rec, id); did || err != nil {
			return did, err
		}
	}
	if did, err := stuck(tx, m, rec); did || err != nil || rec != nil {
		return did, err
	}
	a, err := records.Allocations.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return false, err
	}
	if a.GetInstalled() != nil {
		return phoneHome(tx, m, a)
	}
	if m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED {
		return false, nil
	}
	if mayCrash(m) && overdue(tx, m, tx.Now()) {
		_, out, err := Happen(tx, uuid, Happening{Event: Crashed, Message: fmt.Sprintf("gave up after %s waiting for %s",
			tx.Now().Sub(m.GetPhaseSince().AsTime()).Round(time.Second), standingOf(m).what)})
		return out.Moved, err
	}
	reason := due(tx, m, tx.Now())
	// A person has asked for what a reclaim does, whatever else goes on.
	if reason == "" || m.GetPhase() != reclaiming && records.Operations.Count(tx, "open", m.GetPartition()) >= maxOrders {
		return false, nil
	}
	return true, Order(tx, id, m, actBootMedium, reason)
}

// mayCrash reports whether a machine's boot can be given up.
func mayCrash(m *privatev1.Machine) bool {
	switch m.GetPhase() {
	case poweringOn, booting, preparing, registering, installing:
		return true
	case wiping: // may take days; the agent ends by itself what takes too long
		return m.GetLiveliness() != alive
	case waiting:
		return m.GetAllocation() != ""
	default:
		return false
	}
}

// due returns why the machine must boot the medium now; empty if it need not.
// Only BMCs that an operator told of are used without being asked.
func due(r store.Reader, m *privatev1.Machine, now time.Time) string {
	if b, ok := records.MachineBMCs.Peek(r, m.GetUuid()); !ok || b.GetBmc() == "" && m.GetPhase() != reclaiming || !connected(r, m.GetUuid()) {
		return ""
	}
	o, ordered := records.Operations.Peek(r, m.GetUuid())
	if ordered && (o.GetOperation().GetDone() == nil || o.GetOperation().GetAction() == actBootMedium && now.Before(retryAt(o))) {
		return ""
	}
	since := now.Sub(m.GetPhaseSince().AsTime())
	switch m.GetPhase() {
	case discovered:
		return "the machine is new"
	case reclaiming:
		return "clean the machine after its allocation was deleted"
	case poweringOn:
		if o.GetOperation().GetError() != "" {
			return reinstallReason(r, m.GetUuid())
		}
	case booting:
		w, ok := records.BootWindows.Peek(r, m.GetUuid())
		open := ok && (w.GetUsed() == nil && now.Before(w.GetCloses().AsTime()) || reopens(r, w, m.GetBootId()))
		if !open && since >= backOff(len(m.GetFailedBoots())) {
			return "it booted outside of a boot window"
		}
	case crashed:
		if since >= backOff(len(m.GetFailedBoots())-1) {
			return "try again after a crash"
		}
	case phonedHome:
		if m.GetAllocation() == "" && since >= backOff(len(m.GetFailedBoots())) {
			return "the system of a former allocation still runs"
		}
	case waiting:
		if m.GetLiveliness() == dead && now.Sub(m.GetLastEvent().AsTime()) >= resurrectAfter+jitter(m.GetUuid()) {
			return "nothing was heard of it for an hour"
		}
	}
	return ""
}

// jitter is a machine's own share of resurrectJitter.
func jitter(uuid string) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(uuid))
	return time.Duration(h.Sum32()) % resurrectJitter
}

// phoneHome notices that the installed system was seen through a port that has
// moved: it is the port that counts, the name it sends is only checked.
func phoneHome(tx *store.Tx, m *privatev1.Machine, a *privatev1.Allocation) (bool, error) {
	if m.GetPhase() != bootingNewKernel && m.GetPhase() != crashed {
		return false, nil
	}
	for c := range records.Connections.By(tx, "machine", m.GetUuid()) {
		p, ok := records.LeafPorts.Peek(tx, records.PortKey(c.GetSwitch(), c.GetPort()))
		if !ok || p.GetClass() != ingotv1.PortClass_PORT_CLASS_MACHINE || p.GetHeard() == nil || !network.Provisioned(p.GetNeighbor()) {
			continue
		}
		message := "seen on " + portOf(c)
		if name := p.GetNeighbor().GetSystemName(); name != m.GetUuid() && name != a.GetAllocation().GetHostname() {
			message += fmt.Sprintf("; it calls itself %q", name)
		}
		_, out, err := Happen(tx, m.GetUuid(), Happening{Event: PhonedHome, Message: message})
		return out.Moved, err
	}
	return false, nil
}

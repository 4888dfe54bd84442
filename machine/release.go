package machine

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Free takes a machine away from its project: one transaction in which the
// allocation becomes a reclaim, the secrets go, and the addresses leave the
// project for quarantine. What follows is Advance's.
func Free(tx *store.Tx, uuid, project, by string) (*privatev1.Allocation, error) {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return nil, err
	}
	a, err := records.Allocations.Get(tx, uuid)
	if isNotFound(err) || err == nil && a.GetAllocation().GetProject() != project {
		return nil, fault.New(fault.NotFound, object(uuid), "not found", "")
	}
	if err != nil {
		return nil, err
	}
	if m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED {
		return nil, fault.Newf(fault.Precondition, "", "machine %s is LOCKED", uuid).Do("an operator must make it available first")
	}
	tx.Bump(Hot(a.GetPartition(), a.GetSize()))
	if _, err := records.Allocations.Delete(tx, uuid); err != nil {
		return nil, err
	}
	// What the old system may have taken from the agent's memory counts no more,
	// and neither does a window that an earlier power cycle opened.
	if err := dropTokens(tx, uuid); err != nil {
		return nil, err
	}
	if err := shutWindow(tx, uuid); err != nil {
		return nil, err
	}
	for _, key := range []string{records.UserdataKey(a.GetAllocation().GetUuid()), records.ConsoleKey(a.GetAllocation().GetUuid())} {
		if _, err := records.Secrets.Delete(tx, key); err != nil && !isNotFound(err) {
			return nil, err
		}
	}
	if err := network.Detach(tx, a.GetAllocation().GetUuid(), uuid); err != nil {
		return nil, err
	}
	if err := records.Reclaims.Insert(tx, &privatev1.Reclaim{Machine: uuid, Allocation: a, Created: timestamppb.New(tx.Now())}); err != nil {
		return nil, err
	}
	if _, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		m.Allocation = ""
		return nil
	}); err != nil {
		return nil, err
	}
	_, _, err = Happen(tx, uuid, Happening{Event: Reclaim, Message: "deleted by " + by})
	return a, err
}

// shutWindow removes a machine's boot window.
func shutWindow(tx *store.Tx, uuid string) error {
	_, err := records.BootWindows.Delete(tx, uuid)
	return ignoreNotFound(err)
}

// reclaim takes the next step of a reclaim that can be taken: power off is
// seen, then both leaves have moved the ports, then what the allocation had is
// released. It reports whether it took one. The leaves begin to move the ports
// when the allocation is deleted; what they report is looked at when the power
// is off. That the machine boots the medium is Advance's again.
func reclaim(tx *store.Tx, m *privatev1.Machine, rec *privatev1.Reclaim, id string) (bool, error) {
	switch {
	case rec.GetPowerOffSeen() == nil:
		return powerOff(tx, m, rec, id)
	case rec.GetPortsMoved() == nil:
		if !network.Moved(tx, m.GetUuid(), ingotv1.PortClass_PORT_CLASS_BOOT) {
			return false, nil
		}
		return true, stepReclaim(tx, rec, "ports", "both leaves have the ports in the boot VRF", func(r *privatev1.Reclaim) { r.PortsMoved = timestamppb.New(tx.Now()) })
	default:
		return true, release(tx, rec)
	}
}

// release ends a reclaim. From now on the machine waits for the boot medium.
func release(tx *store.Tx, rec *privatev1.Reclaim) error {
	uuid := rec.GetMachine()
	if err := network.Release(tx, rec.GetAllocation().GetAllocation().GetUuid(), uuid); err != nil {
		return err
	}
	if _, err := records.Reclaims.Delete(tx, uuid); err != nil {
		return err
	}
	if err := shutWindow(tx, uuid); err != nil {
		return err
	}
	if _, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		m.PhaseSince, m.FailedReclaim = timestamppb.New(tx.Now()), false
		return nil
	}); err != nil {
		return err
	}
	return Note(tx, uuid, Step{
		Source: fromAPI, Step: "release", Message: "its addresses and numbers are free again",
		Took: tx.Now().Sub(rec.GetCreated().AsTime()),
	})
}

// powerOff waits for the power to be off, and orders it if nobody has.
func powerOff(tx *store.Tx, m *privatev1.Machine, rec *privatev1.Reclaim, id string) (bool, error) {
	seen := func(at *timestamppb.Timestamp) (bool, error) {
		return true, stepReclaim(tx, rec, "power off", "the BMC reports power off", func(r *privatev1.Reclaim) { r.PowerOffSeen = at })
	}
	if b, ok := records.MachineBMCs.Peek(tx, m.GetUuid()); ok && isOff(b.GetReport().GetBmc().GetPowerState()) && b.GetReport().GetUpdatedAt().AsTime().After(rec.GetCreated().AsTime()) {
		return seen(b.GetReport().GetUpdatedAt())
	}
	o, err := records.Operations.Get(tx, m.GetUuid())
	switch {
	case isNotFound(err):
	case err != nil:
		return false, err
	case o.GetOperation().GetDone() == nil:
		return false, nil
	case o.GetOperation().GetId() == rec.GetOff() && o.GetOperation().GetPowerOffSeen() != nil:
		return seen(o.GetOperation().GetPowerOffSeen())
	case o.GetOperation().GetId() == rec.GetOff() && tx.Now().Before(retryAt(o)):
		return false, nil
	}
	if !connected(tx, m.GetUuid()) {
		return false, nil
	}
	if err := Order(tx, id, m, actOff, "its allocation was deleted"); err != nil {
		return false, err
	}
	_, err = records.Reclaims.Change(tx, m.GetUuid(), func(r *privatev1.Reclaim) error {
		r.Off = id
		return nil
	})
	return true, err
}

func isOff(state string) bool { return state == "Off" || state == "OFF" || state == "off" }

// stepReclaim records that a step was seen to be done; what kept it from being
// done is no issue any more.
func stepReclaim(tx *store.Tx, rec *privatev1.Reclaim, step, message string, edit func(*privatev1.Reclaim)) error {
	if _, err := records.Reclaims.Change(tx, rec.GetMachine(), func(r *privatev1.Reclaim) error {
		edit(r)
		return nil
	}); err != nil {
		return err
	}
	if m, err := records.Machines.Get(tx, rec.GetMachine()); err != nil {
		return err
	} else if m.GetFailedReclaim() {
		if err := failedReclaim(tx, rec.GetMachine(), false); err != nil {
			return err
		}
	}
	return Note(tx, rec.GetMachine(), Step{
		Source: fromAPI, Step: step, Message: message, Took: tx.Now().Sub(rec.GetCreated().AsTime()),
	})
}

// retryAt returns when a failed operation may be tried again.
func retryAt(o *privatev1.Operation) time.Time {
	if o.GetOperation().GetError() == "" {
		return o.GetOperation().GetDone().AsTime()
	}
	return o.GetOperation().GetDone().AsTime().Add(backOff(int(o.GetOperation().GetAttempts())))
}

// backOff doubles from half a minute to an hour.
func backOff(n int) time.Duration {
	const first, most = 30 * time.Second, time.Hour
	if n > 7 {
		return most
	}
	return min(first<<max(n, 0), most)
}

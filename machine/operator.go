package machine

import (
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// ConfirmOff takes a person's word that a machine whose power nobody can read
// is off, and so lets its reclaim go on. It counts for that only: it opens no
// boot window. An operation that has not ended is given up. It is
// fault.Precondition if no reclaim waits for it, or if the BMC tells that the
// power is on.
func ConfirmOff(tx *store.Tx, uuid, by, reason string) error {
	if _, err := records.Machines.Get(tx, uuid); err != nil {
		return err
	}
	rec, err := records.Reclaims.Get(tx, uuid)
	if isNotFound(err) {
		return fault.New(fault.Precondition, object(uuid), "has no deleted allocation that waits for power off",
			"'ingot machine timeline' shows what it waits for")
	}
	if err != nil {
		return err
	}
	if at := rec.GetPowerOffSeen(); at != nil {
		return fault.Newf(fault.Precondition, object(uuid), "power off was seen at %s", at.AsTime().UTC().Format(time.RFC3339)).
			Do("'ingot machine timeline' shows what it waits for")
	}
	if state, told := power(tx, uuid); told && !isOff(state) {
		return fault.Newf(fault.Precondition, object(uuid), "its BMC reports power %q", state).
			Do("turn it off with 'ingot machine bmc-command --command off', or cut the BMC off, too")
	}
	if o, err := records.Operations.Get(tx, uuid); err == nil && o.GetOperation().GetDone() == nil {
		if err := Done(tx, Result{ID: o.GetOperation().GetId(), Error: "given up: " + by + " confirmed that the machine is off"}); err != nil {
			return err
		}
	} else if err != nil && !isNotFound(err) {
		return err
	}
	return stepReclaim(tx, rec, "power off", by+" confirmed that it is off: "+reason, func(r *privatev1.Reclaim) { r.PowerOffSeen = timestamppb.New(tx.Now()) })
}

// power returns what the BMC of a machine tells of its power; false if nobody
// has been able to read it for a while.
func power(tx *store.Tx, uuid string) (state string, told bool) {
	b, ok := records.MachineBMCs.Peek(tx, uuid)
	state = b.GetReport().GetBmc().GetPowerState()
	if !ok || state == "" || tx.Now().Sub(b.GetReport().GetUpdatedAt().AsTime()) >= 2*coarsely {
		return "", false
	}
	status, _ := records.BMCStatuses.Peek(tx, records.BMCKey(b.GetPartition(), b.GetBmc()))
	return state, status.GetStatus().GetLastError() == ""
}

// BootMedium orders what a person asks for: the boot medium, and a power cycle
// into it. That would be the end of an installed system, so that it is refused
// where one runs or may still run.
func BootMedium(tx *store.Tx, id, uuid, by string) error {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	if err := mayLose(tx, m); err != nil {
		return err
	}
	if !connected(tx, uuid) {
		return fault.New(fault.Precondition, object(uuid), "nobody knows how to reach its BMC", "add the BMC with 'ingot bmc create'")
	}
	return Order(tx, id, m, actBootMedium, "asked for by "+by)
}

// mayLose refuses machines that must not be rebooted into the medium, which
// ends their system: locked ones, and those where one runs or may still run.
func mayLose(tx *store.Tx, m *privatev1.Machine) error {
	uuid := m.GetUuid()
	if m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED {
		return fault.Newf(fault.Precondition, "", "machine %s is LOCKED", uuid).Do("make it available first with 'ingot machine set-state'")
	}
	if a, err := records.Allocations.Get(tx, uuid); err == nil && a.GetInstalled() != nil {
		return fault.New(fault.Precondition, object(uuid), "is allocated and installed, it boots from its disk",
			"its project can give it back with 'ingot machine delete'")
	} else if err != nil && !isNotFound(err) {
		return err
	}
	_, err := records.Reclaims.Get(tx, uuid)
	if err == nil {
		return fault.New(fault.Precondition, object(uuid), "its former allocation is not released yet",
			"'ingot machine timeline' shows what that waits for; the boot medium follows on its own")
	}
	return ignoreNotFound(err)
}

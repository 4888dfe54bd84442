package machine

import (
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const available = apiv2.MachineState_MACHINE_STATE_AVAILABLE

// stateName returns a state in lower-case words.
func stateName(s apiv2.MachineState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "MACHINE_STATE_"))
}

// SetState locks or taints an available machine, or makes it available again.
func SetState(tx *store.Tx, uuid string, state apiv2.MachineState, description, by string) error {
	switch {
	case state == apiv2.MachineState_MACHINE_STATE_UNSPECIFIED:
		return fault.New(fault.Invalid, "", "state must be given: available, locked or tainted", "")
	case state == available && description != "":
		return fault.New(fault.Invalid, "", "description must be empty when a machine is made available", "")
	case state != available && description == "":
		return fault.Newf(fault.Invalid, "", "description is required to make a machine %s", stateName(state))
	}
	_, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		if now := m.GetCondition().GetState(); now != available && state != available && now != state {
			return fault.Newf(fault.Precondition, "", "machine is currently %q, must made available first", stateName(now))
		}
		m.Condition = &apiv2.MachineCondition{State: state, Description: description, Issuer: by}
		return nil
	})
	return err
}

// Waits reports whether a machine waits for an allocation: it is clean, and
// its agent listens.
func Waits(m *privatev1.Machine) bool { return records.Waits(m) }

// Forget removes a machine that is gone: one that is neither allocated nor
// being reclaimed, and of which nothing is heard any more.
func Forget(tx *store.Tx, uuid string) error {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	if m.GetAllocation() != "" {
		return fault.Newf(fault.Precondition, object(uuid), "is allocated").Do("delete the allocation first")
	}
	if _, err := records.Reclaims.Get(tx, uuid); err == nil {
		return fault.Newf(fault.Precondition, object(uuid), "is still being reclaimed").Do("wait until its addresses are released")
	}
	if m.GetLiveliness() == alive {
		return fault.Newf(fault.Precondition, object(uuid), "is alive").Do("power it off, and wait until it counts as dead")
	}
	for c := range records.Connections.By(tx, "machine", uuid) {
		if _, err := records.Connections.Delete(tx, records.PortKey(c.GetSwitch(), c.GetPort())); err != nil {
			return err
		}
	}
	for b := range records.BMCStatuses.By(tx, "machine", uuid) {
		if _, err := records.BMCStatuses.Delete(tx, records.BMCKey(b.GetPartition(), b.GetId())); err != nil {
			return err
		}
	}
	if err := dropTokens(tx, uuid); err != nil {
		return err
	}
	for _, drop := range []func() error{
		func() error { _, err := records.Machines.Delete(tx, uuid); return err },
		func() error { _, err := records.Hardware.Delete(tx, uuid); return err },
		func() error { _, err := records.Events.Delete(tx, uuid); return err },
		func() error { _, err := records.MachineBMCs.Delete(tx, uuid); return err },
		func() error { _, err := records.Operations.Delete(tx, uuid); return err },
		func() error { _, err := records.Boots.Delete(tx, uuid); return err },
		func() error { _, err := records.BootWindows.Delete(tx, uuid); return err },
		func() error { _, err := records.Secrets.Delete(tx, records.MachineBMCPasswordKey(uuid)); return err },
	} {
		if err := drop(); err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

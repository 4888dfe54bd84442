package api

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A machineView is a machine as the v2 API shows it, and what its queries ask
// for beyond that.
type machineView struct {
	*apiv2.Machine
	state  *privatev1.Machine
	report *apiv2.MachineBMCReport // without the password
}

// viewMachine joins the parts of a machine. Secrets are not among them.
func viewMachine(r store.Reader, m *privatev1.Machine) machineView {
	a, allocated := records.Allocations.Peek(r, m.GetUuid())
	h, _ := records.Hardware.Peek(r, m.GetUuid())
	e, _ := records.Events.Peek(r, m.GetUuid())
	b, _ := records.MachineBMCs.Peek(r, m.GetUuid())
	v := machineView{state: m, report: b.GetReport()}
	v.Machine = &apiv2.Machine{
		Uuid: m.GetUuid(), Meta: m.GetMeta(), Rack: m.GetRack(), Room: m.GetRoom(),
		Hardware: h.GetInventory().GetHardware(),
		Status: &apiv2.MachineStatus{
			Condition: m.GetCondition(), LedState: b.GetReport().GetLedState(), Liveliness: m.GetLiveliness(), MetalHammerVersion: m.GetAgentVersion(),
		},
		RecentProvisioningEvents: recentEvents(m, e),
	}
	if p, ok := records.Partitions.Peek(r, m.GetPartition()); ok {
		v.Partition = p
	}
	if s, ok := records.Sizes.Peek(r, m.GetSize()); ok {
		v.Size = s
	}
	if allocated {
		v.Allocation = a.GetAllocation()
		if i, ok := records.Images.Peek(r, v.Allocation.GetImage().GetId()); ok {
			v.Allocation.Image = i
		}
		// Who sees a machine of a project, and changes it, means the allocation.
		meta := v.Allocation.GetMeta()
		v.Meta.UpdatedAt, v.Meta.Generation = meta.GetUpdatedAt(), meta.GetGeneration()
	}
	if labels := machine.Labels(m, a, b.GetReport().GetFru()); len(labels) > 0 {
		v.Meta.Labels = &apiv2.Labels{Labels: labels}
	}
	return v
}

// recentEvents returns the provisioning events of a machine, newest first.
func recentEvents(m *privatev1.Machine, e *privatev1.Events) *apiv2.MachineRecentProvisioningEvents {
	out := &apiv2.MachineRecentProvisioningEvents{LastEventTime: m.GetLastEvent(), LastErrorEvent: m.GetLastError()}
	for _, ev := range e.GetEvents() {
		out.Events = append(out.Events, &apiv2.MachineProvisioningEvent{Time: ev.GetTime(), Event: ev.GetType(), Message: ev.GetMessage()})
	}
	switch {
	case m.GetFailedReclaim():
		out.State = apiv2.MachineProvisioningEventState_MACHINE_PROVISIONING_EVENT_STATE_FAILED_RECLAIM
	case m.GetCrashLoop():
		out.State = apiv2.MachineProvisioningEventState_MACHINE_PROVISIONING_EVENT_STATE_CRASHLOOP
	}
	return out
}

// bmcReport returns what is known of a machine's BMC, with its password.
func (s *Server) bmcReport(r store.Reader, uuid string) (*apiv2.MachineBMCReport, error) {
	b, ok := records.MachineBMCs.Peek(r, uuid)
	if !ok {
		return &apiv2.MachineBMCReport{}, nil
	}
	key := records.MachineBMCPasswordKey(uuid)
	if b.GetBmc() != "" {
		key = records.BMCPasswordKey(b.GetPartition(), b.GetBmc())
	}
	password, err := s.unseal(r, key)
	if err != nil {
		return nil, err
	}
	report := b.GetReport()
	if report.GetBmc() == nil {
		report.Bmc = &apiv2.MachineBMC{}
	}
	report.Bmc.Password = password
	status, _ := records.BMCStatuses.Peek(r, records.BMCKey(b.GetPartition(), b.GetBmc()))
	if b.GetBmc() != "" && status.GetStatus().GetOwnAccount() {
		own, err := s.account(r, records.BMCOwnKey(b.GetPartition(), b.GetBmc()))
		if err != nil {
			return nil, err
		}
		report.Bmc.User, report.Bmc.Password = own.GetUser(), own.GetPassword()
	}
	return report, nil
}

// machineChange is what a change of a part of a machine looks like: that of the
// whole, in the project that has it.
func machineChange(r store.Reader, e store.Event) (change, error) {
	c := change{id: e.Key}
	m, ok := records.Machines.Peek(r, e.Key)
	if !ok {
		return c, nil
	}
	v := viewMachine(r, m)
	c.now, c.in, c.before = v.Machine, v.GetAllocation().GetProject(), v.GetAllocation().GetProject()
	return c, nil
}

// allocationChange is machineChange for the part that says whose it is.
func allocationChange(r store.Reader, e store.Event) (change, error) {
	c, err := machineChange(r, e)
	if c.before = ""; err == nil && e.Old != nil {
		var old *privatev1.Allocation
		if old, err = records.Allocations.Decode(e.Old); err == nil {
			c.before = old.GetAllocation().GetProject()
		}
	}
	return c, err
}

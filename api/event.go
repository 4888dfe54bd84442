package api

import (
	"context"
	"maps"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// events serves those who tell what happens to machines through the v2 API.
type events struct{ *Server }

var _ infrav2connect.EventServiceHandler = events{}

// Send implements the v2 API. The time of an event is when it arrives: the
// clocks of servers are not to be relied on. An event of a machine that is not
// known creates nothing, and one that fails does not keep others from counting.
func (s events) Send(ctx context.Context, req *infrav2.EventServiceSendRequest) (*infrav2.EventServiceSendResponse, error) {
	out := &infrav2.EventServiceSendResponse{}
	for _, uuid := range slices.Sorted(maps.Keys(req.GetEvents())) {
		if err := s.receive(ctx, uuid, req.GetEvents()[uuid]); err != nil {
			s.log.WarnContext(ctx, "api: event not recorded", "machine", uuid, "error", err)
			out.Failed = append(out.Failed, uuid)
			continue
		}
		out.Events++
	}
	return out, nil
}

// receive records one event. A sign of life that changes nothing is not
// written.
func (s *Server) receive(ctx context.Context, uuid string, e *apiv2.MachineProvisioningEvent) error {
	event, ok := machine.EventOf(e.GetEvent())
	if !ok {
		return fault.New(fault.Invalid, "machine "+uuid, "the event has no type", "")
	}
	m, err := records.Machines.Get(s.view(ctx), uuid)
	if err != nil {
		return err
	}
	if err := callerOf(ctx).CheckFarEnd(m.GetPartition(), ""); err != nil {
		return err
	}
	s.sightings.saw(uuid, s.cfg.Now())
	if event == machine.Alive && machine.StaysAlive(m) {
		return nil
	}
	if event == machine.Reclaim && m.GetAllocation() != "" {
		return fault.New(fault.Precondition, "machine "+uuid, "is allocated", "delete the machine, which says that it is reclaimed")
	}
	return s.update(ctx, func(tx *store.Tx) error {
		_, _, err := machine.Happen(tx, uuid, machine.Happening{Event: event, Message: e.GetMessage()})
		return err
	})
}

package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// agents serves the boot images.
type agents struct{ *Server }

var _ ingotv1connect.AgentServiceHandler = agents{}

// inBoot refuses a machine's token that was given for another boot.
func inBoot(ctx context.Context, bootID string) error {
	if t := callerOf(ctx).Token; t.GetBootId() != "" && t.GetBootId() != bootID {
		return fault.Newf(fault.Denied, "boot "+bootID, "the token is for boot %s", t.GetBootId())
	}
	return nil
}

// Register implements ingot.v1.
func (s agents) Register(ctx context.Context, req *connect.Request[ingotv1.AgentServiceRegisterRequest]) (*connect.Response[ingotv1.AgentServiceRegisterResponse], error) {
	if err := inBoot(ctx, req.Msg.GetBootId()); err != nil {
		return nil, err
	}
	var m *privatev1.Machine
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		m, err = machine.Register(tx, machine.Registration{UUID: req.Msg.GetUuid(), BootID: req.Msg.GetBootId(), Inventory: req.Msg.GetInventory()})
		return err
	}); err != nil {
		return nil, s.troubled(ctx, req.Msg.GetUuid(), req.Msg.GetBootId(), err)
	}
	return connect.NewResponse(&ingotv1.AgentServiceRegisterResponse{Partition: m.GetPartition(), Size: m.GetSize(), Wipe: machine.Wipe(s.view(ctx), req.Msg.GetUuid(), req.Msg.GetInventory())}), nil
}

// troubled tells the story of a machine why it gets no further, and returns
// the error.
func (s *Server) troubled(ctx context.Context, uuid, bootID string, why error) error {
	if fault.KindOf(why) != fault.Precondition {
		return why
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error { return machine.Troubled(tx, uuid, bootID, why.Error()) }); err != nil {
		s.log.WarnContext(ctx, "api: trouble not recorded", "machine", uuid, "error", err)
	}
	return why
}

// Report implements ingot.v1. Progress is kept in memory: it is worth showing,
// and not worth keeping.
func (s agents) Report(ctx context.Context, req *connect.Request[ingotv1.AgentServiceReportRequest]) (*connect.Response[ingotv1.AgentServiceReportResponse], error) {
	if err := inBoot(ctx, req.Msg.GetBootId()); err != nil {
		return nil, err
	}
	s.sightings.saw(req.Msg.GetUuid(), s.cfg.Now())
	s.progress.note(req.Msg, s.cfg.Now())
	if req.Msg.GetState() == ingotv1.StepState_STEP_STATE_PROGRESS {
		return connect.NewResponse(&ingotv1.AgentServiceReportResponse{}), nil
	}
	return connect.NewResponse(&ingotv1.AgentServiceReportResponse{}), s.update(ctx, func(tx *store.Tx) error {
		return machine.Reported(tx, machine.AgentReport{
			UUID: req.Msg.GetUuid(), BootID: req.Msg.GetBootId(), Step: req.Msg.GetStep(), State: req.Msg.GetState(), Message: req.Msg.GetMessage(), Took: req.Msg.GetTook().AsDuration(),
		})
	})
}

// Wait implements ingot.v1.
func (s agents) Wait(ctx context.Context, req *connect.Request[ingotv1.AgentServiceWaitRequest], stream *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error {
	if err := inBoot(ctx, req.Msg.GetBootId()); err != nil {
		return err
	}
	uuid, told := req.Msg.GetUuid(), ""
	if err := s.db.Update(ctx, func(tx *store.Tx) error { return machine.Ready(tx, uuid, req.Msg.GetBootId()) }); err != nil {
		return s.troubled(ctx, uuid, req.Msg.GetBootId(), err)
	}
	s.progress.forget(uuid)
	first := true
	return s.follow(ctx, func(snap store.Snapshot, sign bool) error {
		s.sightings.saw(uuid, s.cfg.Now())
		m, err := records.Machines.Get(snap, uuid)
		if err != nil {
			return err
		}
		if m.GetBootId() != req.Msg.GetBootId() {
			return fault.Newf(fault.Precondition, "machine "+uuid, "boot %s is over", req.Msg.GetBootId())
		}
		in, err := s.installation(snap, uuid)
		if err != nil {
			return err
		}
		switch {
		case in != nil && in.GetAllocation().GetUuid() != told:
			told = in.GetAllocation().GetUuid()
			return stream.Send(&ingotv1.AgentServiceWaitResponse{Installation: in})
		case sign || first:
			first = false
			return stream.Send(&ingotv1.AgentServiceWaitResponse{})
		default:
			return nil
		}
	}, "allocation/"+uuid, "machine/"+uuid)
}

// Installed implements ingot.v1.
func (s agents) Installed(ctx context.Context, req *connect.Request[ingotv1.AgentServiceInstalledRequest]) (*connect.Response[ingotv1.AgentServiceInstalledResponse], error) {
	if err := inBoot(ctx, req.Msg.GetBootId()); err != nil {
		return nil, err
	}
	err := s.installed(ctx, req.Msg.GetUuid(), req.Msg.GetBootId(), req.Msg.GetAllocation(), req.Msg.GetConsolePassword())
	if err == nil {
		s.progress.forget(req.Msg.GetUuid())
	}
	return connect.NewResponse(&ingotv1.AgentServiceInstalledResponse{}), err
}

// Refresh implements ingot.v1.
func (s agents) Refresh(ctx context.Context, req *connect.Request[ingotv1.AgentServiceRefreshRequest]) (*connect.Response[ingotv1.AgentServiceRefreshResponse], error) {
	var t *privatev1.Token
	uuid := newID()
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		t, err = machine.Refresh(tx, req.Msg.GetUuid(), callerOf(ctx).Token, req.Msg.GetSignature(), uuid)
		return err
	}); err != nil {
		return nil, err
	}
	signed, err := s.sign(t.GetToken())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.AgentServiceRefreshResponse{Token: signed, Expires: t.GetToken().GetExpires()}), nil
}

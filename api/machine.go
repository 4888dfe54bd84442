package api

import (
	"context"
	"math/rand/v2"
	"slices"

	"connectrpc.com/connect"
	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// machines serves the machines of a project.
type machines struct{ *Server }

// adminMachines serves all machines.
type adminMachines struct{ *Server }

// operatorMachines serves what the v2 API has no call for.
type operatorMachines struct{ *Server }

var (
	_ ingotv1connect.MachineServiceHandler = operatorMachines{}
	_ apiv2connect.MachineServiceHandler   = machines{}
	_ adminv2connect.MachineServiceHandler = adminMachines{}
)

// own returns a machine of a project. One of another project is not found, in
// the same words as one that does not exist.
func own(r store.Reader, uuid, project string) (*privatev1.Machine, error) {
	m, err := records.Machines.Get(r, uuid)
	if err != nil {
		return nil, err
	}
	if a, ok := records.Allocations.Peek(r, uuid); !ok || a.GetAllocation().GetProject() != project {
		return nil, fault.New(fault.NotFound, "machine "+uuid, "not found", "")
	}
	return m, nil
}

// ofProject yields the machines of a project.
func ofProject(r store.Reader, project string) func(func(*privatev1.Machine) bool) {
	return func(yield func(*privatev1.Machine) bool) {
		for a := range records.Allocations.By(r, "project", project) {
			if m, ok := records.Machines.Peek(r, a.GetMachine()); ok && !yield(m) {
				return
			}
		}
	}
}

// wireMachines returns the machines of views.
func wireMachines(views []machineView) []*apiv2.Machine {
	out := make([]*apiv2.Machine, 0, len(views))
	for _, v := range views {
		out = append(out, v.Machine)
	}
	return out
}

// Get implements the v2 API.
func (s machines) Get(ctx context.Context, req *apiv2.MachineServiceGetRequest) (*apiv2.MachineServiceGetResponse, error) {
	m, err := own(s.view(ctx), req.GetUuid(), req.GetProject())
	if err != nil {
		return nil, err
	}
	return &apiv2.MachineServiceGetResponse{Machine: viewMachine(s.view(ctx), m).Machine}, nil
}

// List implements the v2 API.
func (s machines) List(ctx context.Context, req *apiv2.MachineServiceListRequest) (*apiv2.MachineServiceListResponse, error) {
	views := listMachines(s.view(ctx), req.GetQuery(), ofProject(s.view(ctx), req.GetProject()))
	return &apiv2.MachineServiceListResponse{Machines: wireMachines(views)}, nil
}

// Create implements the v2 API: it allocates a machine in one transaction.
func (s machines) Create(ctx context.Context, req *apiv2.MachineServiceCreateRequest) (*apiv2.MachineServiceCreateResponse, error) {
	caller := callerOf(ctx)
	w := machine.Want{
		Request: proto.CloneOf(req), UUID: newID(), User: caller.User(), Admin: caller.AdminRole(s.view(ctx)) == apiv2.AdminRole_ADMIN_ROLE_EDITOR,
		NewID: newID, Pick: rand.IntN,
	}
	if req.GetUserdata() != "" {
		sealed := s.seal(records.UserdataKey(w.UUID), req.GetUserdata())
		w.Userdata, w.Request.Userdata = sealed, nil
	}
	var uuid string
	err := s.update(ctx, func(tx *store.Tx) error {
		a, err := machine.Allocate(tx, w)
		uuid = a.GetMachine()
		return err
	}, store.Hot(machine.Hot(req.GetPartition(), req.GetSize())))
	if err != nil {
		return nil, err
	}
	m, err := records.Machines.Get(s.view(ctx), uuid)
	if err != nil {
		return nil, err
	}
	return &apiv2.MachineServiceCreateResponse{Machine: viewMachine(s.view(ctx), m).Machine}, nil
}

// Update implements the v2 API: it changes the allocation of a machine.
func (s machines) Update(ctx context.Context, req *apiv2.MachineServiceUpdateRequest) (*apiv2.MachineServiceUpdateResponse, error) {
	if err := s.update(ctx, func(tx *store.Tx) error {
		if _, err := own(tx, req.GetUuid(), req.GetProject()); err != nil {
			return err
		}
		if err := machine.CheckKeys(req.GetSshPublicKeys()); err != nil {
			return err
		}
		_, err := records.Allocations.Change(tx, req.GetUuid(), func(a *privatev1.Allocation) error {
			full := a.GetAllocation()
			if err := checkMeta("machine", req.GetUuid(), full.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&full.Description, req.Description)
			setList(&full.SshPublicKeys, req.GetSshPublicKeys())
			updateLabels(full.GetMeta(), req.GetLabels())
			return nil
		})
		return err
	}); err != nil {
		return nil, err
	}
	m, err := own(s.view(ctx), req.GetUuid(), req.GetProject())
	if err != nil {
		return nil, err
	}
	return &apiv2.MachineServiceUpdateResponse{Machine: viewMachine(s.view(ctx), m).Machine}, nil
}

// Delete implements the v2 API: the machine leaves the project at once, and is
// cleaned afterwards.
func (s machines) Delete(ctx context.Context, req *apiv2.MachineServiceDeleteRequest) (*apiv2.MachineServiceDeleteResponse, error) {
	m, err := own(s.view(ctx), req.GetUuid(), req.GetProject())
	if err != nil {
		return nil, err
	}
	was := viewMachine(s.view(ctx), m)
	if err := s.update(ctx, func(tx *store.Tx) error {
		_, err := machine.Free(tx, req.GetUuid(), req.GetProject(), callerOf(ctx).User())
		return err
	}); err != nil {
		return nil, err
	}
	return &apiv2.MachineServiceDeleteResponse{Machine: was.Machine}, nil
}

// BMCCommand implements the v2 API.
func (s machines) BMCCommand(ctx context.Context, req *apiv2.MachineServiceBMCCommandRequest) (*apiv2.MachineServiceBMCCommandResponse, error) {
	err := s.command(ctx, func(tx *store.Tx) (*privatev1.Machine, error) { return own(tx, req.GetUuid(), req.GetProject()) }, req.GetCommand())
	return &apiv2.MachineServiceBMCCommandResponse{}, err
}

// GetBMC implements the v2 API.
func (s machines) GetBMC(ctx context.Context, req *apiv2.MachineServiceGetBMCRequest) (*apiv2.MachineServiceGetBMCResponse, error) {
	if _, err := own(s.view(ctx), req.GetUuid(), req.GetProject()); err != nil {
		return nil, err
	}
	report, err := s.bmcReport(s.view(ctx), req.GetUuid())
	return &apiv2.MachineServiceGetBMCResponse{Uuid: req.GetUuid(), Bmc: report}, err
}

// command orders what a person asks of a machine's BMC.
func (s *Server) command(ctx context.Context, find func(*store.Tx) (*privatev1.Machine, error), c apiv2.MachineBMCCommand) error {
	id, by := newID(), callerOf(ctx).User()
	return s.update(ctx, func(tx *store.Tx) error {
		m, err := find(tx)
		if err != nil {
			return err
		}
		return machine.Command(tx, id, m, c, by)
	})
}

// Get implements the v2 API.
func (s adminMachines) Get(ctx context.Context, req *adminv2.MachineServiceGetRequest) (*adminv2.MachineServiceGetResponse, error) {
	m, err := records.Machines.Get(s.view(ctx), req.GetUuid())
	if err != nil {
		return nil, err
	}
	return &adminv2.MachineServiceGetResponse{Machine: viewMachine(s.view(ctx), m).Machine}, nil
}

// List implements the v2 API.
func (s adminMachines) List(ctx context.Context, req *adminv2.MachineServiceListRequest) (*adminv2.MachineServiceListResponse, error) {
	views := listMachines(s.view(ctx), req.GetQuery(), records.Machines.All(s.view(ctx)))
	if req.Partition != nil {
		views = slices.DeleteFunc(views, func(v machineView) bool { return v.state.GetPartition() != req.GetPartition() })
	}
	return &adminv2.MachineServiceListResponse{Machines: wireMachines(views)}, nil
}

// Delete implements the v2 API: it forgets a machine that is gone.
func (s adminMachines) Delete(ctx context.Context, req *adminv2.MachineServiceDeleteRequest) (*adminv2.MachineServiceDeleteResponse, error) {
	m, err := records.Machines.Get(s.view(ctx), req.GetUuid())
	if err != nil {
		return nil, err
	}
	was := viewMachine(s.view(ctx), m)
	if err := s.update(ctx, func(tx *store.Tx) error { return machine.Forget(tx, req.GetUuid()) }); err != nil {
		return nil, err
	}
	return &adminv2.MachineServiceDeleteResponse{Machine: was.Machine}, nil
}

// BMCCommand implements the v2 API.
func (s adminMachines) BMCCommand(ctx context.Context, req *adminv2.MachineServiceBMCCommandRequest) (*adminv2.MachineServiceBMCCommandResponse, error) {
	err := s.command(ctx, func(tx *store.Tx) (*privatev1.Machine, error) { return records.Machines.Get(tx, req.GetUuid()) }, req.GetCommand())
	return &adminv2.MachineServiceBMCCommandResponse{}, err
}

// GetBMC implements the v2 API.
func (s adminMachines) GetBMC(ctx context.Context, req *adminv2.MachineServiceGetBMCRequest) (*adminv2.MachineServiceGetBMCResponse, error) {
	if _, err := records.Machines.Get(s.view(ctx), req.GetUuid()); err != nil {
		return nil, err
	}
	report, err := s.bmcReport(s.view(ctx), req.GetUuid())
	return &adminv2.MachineServiceGetBMCResponse{Uuid: req.GetUuid(), Bmc: report}, err
}

// ListBMC implements the v2 API.
func (s adminMachines) ListBMC(ctx context.Context, req *adminv2.MachineServiceListBMCRequest) (*adminv2.MachineServiceListBMCResponse, error) {
	out := &adminv2.MachineServiceListBMCResponse{BmcReports: map[string]*apiv2.MachineBMCReport{}}
	for b := range records.MachineBMCs.All(s.view(ctx)) {
		if !bmcFilter.match(req.GetQuery(), b.GetReport().GetBmc()) {
			continue
		}
		report, err := s.bmcReport(s.view(ctx), b.GetUuid())
		if err != nil {
			return nil, err
		}
		out.BmcReports[b.GetUuid()] = report
	}
	return out, nil
}

// ConsolePassword implements the v2 API. The reason is for the audit.
func (s adminMachines) ConsolePassword(ctx context.Context, req *adminv2.MachineServiceConsolePasswordRequest) (*adminv2.MachineServiceConsolePasswordResponse, error) {
	m, err := records.Machines.Get(s.view(ctx), req.GetUuid())
	if err != nil {
		return nil, err
	}
	password, err := s.unseal(s.view(ctx), records.ConsoleKey(m.GetAllocation()))
	if err != nil {
		return nil, err
	}
	if m.GetAllocation() == "" || password == "" {
		return nil, fault.New(fault.Precondition, "machine "+req.GetUuid(), "has no console password", "it gets one when its installation is reported")
	}
	return &adminv2.MachineServiceConsolePasswordResponse{Uuid: req.GetUuid(), Password: password}, nil
}

// SetState implements the v2 API.
func (s adminMachines) SetState(ctx context.Context, req *adminv2.MachineServiceSetStateRequest) (*adminv2.MachineServiceSetStateResponse, error) {
	if err := s.update(ctx, func(tx *store.Tx) error {
		return machine.SetState(tx, req.GetUuid(), req.GetState(), req.GetDescription(), callerOf(ctx).User())
	}); err != nil {
		return nil, err
	}
	m, err := records.Machines.Get(s.view(ctx), req.GetUuid())
	if err != nil {
		return nil, err
	}
	return &adminv2.MachineServiceSetStateResponse{Machine: viewMachine(s.view(ctx), m).Machine}, nil
}

// Issues implements the v2 API.
func (s adminMachines) Issues(ctx context.Context, req *adminv2.MachineServiceIssuesRequest) (*adminv2.MachineServiceIssuesResponse, error) {
	out := &adminv2.MachineServiceIssuesResponse{}
	for _, v := range listMachines(s.view(ctx), req.GetQuery().GetMachineQuery(), records.Machines.All(s.view(ctx))) {
		if issues := machine.Issues(s.view(ctx), v.state, req.GetQuery(), s.cfg.Now()); len(issues) > 0 {
			out.Issues = append(out.Issues, &apiv2.MachineIssues{Uuid: v.GetUuid(), Issues: issues})
		}
	}
	return out, nil
}

// ConfirmOff implements ingot.v1.
func (s operatorMachines) ConfirmOff(ctx context.Context, req *connect.Request[ingotv1.MachineServiceConfirmOffRequest]) (*connect.Response[ingotv1.MachineServiceConfirmOffResponse], error) {
	m, err := s.changed(ctx, req.Msg.GetUuid(), func(tx *store.Tx) error {
		return machine.ConfirmOff(tx, req.Msg.GetUuid(), callerOf(ctx).User(), req.Msg.GetReason())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.MachineServiceConfirmOffResponse{Machine: m}), nil
}

// BootMedium implements ingot.v1.
func (s operatorMachines) BootMedium(ctx context.Context, req *connect.Request[ingotv1.MachineServiceBootMediumRequest]) (*connect.Response[ingotv1.MachineServiceBootMediumResponse], error) {
	id := newID()
	m, err := s.changed(ctx, req.Msg.GetUuid(), func(tx *store.Tx) error {
		return machine.BootMedium(tx, id, req.Msg.GetUuid(), callerOf(ctx).User())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.MachineServiceBootMediumResponse{Machine: m}), nil
}

// Shutdown implements ingot.v1.
func (s operatorMachines) Shutdown(ctx context.Context, req *connect.Request[ingotv1.MachineServiceShutdownRequest]) (*connect.Response[ingotv1.MachineServiceShutdownResponse], error) {
	id := newID()
	m, err := s.changed(ctx, req.Msg.GetUuid(), func(tx *store.Tx) error {
		return machine.Shutdown(tx, id, req.Msg.GetUuid(), callerOf(ctx).User())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.MachineServiceShutdownResponse{Machine: m}), nil
}

// Interrupt implements ingot.v1.
func (s operatorMachines) Interrupt(ctx context.Context, req *connect.Request[ingotv1.MachineServiceInterruptRequest]) (*connect.Response[ingotv1.MachineServiceInterruptResponse], error) {
	id := newID()
	m, err := s.changed(ctx, req.Msg.GetUuid(), func(tx *store.Tx) error {
		return machine.Interrupt(tx, id, req.Msg.GetUuid(), callerOf(ctx).User())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.MachineServiceInterruptResponse{Machine: m}), nil
}

// Reinstall implements ingot.v1.
func (s operatorMachines) Reinstall(ctx context.Context, req *connect.Request[ingotv1.MachineServiceReinstallRequest]) (*connect.Response[ingotv1.MachineServiceReinstallResponse], error) {
	q := machine.Replacement{
		UUID: req.Msg.GetUuid(), Project: req.Msg.GetProject(), Image: req.Msg.GetImage(), Layout: req.Msg.GetFilesystemLayout(),
		By: callerOf(ctx).User(), Operation: newID(),
	}
	m, err := s.changed(ctx, q.UUID, func(tx *store.Tx) error { return machine.Reinstall(tx, q) })
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.MachineServiceReinstallResponse{Machine: m}), nil
}

// changed changes a machine and returns what became of it.
func (s operatorMachines) changed(ctx context.Context, uuid string, rule func(*store.Tx) error) (*apiv2.Machine, error) {
	if err := s.update(ctx, rule); err != nil {
		return nil, err
	}
	m, err := records.Machines.Get(s.view(ctx), uuid)
	if err != nil {
		return nil, err
	}
	return viewMachine(s.view(ctx), m).Machine, nil
}

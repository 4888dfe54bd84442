package api

import (
	"context"
	"errors"
	"iter"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

var switchFilter = newFilter(map[protoreflect.Name]func(*apiv2.SwitchQuery, *apiv2.Switch) bool{
	"connected_machine_id": func(q *apiv2.SwitchQuery, sw *apiv2.Switch) bool {
		return slices.ContainsFunc(sw.GetMachineConnections(), func(c *apiv2.MachineConnection) bool { return c.GetMachineId() == q.GetConnectedMachineId() })
	},
})

type infraSwitches struct{ *Server }

// Get is the configuration of a switch that Ingot does not render itself.
func (s infraSwitches) Get(ctx context.Context, req *infrav2.SwitchServiceGetRequest) (*infrav2.SwitchServiceGetResponse, error) {
	sw, err := network.Switch(s.view(ctx), req.GetId())
	if err != nil {
		return nil, err
	}
	return &infrav2.SwitchServiceGetResponse{Switch: sw}, callerOf(ctx).CheckFarEnd(sw.GetPartition(), sw.GetId())
}

func (s infraSwitches) Register(ctx context.Context, req *infrav2.SwitchServiceRegisterRequest) (*infrav2.SwitchServiceRegisterResponse, error) {
	if req.GetSwitch() == nil {
		return nil, fault.New(fault.Invalid, "", "empty request", "send the switch")
	}
	if err := s.update(ctx, func(tx *store.Tx) error { return network.Register(tx, req.GetSwitch()) }); err != nil {
		return nil, err
	}
	sw, err := network.Switch(s.view(ctx), req.GetSwitch().GetId())
	return &infrav2.SwitchServiceRegisterResponse{Switch: sw}, err
}

func (s infraSwitches) Heartbeat(ctx context.Context, req *infrav2.SwitchServiceHeartbeatRequest) (*infrav2.SwitchServiceHeartbeatResponse, error) {
	sw, err := records.Switches.Get(s.view(ctx), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := callerOf(ctx).CheckFarEnd(sw.GetPartition(), sw.GetId()); err != nil {
		return nil, err
	}
	var sync *privatev1.SwitchSync
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		sync, err = network.Heartbeat(tx, req)
		return err
	}); err != nil {
		return nil, err
	}
	for nics := range slices.Chunk(sw.GetNics(), network.PortBatch) {
		if err := s.update(ctx, func(tx *store.Tx) error {
			for _, n := range nics {
				if err := network.HeartbeatPort(tx, req, n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return &infrav2.SwitchServiceHeartbeatResponse{Id: req.GetId(), LastSync: sync.GetLastSync(), LastSyncError: sync.GetLastSyncError()}, nil
}

type adminSwitches struct{ *Server }

func (s adminSwitches) Get(ctx context.Context, req *adminv2.SwitchServiceGetRequest) (*adminv2.SwitchServiceGetResponse, error) {
	sw, err := network.Switch(s.view(ctx), req.GetId())
	return &adminv2.SwitchServiceGetResponse{Switch: sw}, err
}

func (s adminSwitches) List(ctx context.Context, req *adminv2.SwitchServiceListRequest) (*adminv2.SwitchServiceListResponse, error) {
	resp := &adminv2.SwitchServiceListResponse{}
	for sw := range s.switches(s.view(ctx), req.GetQuery()) {
		resp.Switches = append(resp.Switches, sw)
	}
	return resp, nil
}

// switches yields the switches that match a query.
func (s *Server) switches(r store.Reader, q *apiv2.SwitchQuery) iter.Seq[*apiv2.Switch] {
	return func(yield func(*apiv2.Switch) bool) {
		for sw := range records.Switches.All(r) {
			if sw = network.ShowSwitch(r, sw); switchFilter.match(q, sw) && !yield(sw) {
				return
			}
		}
	}
}

func (s adminSwitches) Update(ctx context.Context, req *adminv2.SwitchServiceUpdateRequest) (*adminv2.SwitchServiceUpdateResponse, error) {
	sw, err := s.change(ctx, req.GetId(), func(tx *store.Tx) error {
		_, err := records.Switches.Change(tx, req.GetId(), func(sw *apiv2.Switch) error {
			if err := checkMeta("switch", sw.GetId(), sw.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			return network.EditSwitch(tx, sw, req)
		})
		return err
	})
	return &adminv2.SwitchServiceUpdateResponse{Switch: sw}, err
}

func (s adminSwitches) Port(ctx context.Context, req *adminv2.SwitchServicePortRequest) (*adminv2.SwitchServicePortResponse, error) {
	sw, err := s.change(ctx, req.GetId(), func(tx *store.Tx) error {
		return network.SetPort(tx, req.GetId(), req.GetNicName(), req.GetStatus())
	})
	return &adminv2.SwitchServicePortResponse{Switch: sw}, err
}

func (s adminSwitches) Migrate(ctx context.Context, req *adminv2.SwitchServiceMigrateRequest) (*adminv2.SwitchServiceMigrateResponse, error) {
	sw, err := s.change(ctx, req.GetNewSwitch(), func(tx *store.Tx) error {
		return network.Migrate(tx, req.GetOldSwitch(), req.GetNewSwitch())
	})
	return &adminv2.SwitchServiceMigrateResponse{Switch: sw}, err
}

// change runs a rule about a switch and returns what became of it.
func (s adminSwitches) change(ctx context.Context, id string, rule func(*store.Tx) error) (*apiv2.Switch, error) {
	if err := s.update(ctx, rule); err != nil {
		return nil, err
	}
	return network.Switch(s.view(ctx), id)
}

// Delete works in batches, since a switch has more records than fit in one
// transaction. One that was cut off is finished by the next.
func (s adminSwitches) Delete(ctx context.Context, req *adminv2.SwitchServiceDeleteRequest) (*adminv2.SwitchServiceDeleteResponse, error) {
	sw, err := network.Switch(s.view(ctx), req.GetId())
	if err != nil {
		return nil, err
	}
	for more := true; more; {
		if err := s.update(ctx, func(tx *store.Tx) (err error) {
			more, err = network.DeleteSwitch(tx, req.GetId(), req.GetForce())
			return err
		}); err != nil {
			return nil, err
		}
	}
	return &adminv2.SwitchServiceDeleteResponse{Switch: sw}, nil
}

// ConnectedMachines shows which machine is behind which port. A query for one
// machine leaves out the switches it is not connected to.
func (s adminSwitches) ConnectedMachines(ctx context.Context, req *adminv2.SwitchServiceConnectedMachinesRequest) (*adminv2.SwitchServiceConnectedMachinesResponse, error) {
	r, q := s.view(ctx), req.GetMachineQuery()
	resp := &adminv2.SwitchServiceConnectedMachinesResponse{}
	for sw := range s.switches(r, req.GetQuery()) {
		shown := &apiv2.SwitchWithMachines{Id: sw.GetId(), Partition: sw.GetPartition(), Rack: sw.GetRack()}
		for _, c := range sw.GetMachineConnections() {
			m, ok := records.Machines.Peek(r, c.GetMachineId())
			if !ok || !matchesState(q, m) {
				continue
			}
			v := viewMachine(r, m)
			if !matchesView(q, v) {
				continue
			}
			b, _ := records.MachineBMCs.Peek(r, m.GetUuid())
			shown.Connections = append(shown.Connections, &apiv2.SwitchNicWithMachine{Nic: c.GetNic(), Machine: v.Machine, Fru: b.GetReport().GetFru()})
		}
		if len(shown.GetConnections()) > 0 || q.GetUuid() == "" {
			resp.SwitchesWithMachines = append(resp.SwitchesWithMachines, shown)
		}
	}
	return resp, nil
}

// switchChange is a change of a switch or of one of its parts.
func switchChange(r store.Reader, e store.Event) (change, error) {
	id := e.Key
	if e.Table == "connection" || e.Table == "leafport" {
		id = records.SwitchOfPort(e.Key)
	}
	sw, err := network.Switch(r, id)
	if errors.Is(err, fault.NotFound) {
		return change{id: id}, nil
	}
	return change{id: id, now: sw}, err
}

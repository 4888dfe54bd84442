package api

import (
	"context"
	"net/netip"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// boots serves metal-boot on the leaves.
type boots struct{ *Server }

// infraBoots serves the boot images and boot servers that speak the v2 API.
type infraBoots struct{ *Server }

var (
	_ ingotv1connect.BootServiceHandler = boots{}
	_ infrav2connect.BootServiceHandler = infraBoots{}
)

// knock is what a request of metal-boot says of who knocks.
func knock(req interface {
	GetSwitch() string
	GetSourceAddress() string
	GetUuid() string
	GetPartition() string
}) (machine.Knock, error) {
	a, err := netip.ParseAddr(req.GetSourceAddress())
	if err != nil {
		return machine.Knock{}, fault.Wrap(fault.Invalid, "source_address", "is no address", err)
	}
	return machine.Knock{Switch: req.GetSwitch(), Source: a, UUID: req.GetUuid(), Partition: req.GetPartition()}, nil
}

// refused tells the story of a machine that it was refused, unless that is the
// newest that was told, and returns the error.
func (s *Server) refused(ctx context.Context, uuid string, why error) error {
	if kind := fault.KindOf(why); kind != fault.Denied && kind != fault.Precondition {
		return why
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error { return machine.Refused(tx, uuid, why.Error()) }); err != nil {
		s.log.WarnContext(ctx, "api: refusal not recorded", "machine", uuid, "error", err)
	}
	return why
}

// Begin implements ingot.v1.
func (s boots) Begin(ctx context.Context, req *connect.Request[ingotv1.BootServiceBeginRequest]) (*connect.Response[ingotv1.BootServiceBeginResponse], error) {
	k, err := knock(req.Msg)
	if err != nil {
		return nil, err
	}
	out, fresh := &ingotv1.BootServiceBeginResponse{}, newID()
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		out.Now = timestamppb.New(tx.Now())
		out.BootId, err = machine.Begin(tx, k, fresh)
		return err
	}); err != nil {
		return nil, s.refused(ctx, req.Msg.GetUuid(), err)
	}
	return connect.NewResponse(out), nil
}

// Token implements ingot.v1.
func (s boots) Token(ctx context.Context, req *connect.Request[ingotv1.BootServiceTokenRequest]) (*connect.Response[ingotv1.BootServiceTokenResponse], error) {
	k, err := knock(req.Msg)
	if err != nil {
		return nil, err
	}
	var t *privatev1.Token
	uuid := newID()
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		t, err = machine.Admit(tx, k, machine.Proof{BootID: req.Msg.GetBootId(), PublicKey: req.Msg.GetPublicKey(), Signature: req.Msg.GetSignature()}, uuid)
		return err
	}); err != nil {
		return nil, s.refused(ctx, req.Msg.GetUuid(), err)
	}
	signed, err := s.sign(t.GetToken())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BootServiceTokenResponse{Token: signed, Expires: t.GetToken().GetExpires()}), nil
}

// Script implements ingot.v1. A machine that asked in vain is told so in its
// story.
func (s boots) Script(ctx context.Context, req *connect.Request[ingotv1.BootServiceScriptRequest]) (*connect.Response[ingotv1.BootServiceScriptResponse], error) {
	k, err := knock(req.Msg)
	if err != nil {
		return nil, err
	}
	var out *ingotv1.BootServiceScriptResponse
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		out, err = machine.Script(tx, k)
		return err
	}); err != nil {
		return nil, s.refused(ctx, req.Msg.GetUuid(), err)
	}
	return connect.NewResponse(out), nil
}

// Dhcp implements the v2 API: a server asks for its boot image over PXE.
func (s infraBoots) Dhcp(ctx context.Context, req *infrav2.BootServiceDhcpRequest) (*infrav2.BootServiceDhcpResponse, error) {
	return &infrav2.BootServiceDhcpResponse{}, s.update(ctx, func(tx *store.Tx) error {
		if _, err := records.Partitions.Get(tx, req.GetPartition()); err != nil {
			return err
		}
		if _, err := machine.Find(tx, req.GetUuid(), req.GetPartition(), "it asked for a boot image"); err != nil {
			return err
		}
		_, _, err := machine.Happen(tx, req.GetUuid(), machine.Happening{Event: machine.Began})
		return err
	})
}

// Boot implements the v2 API.
func (s infraBoots) Boot(ctx context.Context, req *infrav2.BootServiceBootRequest) (*infrav2.BootServiceBootResponse, error) {
	p, err := records.Partitions.Get(s.view(ctx), req.GetPartition())
	if err != nil {
		return nil, err
	}
	c := p.GetBootConfiguration()
	return &infrav2.BootServiceBootResponse{Kernel: c.GetKernelUrl(), InitRamDisks: []string{c.GetImageUrl()}, Cmdline: &c.Commandline}, nil
}

// SuperUserPassword implements the v2 API. Ingot has no password that all BMCs
// share.
func (s infraBoots) SuperUserPassword(ctx context.Context, req *infrav2.BootServiceSuperUserPasswordRequest) (*infrav2.BootServiceSuperUserPasswordResponse, error) {
	if _, err := records.Machines.Get(s.view(ctx), req.GetUuid()); err != nil {
		return nil, err
	}
	return &infrav2.BootServiceSuperUserPasswordResponse{FeatureDisabled: true}, nil
}

// Register implements the v2 API.
func (s infraBoots) Register(ctx context.Context, req *infrav2.BootServiceRegisterRequest) (*infrav2.BootServiceRegisterResponse, error) {
	uuid, bmc := req.GetUuid(), proto.CloneOf(req.GetBmc())
	sealed := s.reseal(s.view(ctx), records.MachineBMCPasswordKey(uuid), bmc.GetPassword())
	if bmc != nil {
		bmc.Password = ""
	}
	report := &apiv2.MachineBMCReport{Bmc: bmc, Bios: req.GetBios(), Fru: req.GetFru()}
	inventory := &ingotv1.Inventory{Hardware: req.GetHardware(), Bios: req.GetBios(), Fru: req.GetFru(), AgentVersion: req.GetMetalHammerVersion()}
	for _, d := range req.GetHardware().GetDisks() {
		inventory.Disks = append(inventory.Disks, &ingotv1.Disk{Name: d.GetName(), Size: d.GetSize()})
	}
	var m *privatev1.Machine
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		if _, err := records.Partitions.Get(tx, req.GetPartition()); err != nil {
			return err
		}
		if _, err := machine.Find(tx, uuid, req.GetPartition(), "its boot image registered it"); err != nil {
			return err
		}
		if err := machine.Inside(tx, uuid, req.GetPartition(), report); err != nil {
			return err
		}
		if sealed != nil {
			if err := records.Secrets.Put(tx, sealed); err != nil {
				return err
			}
		}
		m, err = machine.Register(tx, machine.Registration{UUID: uuid, Inventory: inventory, Tags: req.GetTags()})
		return err
	}); err != nil {
		return nil, err
	}
	return &infrav2.BootServiceRegisterResponse{Uuid: uuid, Size: m.GetSize(), Partition: m.GetPartition()}, nil
}

// Wait implements the v2 API: the machine can be allocated as long as the
// stream is open, and is told its allocation once.
func (s infraBoots) Wait(ctx context.Context, req *infrav2.BootServiceWaitRequest, stream *connect.ServerStream[infrav2.BootServiceWaitResponse]) error {
	uuid, told := req.GetUuid(), ""
	listen := func(ctx context.Context, on bool) error {
		return s.db.Update(ctx, func(tx *store.Tx) error { return machine.Listen(tx, uuid, on) })
	}
	if err := listen(ctx, true); err != nil {
		return err
	}
	defer func() {
		if err := listen(context.WithoutCancel(ctx), false); err != nil {
			s.log.WarnContext(ctx, "api: machine still counts as listening", "machine", uuid, "error", err)
		}
	}()
	if err := stream.Send(nil); err != nil { // tells the client that the machine counts as waiting
		return err
	}
	return s.follow(ctx, func(snap store.Snapshot, _ bool) error {
		s.sightings.saw(uuid, s.cfg.Now())
		in, err := s.installation(snap, uuid)
		if err != nil || in == nil || in.GetAllocation().GetUuid() == told {
			return err
		}
		told = in.GetAllocation().GetUuid()
		return stream.Send(&infrav2.BootServiceWaitResponse{Allocation: in.GetAllocation()})
	}, "allocation/"+uuid)
}

// InstallationSucceeded implements the v2 API.
func (s infraBoots) InstallationSucceeded(ctx context.Context, req *infrav2.BootServiceInstallationSucceededRequest) (*infrav2.BootServiceInstallationSucceededResponse, error) {
	return &infrav2.BootServiceInstallationSucceededResponse{}, s.installed(ctx, req.GetUuid(), "", "", req.GetConsolePassword())
}

// installation returns what a machine shall install, with its userdata; nil if
// nothing.
func (s *Server) installation(r store.Reader, uuid string) (*ingotv1.Installation, error) {
	in, err := machine.Instruction(r, uuid)
	if err != nil || in == nil {
		return nil, err
	}
	in.Allocation.Userdata, err = s.unseal(r, records.UserdataKey(in.GetAllocation().GetUuid()))
	return in, err
}

// installed records that a machine's system is written.
func (s *Server) installed(ctx context.Context, uuid, bootID, allocation, console string) error {
	m, err := records.Machines.Get(s.view(ctx), uuid)
	if err != nil {
		return err
	}
	sealed := s.seal(records.ConsoleKey(m.GetAllocation()), console)
	operation := newID()
	return s.update(ctx, func(tx *store.Tx) error {
		return machine.Installed(tx, machine.Completion{UUID: uuid, BootID: bootID, Allocation: allocation, Console: sealed, Operation: operation})
	})
}

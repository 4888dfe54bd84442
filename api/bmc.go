package api

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// bmcs keeps the BMCs that operators tell of and sites discover.
type bmcs struct{ *Server }

// infraBMCs serves agents that speak the v2 API to BMCs.
type infraBMCs struct{ *Server }

var (
	_ ingotv1connect.BMCServiceHandler = bmcs{}
	_ infrav2connect.BMCServiceHandler = infraBMCs{}
)

// show returns a BMC with its status, and never its password. What it lacks
// before it can be scanned is its error.
func showBMC(r store.Reader, b *ingotv1.BMC) *ingotv1.BMC {
	status, _ := records.BMCStatuses.Peek(r, records.BMCKey(b.GetPartition(), b.GetId()))
	b.Status, b.Password = status.GetStatus(), ""
	if b.Status == nil {
		b.Status = &ingotv1.BMCStatus{}
	}
	b.Status.Fingerprint = fingerprint(b.GetCa())
	if err := machine.Missing(r, b); err != nil {
		b.Status.LastError, b.Status.LastErrorTime = err.Error(), nil
	}
	return b
}

// fingerprint returns the SHA-256 digest of the first certificate in a PEM
// file as people compare it; empty if there is none.
func fingerprint(file string) string {
	block, _ := pem.Decode([]byte(file))
	if block == nil {
		return ""
	}
	digest := sha256.Sum256(block.Bytes)
	return strings.ReplaceAll(fmt.Sprintf("% X", digest[:]), " ", ":")
}

// Create implements ingot.v1.
func (s bmcs) Create(ctx context.Context, req *connect.Request[ingotv1.BMCServiceCreateRequest]) (*connect.Response[ingotv1.BMCServiceCreateResponse], error) {
	b := proto.CloneOf(req.Msg.GetBmc())
	if b.GetPassword() == "" {
		return nil, fault.New(fault.Invalid, "bmc "+b.GetId(), "has no password", "give the password of the user")
	}
	sealed := s.seal(records.BMCPasswordKey(b.GetPartition(), b.GetId()), b.GetPassword())
	b.Password, b.Status = "", nil
	b.Meta = &apiv2.Meta{Labels: b.GetMeta().GetLabels()}
	user, password := newBMCUser(), newBMCPassword()
	if err := s.update(ctx, func(tx *store.Tx) error {
		if _, err := access.Open(tx, records.Partitions, b.GetPartition()); err != nil {
			return err
		}
		if err := machine.Identify(tx, b); err != nil {
			return err
		}
		if err := errors.Join(records.BMCs.Insert(tx, b), s.keepOwn(tx, b, user, password)); err != nil {
			return err
		}
		return records.Secrets.Put(tx, sealed)
	}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BMCServiceCreateResponse{Bmc: showBMC(s.view(ctx), b)}), nil
}

// Get implements ingot.v1.
func (s bmcs) Get(ctx context.Context, req *connect.Request[ingotv1.BMCServiceGetRequest]) (*connect.Response[ingotv1.BMCServiceGetResponse], error) {
	b, err := records.BMCs.Get(s.view(ctx), records.BMCKey(req.Msg.GetPartition(), req.Msg.GetId()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BMCServiceGetResponse{Bmc: showBMC(s.view(ctx), b)}), nil
}

// List implements ingot.v1.
func (s bmcs) List(ctx context.Context, req *connect.Request[ingotv1.BMCServiceListRequest]) (*connect.Response[ingotv1.BMCServiceListResponse], error) {
	out := &ingotv1.BMCServiceListResponse{}
	all := records.BMCs.All(s.view(ctx))
	if req.Msg.Partition != nil {
		all = records.BMCs.By(s.view(ctx), "partition", req.Msg.GetPartition())
	}
	for b := range all {
		out.Bmcs = append(out.Bmcs, showBMC(s.view(ctx), b))
	}
	return connect.NewResponse(out), nil
}

// Update implements ingot.v1.
func (s bmcs) Update(ctx context.Context, req *connect.Request[ingotv1.BMCServiceUpdateRequest]) (*connect.Response[ingotv1.BMCServiceUpdateResponse], error) {
	sealed := s.reseal(s.view(ctx), records.BMCPasswordKey(req.Msg.GetPartition(), req.Msg.GetId()), req.Msg.GetPassword())
	user, password := newBMCUser(), newBMCPassword()
	var b *ingotv1.BMC
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		if b, err = records.BMCs.Change(tx, records.BMCKey(req.Msg.GetPartition(), req.Msg.GetId()), func(b *ingotv1.BMC) error {
			if err := checkMeta("bmc", req.Msg.GetId(), b.GetMeta(), req.Msg.GetUpdateMeta()); err != nil {
				return err
			}
			if req.Msg.Address != nil || req.Msg.Mac != nil {
				set(&b.Address, req.Msg.Address)
				set(&b.Mac, req.Msg.Mac)
				if err := machine.Identify(tx, b); err != nil {
					return err
				}
			}
			set(&b.User, req.Msg.User)
			set(&b.Ca, req.Msg.Ca)
			set(&b.BootMedium, req.Msg.BootMedium)
			set(&b.OwnAccount, req.Msg.OwnAccount)
			set(&b.Driver, req.Msg.Driver)
			updateLabels(b.GetMeta(), req.Msg.GetLabels())
			return nil
		}); err != nil {
			return err
		}
		if err := s.keepOwn(tx, b, user, password); err != nil || sealed == nil {
			return err
		}
		return records.Secrets.Put(tx, sealed)
	}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BMCServiceUpdateResponse{Bmc: showBMC(s.view(ctx), b)}), nil
}

// Delete implements ingot.v1. The machine behind the BMC stays.
func (s bmcs) Delete(ctx context.Context, req *connect.Request[ingotv1.BMCServiceDeleteRequest]) (*connect.Response[ingotv1.BMCServiceDeleteResponse], error) {
	var b *ingotv1.BMC
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		if b, err = records.BMCs.Get(tx, records.BMCKey(req.Msg.GetPartition(), req.Msg.GetId())); err != nil {
			return err
		}
		return machine.RemoveBMC(tx, req.Msg.GetPartition(), req.Msg.GetId())
	}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BMCServiceDeleteResponse{Bmc: b}), nil
}

// UpdateBMCInfo implements the v2 API. A report that cannot be stored does not
// keep the others from being stored; the call fails when none could.
func (s infraBMCs) UpdateBMCInfo(ctx context.Context, req *infrav2.UpdateBMCInfoRequest) (*infrav2.UpdateBMCInfoResponse, error) {
	if _, err := records.Partitions.Get(s.view(ctx), req.GetPartition()); err != nil {
		return nil, err
	}
	out := &infrav2.UpdateBMCInfoResponse{}
	var failed error
	for _, uuid := range slices.Sorted(maps.Keys(req.GetBmcReports())) {
		created, err := s.storeReport(ctx, uuid, req.GetPartition(), req.GetBmcReports()[uuid])
		switch {
		case err != nil:
			failed = err
			s.log.WarnContext(ctx, "api: BMC report not stored", "machine", uuid, "error", err)
		case created:
			out.CreatedMachines = append(out.CreatedMachines, uuid)
		default:
			out.UpdatedMachines = append(out.UpdatedMachines, uuid)
		}
	}
	if failed != nil && len(out.GetCreatedMachines())+len(out.GetUpdatedMachines()) == 0 {
		return nil, failed
	}
	return out, nil
}

// storeReport stores what the v2 API reports of a machine's BMC, with the
// password apart.
func (s *Server) storeReport(ctx context.Context, uuid, partition string, report *apiv2.MachineBMCReport) (created bool, err error) {
	sealed := s.reseal(s.view(ctx), records.MachineBMCPasswordKey(uuid), report.GetBmc().GetPassword())
	if report = proto.CloneOf(report); report.GetBmc() != nil {
		report.Bmc.Password = ""
	}
	err = s.update(ctx, func(tx *store.Tx) (err error) {
		if created, err = machine.FoundBMC(tx, uuid, partition, "", report); err != nil || sealed == nil {
			return err
		}
		return records.Secrets.Put(tx, sealed)
	})
	return created, err
}

// WaitForBMCCommand implements the v2 API: it streams the operations of a
// partition, each to exactly one listener.
func (s infraBMCs) WaitForBMCCommand(ctx context.Context, req *infrav2.WaitForBMCCommandRequest, stream *connect.ServerStream[infrav2.WaitForBMCCommandResponse]) error {
	listener := newID()
	if err := stream.Send(nil); err != nil { // tells the client that it is being listened to
		return err
	}
	return s.follow(ctx, func(snap store.Snapshot, _ bool) error {
		for o := range records.Operations.By(snap, "open", req.GetPartition()) {
			if o.GetTaken() != nil {
				continue
			}
			if err := s.tell(ctx, o.GetOperation().GetMachine(), listener, stream); err != nil {
				return err
			}
		}
		return nil
	}, "operation/")
}

// tell takes an operation for a listener and tells it, or gives it back.
func (s *Server) tell(ctx context.Context, uuid, listener string, stream *connect.ServerStream[infrav2.WaitForBMCCommandResponse]) error {
	var msg *infrav2.WaitForBMCCommandResponse
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		o, took, err := machine.Take(tx, uuid, listener)
		if msg = nil; took {
			msg = &infrav2.WaitForBMCCommandResponse{Uuid: uuid, BmcCommand: machine.CommandOf(o), CommandId: o.GetOperation().GetId()}
		}
		return err
	}); err != nil || msg == nil {
		return err
	}
	report, err := s.bmcReport(s.db.Snapshot(), uuid)
	if err == nil {
		msg.MachineBmc = report.GetBmc()
		err = stream.Send(msg)
	}
	if err != nil {
		return errors.Join(err, s.db.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return machine.Drop(tx, uuid, listener) }))
	}
	return nil
}

// BMCCommandDone implements the v2 API. Who speaks it vouches for what it says
// was done.
func (s infraBMCs) BMCCommandDone(ctx context.Context, req *infrav2.BMCCommandDoneRequest) (*infrav2.BMCCommandDoneResponse, error) {
	o, ok := machine.Lookup(s.view(ctx), req.GetCommandId())
	if !ok {
		return nil, fault.New(fault.NotFound, "command "+req.GetCommandId(), "not found", "")
	}
	if err := callerOf(ctx).CheckFarEnd(o.GetPartition(), ""); err != nil {
		return nil, err
	}
	return &infrav2.BMCCommandDoneResponse{}, s.update(ctx, func(tx *store.Tx) error {
		var off *timestamppb.Timestamp
		if req.GetError() == "" && o.GetOperation().GetAction() == ingotv1.OperationAction_OPERATION_ACTION_OFF {
			off = timestamppb.New(tx.Now())
		}
		return machine.Done(tx, machine.Result{ID: req.GetCommandId(), Error: req.GetError(), PowerOff: off, V2: true})
	})
}

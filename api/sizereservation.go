package api

import (
	"context"
	"slices"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type sizeReservations struct{ *Server }

var sizeReservationFilter = newFilter(map[protoName]func(*apiv2.SizeReservationQuery, *apiv2.SizeReservation) bool{
	"partition": func(q *apiv2.SizeReservationQuery, r *apiv2.SizeReservation) bool {
		return slices.Contains(r.GetPartitions(), q.GetPartition())
	},
})

func (s sizeReservations) Get(ctx context.Context, req *apiv2.SizeReservationServiceGetRequest) (*apiv2.SizeReservationServiceGetResponse, error) {
	r, err := records.SizeReservations.Get(s.view(ctx), req.GetId())
	if err == nil && r.GetProject() != req.GetProject() {
		// the same words, so that nobody learns what others have
		err = fault.New(fault.NotFound, records.SizeReservations.Name+" "+req.GetId(), "not found", "")
	}
	if err != nil {
		return nil, err
	}
	return &apiv2.SizeReservationServiceGetResponse{SizeReservation: r}, nil
}

func (s sizeReservations) List(ctx context.Context, req *apiv2.SizeReservationServiceListRequest) (*apiv2.SizeReservationServiceListResponse, error) {
	resp := &apiv2.SizeReservationServiceListResponse{}
	for r := range records.SizeReservations.By(s.view(ctx), "project", req.GetProject()) {
		if sizeReservationFilter.match(req.GetQuery(), r) {
			resp.SizeReservations = append(resp.SizeReservations, r)
		}
	}
	return resp, nil
}

type adminSizeReservations struct{ *Server }

func (s adminSizeReservations) Create(ctx context.Context, req *adminv2.SizeReservationServiceCreateRequest) (*adminv2.SizeReservationServiceCreateResponse, error) {
	r := req.GetSizeReservation()
	if err := given(r, "size reservation"); err != nil {
		return nil, err
	}
	if r.GetId() != "" {
		return nil, fault.New(fault.Invalid, "", "id must be empty", "")
	}
	r.Id, r.Meta = newID(), newMeta(r.GetMeta().GetLabels())
	err := s.update(ctx, func(tx *store.Tx) error { return machine.CreateReservation(tx, r) })
	return &adminv2.SizeReservationServiceCreateResponse{SizeReservation: r}, err
}

func (s adminSizeReservations) Update(ctx context.Context, req *adminv2.SizeReservationServiceUpdateRequest) (*adminv2.SizeReservationServiceUpdateResponse, error) {
	var r *apiv2.SizeReservation
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		r, err = machine.ChangeReservation(tx, req.GetId(), func(r *apiv2.SizeReservation) error {
			if err := checkMeta("sizereservation", r.GetId(), r.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&r.Name, req.Name)
			set(&r.Description, req.Description)
			set(&r.Amount, req.Amount)
			setList(&r.Partitions, req.GetPartitions())
			updateLabels(r.Meta, req.GetLabels())
			return nil
		})
		return err
	})
	return &adminv2.SizeReservationServiceUpdateResponse{SizeReservation: r}, err
}

func (s adminSizeReservations) Delete(ctx context.Context, req *adminv2.SizeReservationServiceDeleteRequest) (*adminv2.SizeReservationServiceDeleteResponse, error) {
	var r *apiv2.SizeReservation
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		r, err = machine.DeleteReservation(tx, req.GetId())
		return err
	})
	return &adminv2.SizeReservationServiceDeleteResponse{SizeReservation: r}, err
}

func (s adminSizeReservations) List(ctx context.Context, req *adminv2.SizeReservationServiceListRequest) (*adminv2.SizeReservationServiceListResponse, error) {
	resp := &adminv2.SizeReservationServiceListResponse{}
	for r := range records.SizeReservations.All(s.view(ctx)) {
		if sizeReservationFilter.match(req.GetQuery(), r) {
			resp.SizeReservations = append(resp.SizeReservations, r)
		}
	}
	return resp, nil
}

package api

import (
	"context"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type sizes struct{ *Server }

var sizeFilter = newFilter[*apiv2.SizeQuery, *apiv2.Size](nil)

func (s sizes) Get(ctx context.Context, req *apiv2.SizeServiceGetRequest) (*apiv2.SizeServiceGetResponse, error) {
	z, err := records.Sizes.Get(s.view(ctx), req.GetId())
	return &apiv2.SizeServiceGetResponse{Size: z}, err
}

func (s sizes) List(ctx context.Context, req *apiv2.SizeServiceListRequest) (*apiv2.SizeServiceListResponse, error) {
	resp := &apiv2.SizeServiceListResponse{}
	for z := range records.Sizes.All(s.view(ctx)) {
		if sizeFilter.match(req.GetQuery(), z) {
			resp.Sizes = append(resp.Sizes, z)
		}
	}
	return resp, nil
}

type adminSizes struct{ *Server }

func (s adminSizes) Create(ctx context.Context, req *adminv2.SizeServiceCreateRequest) (*adminv2.SizeServiceCreateResponse, error) {
	z := req.GetSize()
	if err := given(z, "size"); err != nil {
		return nil, err
	}
	z.Meta = newMeta(z.GetMeta().GetLabels())
	err := s.update(ctx, func(tx *store.Tx) error { return machine.CreateSize(tx, z) })
	return &adminv2.SizeServiceCreateResponse{Size: z}, err
}

func (s adminSizes) Update(ctx context.Context, req *adminv2.SizeServiceUpdateRequest) (*adminv2.SizeServiceUpdateResponse, error) {
	var z *apiv2.Size
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		z, err = machine.ChangeSize(tx, req.GetId(), func(z *apiv2.Size) error {
			if err := checkMeta("size", z.GetId(), z.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			setOptional(&z.Name, req.Name)
			setOptional(&z.Description, req.Description)
			setList(&z.Constraints, req.GetConstraints())
			updateLabels(z.Meta, req.GetLabels())
			return nil
		})
		return err
	})
	return &adminv2.SizeServiceUpdateResponse{Size: z}, err
}

func (s adminSizes) Delete(ctx context.Context, req *adminv2.SizeServiceDeleteRequest) (*adminv2.SizeServiceDeleteResponse, error) {
	z, err := remove(ctx, s.Server, records.Sizes, req.GetId(), machine.SizeUnused)
	return &adminv2.SizeServiceDeleteResponse{Size: z}, err
}

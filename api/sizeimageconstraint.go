package api

import (
	"context"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type sizeImageConstraints struct{ *Server }

// Try answers with nothing if the size can run the image.
func (s sizeImageConstraints) Try(ctx context.Context, req *apiv2.SizeImageConstraintServiceTryRequest) (*apiv2.SizeImageConstraintServiceTryResponse, error) {
	r := s.view(ctx)
	i, err := machine.Latest(r, req.GetImage(), nil)
	if err != nil {
		return nil, err
	}
	return &apiv2.SizeImageConstraintServiceTryResponse{}, machine.TryConstraint(r, req.GetSize(), i)
}

type adminSizeImageConstraints struct{ *Server }

var sizeImageConstraintFilter = newFilter[*apiv2.SizeImageConstraintQuery, *apiv2.SizeImageConstraint](nil)

func (s adminSizeImageConstraints) Create(ctx context.Context, req *adminv2.SizeImageConstraintServiceCreateRequest) (*adminv2.SizeImageConstraintServiceCreateResponse, error) {
	c := &apiv2.SizeImageConstraint{
		Size: req.GetSize(), ImageConstraints: req.GetImageConstraints(), Name: req.Name, Description: req.Description,
		Meta: newMeta(req.GetMeta().GetLabels()),
	}
	if err := machine.CheckConstraints(c.GetImageConstraints()); err != nil {
		return nil, err
	}
	err := s.update(ctx, func(tx *store.Tx) error {
		if _, err := access.Open(tx, records.Sizes, c.GetSize()); err != nil {
			return err
		}
		return records.SizeImageConstraints.Insert(tx, c)
	})
	return &adminv2.SizeImageConstraintServiceCreateResponse{SizeImageConstraint: c}, err
}

func (s adminSizeImageConstraints) Update(ctx context.Context, req *adminv2.SizeImageConstraintServiceUpdateRequest) (*adminv2.SizeImageConstraintServiceUpdateResponse, error) {
	var c *apiv2.SizeImageConstraint
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		c, err = records.SizeImageConstraints.Change(tx, req.GetSize(), func(c *apiv2.SizeImageConstraint) error {
			if err := checkMeta("sizeimageconstraint", c.GetSize(), c.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			setOptional(&c.Name, req.Name)
			setOptional(&c.Description, req.Description)
			setList(&c.ImageConstraints, req.GetImageConstraints())
			return machine.CheckConstraints(c.GetImageConstraints())
		})
		return err
	})
	return &adminv2.SizeImageConstraintServiceUpdateResponse{SizeImageConstraint: c}, err
}

func (s adminSizeImageConstraints) Delete(ctx context.Context, req *adminv2.SizeImageConstraintServiceDeleteRequest) (*adminv2.SizeImageConstraintServiceDeleteResponse, error) {
	var c *apiv2.SizeImageConstraint
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		c, err = records.SizeImageConstraints.Delete(tx, req.GetSize())
		return err
	})
	return &adminv2.SizeImageConstraintServiceDeleteResponse{SizeImageConstraint: c}, err
}

func (s adminSizeImageConstraints) Get(ctx context.Context, req *adminv2.SizeImageConstraintServiceGetRequest) (*adminv2.SizeImageConstraintServiceGetResponse, error) {
	c, err := records.SizeImageConstraints.Get(s.view(ctx), req.GetSize())
	return &adminv2.SizeImageConstraintServiceGetResponse{SizeImageConstraint: c}, err
}

func (s adminSizeImageConstraints) List(ctx context.Context, req *adminv2.SizeImageConstraintServiceListRequest) (*adminv2.SizeImageConstraintServiceListResponse, error) {
	resp := &adminv2.SizeImageConstraintServiceListResponse{}
	for c := range records.SizeImageConstraints.All(s.view(ctx)) {
		if sizeImageConstraintFilter.match(req.GetQuery(), c) {
			resp.SizeImageConstraints = append(resp.SizeImageConstraints, c)
		}
	}
	return resp, nil
}

package api

import (
	"context"
	"slices"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type images struct{ *Server }

var imageFilter = newFilter(map[protoName]func(*apiv2.ImageQuery, *apiv2.Image) bool{
	"feature": func(q *apiv2.ImageQuery, i *apiv2.Image) bool {
		return slices.Contains(i.GetFeatures(), q.GetFeature())
	},
	"os": func(q *apiv2.ImageQuery, i *apiv2.Image) bool {
		os, _, _, err := machine.ParseImage(i.GetId())
		return err == nil && os == q.GetOs()
	},
	"version": func(q *apiv2.ImageQuery, i *apiv2.Image) bool {
		return i.GetId() == records.ImageOS(i.GetId())+"-"+q.GetVersion()
	},
})

func (s images) Get(ctx context.Context, req *apiv2.ImageServiceGetRequest) (*apiv2.ImageServiceGetResponse, error) {
	i, err := records.Images.Get(s.view(ctx), req.GetId())
	return &apiv2.ImageServiceGetResponse{Image: i}, err
}

func (s images) List(ctx context.Context, req *apiv2.ImageServiceListRequest) (*apiv2.ImageServiceListResponse, error) {
	return &apiv2.ImageServiceListResponse{Images: matchingImages(s.view(ctx), req.GetQuery())}, nil
}

// matchingImages returns images by os, newest first.
func matchingImages(r store.Reader, q *apiv2.ImageQuery) []*apiv2.Image {
	var all []*apiv2.Image
	for i := range records.Images.All(r) {
		if imageFilter.match(q, i) {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, machine.ImageOrder)
	return all
}

func (s images) Latest(ctx context.Context, req *apiv2.ImageServiceLatestRequest) (*apiv2.ImageServiceLatestResponse, error) {
	i, err := machine.Latest(s.view(ctx), req.GetOs(), req.Classification)
	return &apiv2.ImageServiceLatestResponse{Image: i}, err
}

type adminImages struct{ *Server }

func (s adminImages) Create(ctx context.Context, req *adminv2.ImageServiceCreateRequest) (*adminv2.ImageServiceCreateResponse, error) {
	i := req.GetImage()
	if err := given(i, "image"); err != nil {
		return nil, err
	}
	i.Meta = newMeta(i.GetMeta().GetLabels())
	err := s.update(ctx, func(tx *store.Tx) error { return machine.CreateImage(tx, i) })
	return &adminv2.ImageServiceCreateResponse{Image: i}, err
}

func (s adminImages) Update(ctx context.Context, req *adminv2.ImageServiceUpdateRequest) (*adminv2.ImageServiceUpdateResponse, error) {
	var i *apiv2.Image
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		i, err = machine.ChangeImage(tx, req.GetId(), func(i *apiv2.Image) error {
			if err := checkMeta("image", i.GetId(), i.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&i.Url, req.Url)
			setOptional(&i.Name, req.Name)
			setOptional(&i.Description, req.Description)
			setList(&i.Features, req.GetFeatures())
			i.Classification = req.GetClassification() // unspecified makes it a preview again
			if req.GetExpiresAt() != nil {
				i.ExpiresAt = req.GetExpiresAt()
			}
			updateLabels(i.Meta, req.GetLabels())
			return nil
		})
		return err
	})
	return &adminv2.ImageServiceUpdateResponse{Image: i}, err
}

func (s adminImages) Delete(ctx context.Context, req *adminv2.ImageServiceDeleteRequest) (*adminv2.ImageServiceDeleteResponse, error) {
	i, err := remove(ctx, s.Server, records.Images, req.GetId(), machine.ImageUnused, drop(records.ImageSources), dropCached)
	return &adminv2.ImageServiceDeleteResponse{Image: i}, err
}

// dropCached forgets which caches have an image.
func dropCached(tx *store.Tx, image string) error {
	for p := range records.Partitions.All(tx) {
		if err := drop(records.CachedImages)(tx, records.CachedImageKey(p.GetId(), image)); err != nil {
			return err
		}
	}
	return nil
}

func (s adminImages) Usage(ctx context.Context, req *adminv2.ImageServiceUsageRequest) (*adminv2.ImageServiceUsageResponse, error) {
	r := s.view(ctx)
	resp := &adminv2.ImageServiceUsageResponse{}
	for _, i := range matchingImages(r, req.GetQuery()) {
		u := &apiv2.ImageUsage{Image: i}
		for a := range records.Allocations.By(r, "image", i.GetId()) {
			u.UsedBy = append(u.UsedBy, a.GetMachine())
		}
		resp.ImageUsage = append(resp.ImageUsage, u)
	}
	return resp, nil
}

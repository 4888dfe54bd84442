package api

import (
	"context"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type filesystems struct{ *Server }

func (s filesystems) Get(ctx context.Context, req *apiv2.FilesystemServiceGetRequest) (*apiv2.FilesystemServiceGetResponse, error) {
	l, err := records.FilesystemLayouts.Get(s.view(ctx), req.GetId())
	return &apiv2.FilesystemServiceGetResponse{FilesystemLayout: l}, err
}

func (s filesystems) List(ctx context.Context, req *apiv2.FilesystemServiceListRequest) (*apiv2.FilesystemServiceListResponse, error) {
	resp := &apiv2.FilesystemServiceListResponse{}
	for l := range records.FilesystemLayouts.All(s.view(ctx)) {
		if req.Id == nil || req.GetId() == l.GetId() {
			resp.FilesystemLayouts = append(resp.FilesystemLayouts, l)
		}
	}
	return resp, nil
}

type adminFilesystems struct{ *Server }

func (s adminFilesystems) Create(ctx context.Context, req *adminv2.FilesystemServiceCreateRequest) (*adminv2.FilesystemServiceCreateResponse, error) {
	l := req.GetFilesystemLayout()
	if err := given(l, "filesystem layout"); err != nil {
		return nil, err
	}
	l.Meta = newMeta(l.GetMeta().GetLabels())
	err := s.update(ctx, func(tx *store.Tx) error { return machine.CreateLayout(tx, l) })
	return &adminv2.FilesystemServiceCreateResponse{FilesystemLayout: l}, err
}

func (s adminFilesystems) Update(ctx context.Context, req *adminv2.FilesystemServiceUpdateRequest) (*adminv2.FilesystemServiceUpdateResponse, error) {
	var l *apiv2.FilesystemLayout
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		l, err = machine.ChangeLayout(tx, req.GetId(), func(l *apiv2.FilesystemLayout) error {
			if err := checkMeta("filesystemlayout", l.GetId(), l.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			setOptional(&l.Name, req.Name)
			setOptional(&l.Description, req.Description)
			setList(&l.Filesystems, req.GetFilesystems())
			setList(&l.Disks, req.GetDisks())
			setList(&l.Raid, req.GetRaid())
			setList(&l.VolumeGroups, req.GetVolumeGroups())
			setList(&l.LogicalVolumes, req.GetLogicalVolumes())
			if req.GetConstraints() != nil {
				l.Constraints = req.GetConstraints()
			}
			return nil
		})
		return err
	})
	return &adminv2.FilesystemServiceUpdateResponse{FilesystemLayout: l}, err
}

func (s adminFilesystems) Delete(ctx context.Context, req *adminv2.FilesystemServiceDeleteRequest) (*adminv2.FilesystemServiceDeleteResponse, error) {
	l, err := remove(ctx, s.Server, records.FilesystemLayouts, req.GetId(), machine.LayoutUnused)
	return &adminv2.FilesystemServiceDeleteResponse{FilesystemLayout: l}, err
}

// Match answers with the layout that a machine of the size would get with the
// image, or with the given layout if the machine has the disks for it.
func (s adminFilesystems) Match(ctx context.Context, req *adminv2.FilesystemServiceMatchRequest) (*adminv2.FilesystemServiceMatchResponse, error) {
	r := s.view(ctx)
	if q := req.GetMachineAndFilesystemlayout(); q != nil {
		l, err := records.FilesystemLayouts.Get(r, q.GetFilesystemLayout())
		if err != nil {
			return nil, err
		}
		if _, err := records.Machines.Get(r, q.GetMachine()); err != nil {
			return nil, err
		}
		h, _ := records.Hardware.Peek(r, q.GetMachine()) // a machine that never booted has no disks yet
		return &adminv2.FilesystemServiceMatchResponse{FilesystemLayout: l}, machine.FitLayout(l, h.GetInventory().GetHardware())
	}
	q := req.GetSizeAndImage()
	if _, err := records.Sizes.Get(r, q.GetSize()); err != nil {
		return nil, err
	}
	i, err := machine.Latest(r, q.GetImage(), nil)
	if err != nil {
		return nil, err
	}
	l, err := machine.ResolveLayout(r, q.GetSize(), i)
	return &adminv2.FilesystemServiceMatchResponse{FilesystemLayout: l}, err
}

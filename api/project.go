package api

import (
	"context"
	"errors"
	"maps"
	"slices"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type projects struct{ *Server }

var projectFilter = newFilter[*apiv2.ProjectQuery, *apiv2.Project](nil)

func (s projects) List(ctx context.Context, req *apiv2.ProjectServiceListRequest) (*apiv2.ProjectServiceListResponse, error) {
	resp := &apiv2.ProjectServiceListResponse{}
	for _, id := range slices.Sorted(maps.Keys(access.ProjectsOf(s.view(ctx), callerOf(ctx).User()))) {
		if p, ok := records.Projects.Peek(s.view(ctx), id); ok && projectFilter.match(req.GetQuery(), p) {
			resp.Projects = append(resp.Projects, p)
		}
	}
	return resp, nil
}

// Get shows members that inherit their role only to those who may see the
// tenant's members.
func (s projects) Get(ctx context.Context, req *apiv2.ProjectServiceGetRequest) (*apiv2.ProjectServiceGetResponse, error) {
	r, c := s.view(ctx), callerOf(ctx)
	p, err := records.Projects.Get(r, req.GetProject())
	if err != nil {
		return nil, err
	}
	role := c.TenantRole(r, p.GetTenant())
	seesTenant := role != 0 && role < apiv2.TenantRole_TENANT_ROLE_GUEST
	return &apiv2.ProjectServiceGetResponse{Project: p, ProjectMembers: projectMembers(r, p, seesTenant)}, nil
}

func (s projects) Create(ctx context.Context, req *apiv2.ProjectServiceCreateRequest) (*apiv2.ProjectServiceCreateResponse, error) {
	p := &apiv2.Project{
		Uuid:        newID(),
		Name:        req.GetName(),
		Description: req.GetDescription(),
		Tenant:      req.GetLogin(),
		AvatarUrl:   req.AvatarUrl,
		Meta:        &apiv2.Meta{Labels: req.GetLabels()},
	}
	err := s.update(ctx, func(tx *store.Tx) error { return access.CreateProject(tx, p) })
	return &apiv2.ProjectServiceCreateResponse{Project: p}, err
}

func (s projects) Update(ctx context.Context, req *apiv2.ProjectServiceUpdateRequest) (*apiv2.ProjectServiceUpdateResponse, error) {
	var p *apiv2.Project
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		p, err = records.Projects.Change(tx, req.GetProject(), func(p *apiv2.Project) error {
			if err := checkMetaIfGiven("project", p.GetUuid(), p.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&p.Name, req.Name)
			set(&p.Description, req.Description)
			if req.AvatarUrl != nil {
				p.AvatarUrl = req.AvatarUrl
			}
			updateLabels(p.Meta, req.GetLabels())
			return nil
		})
		return err
	})
	return &apiv2.ProjectServiceUpdateResponse{Project: p}, err
}

// Delete closes the project first, so that nothing new can come into it while
// it is searched. A Delete that was cut off in between is finished by the next.
func (s projects) Delete(ctx context.Context, req *apiv2.ProjectServiceDeleteRequest) (*apiv2.ProjectServiceDeleteResponse, error) {
	id, task := req.GetProject(), newID()
	if err := s.update(ctx, func(tx *store.Tx) error { return access.CloseProject(tx, id, task) }); err != nil {
		return nil, err
	}
	var p *apiv2.Project
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		p, err = access.DeleteProject(tx, id)
		return err
	})
	if errors.Is(err, fault.Precondition) {
		return nil, errors.Join(err, s.update(ctx, func(tx *store.Tx) error { return access.ReopenProject(tx, id) }))
	}
	return &apiv2.ProjectServiceDeleteResponse{Project: p}, err
}

func (s projects) Leave(ctx context.Context, req *apiv2.ProjectServiceLeaveRequest) (*apiv2.ProjectServiceLeaveResponse, error) {
	err := s.update(ctx, func(tx *store.Tx) error {
		_, err := access.RemoveMember(tx, access.ProjectGroup, req.GetProject(), callerOf(ctx).User())
		return err
	})
	return &apiv2.ProjectServiceLeaveResponse{}, err
}

func (s projects) AddMember(ctx context.Context, req *apiv2.ProjectServiceAddMemberRequest) (*apiv2.ProjectServiceAddMemberResponse, error) {
	err := s.update(ctx, func(tx *store.Tx) error {
		_, err := access.AddMember(tx, access.ProjectGroup, req.GetProject(), req.GetMember(), req.GetRole())
		return err
	})
	// the v2 API answers with a role in a field called project_member
	return &apiv2.ProjectServiceAddMemberResponse{ProjectMember: req.GetRole()}, err
}

func (s projects) RemoveMember(ctx context.Context, req *apiv2.ProjectServiceRemoveMemberRequest) (*apiv2.ProjectServiceRemoveMemberResponse, error) {
	err := s.update(ctx, func(tx *store.Tx) error {
		_, err := access.RemoveMember(tx, access.ProjectGroup, req.GetProject(), req.GetMember())
		return err
	})
	return &apiv2.ProjectServiceRemoveMemberResponse{}, err
}

// UpdateMember makes a member who inherits his role a direct one.
func (s projects) UpdateMember(ctx context.Context, req *apiv2.ProjectServiceUpdateMemberRequest) (*apiv2.ProjectServiceUpdateMemberResponse, error) {
	var m *privatev1.Member
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		if _, err := access.OpenProject(tx, req.GetProject()); err != nil {
			return err
		}
		m, err = access.UpdateMember(tx, access.ProjectGroup, req.GetProject(), req.GetMember(), req.GetRole())
		if errors.Is(err, fault.NotFound) && access.ProjectRole(tx, req.GetMember(), req.GetProject()) != 0 {
			m, err = access.AddMember(tx, access.ProjectGroup, req.GetProject(), req.GetMember(), req.GetRole())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &apiv2.ProjectServiceUpdateMemberResponse{ProjectMember: projectMember(m)}, nil
}

type adminProjects struct{ *Server }

func (s adminProjects) List(ctx context.Context, req *adminv2.ProjectServiceListRequest) (*adminv2.ProjectServiceListResponse, error) {
	resp := &adminv2.ProjectServiceListResponse{}
	for p := range records.Projects.All(s.view(ctx)) {
		if projectFilter.match(req.GetQuery(), p) {
			resp.Projects = append(resp.Projects, p)
		}
	}
	return resp, nil
}

// projectMembers returns the members of a project by login.
func projectMembers(r store.Reader, p *apiv2.Project, withInherited bool) []*apiv2.ProjectMember {
	members := map[string]*apiv2.ProjectMember{}
	for m := range access.ProjectGroup.Members(r, p.GetUuid()) {
		members[m.GetMember()] = projectMember(m)
	}
	if withInherited {
		for m := range access.TenantGroup.Members(r, p.GetTenant()) {
			role := access.Inherited(apiv2.TenantRole(m.GetRole()))
			if direct := members[m.GetMember()]; role != 0 && (direct == nil || role < direct.GetRole()) {
				members[m.GetMember()] = &apiv2.ProjectMember{
					Id: m.GetMember(), Role: role, InheritedMembership: true, CreatedAt: m.GetMeta().GetCreatedAt(), Meta: m.GetMeta(),
				}
			}
		}
	}
	var all []*apiv2.ProjectMember
	for _, name := range slices.Sorted(maps.Keys(members)) {
		all = append(all, members[name])
	}
	return all
}

func projectMember(m *privatev1.Member) *apiv2.ProjectMember {
	return &apiv2.ProjectMember{
		Id: m.GetMember(), Role: apiv2.ProjectRole(m.GetRole()), CreatedAt: m.GetMeta().GetCreatedAt(), Meta: m.GetMeta(),
	}
}

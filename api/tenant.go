package api

import (
	"context"
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

type tenants struct{ *Server }

var tenantFilter = newFilter(map[protoName]func(*apiv2.TenantQuery, *apiv2.Tenant) bool{"paging": nil})

func (s tenants) Create(ctx context.Context, req *apiv2.TenantServiceCreateRequest) (*apiv2.TenantServiceCreateResponse, error) {
	t := &apiv2.Tenant{
		Login:       newID(),
		Name:        req.GetName(),
		Description: req.GetDescription(),
		Email:       req.GetEmail(),
		AvatarUrl:   req.GetAvatarUrl(),
		CreatedBy:   callerOf(ctx).User(),
		Meta:        &apiv2.Meta{Labels: req.GetLabels()},
	}
	err := s.update(ctx, func(tx *store.Tx) error {
		if t.Email == "" {
			own, err := records.Tenants.Get(tx, callerOf(ctx).User())
			if err != nil || own.GetEmail() == "" {
				return fault.New(fault.Invalid, "", "email is required", "")
			}
			t.Email = own.GetEmail()
		}
		return access.CreateTenant(tx, t, callerOf(ctx).User())
	})
	return &apiv2.TenantServiceCreateResponse{Tenant: t}, err
}

func (s tenants) List(ctx context.Context, req *apiv2.TenantServiceListRequest) (*apiv2.TenantServiceListResponse, error) {
	if req.GetQuery().GetPaging() != nil {
		return nil, fault.New(fault.Invalid, "", "paging is currently not supported on tenant list request", "")
	}
	resp := &apiv2.TenantServiceListResponse{}
	for _, login := range slices.Sorted(maps.Keys(access.TenantsOf(s.view(ctx), callerOf(ctx).User()))) {
		if t, ok := records.Tenants.Peek(s.view(ctx), login); ok && tenantFilter.match(req.GetQuery(), t) {
			resp.Tenants = append(resp.Tenants, t)
		}
	}
	return resp, nil
}

// Get shows guests no more than who the tenant is.
func (s tenants) Get(ctx context.Context, req *apiv2.TenantServiceGetRequest) (*apiv2.TenantServiceGetResponse, error) {
	r := s.view(ctx)
	t, err := records.Tenants.Get(r, req.GetLogin())
	if err != nil {
		return nil, err
	}
	if callerOf(ctx).Standing(r, t.GetLogin()) == apiv2.TenantRole_TENANT_ROLE_GUEST {
		return &apiv2.TenantServiceGetResponse{Tenant: &apiv2.Tenant{Login: t.GetLogin(), Name: t.GetName()}}, nil
	}
	return &apiv2.TenantServiceGetResponse{Tenant: t, TenantMembers: tenantMembers(r, t.GetLogin())}, nil
}

func (s tenants) Update(ctx context.Context, req *apiv2.TenantServiceUpdateRequest) (*apiv2.TenantServiceUpdateResponse, error) {
	var t *apiv2.Tenant
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		t, err = access.UpdateTenant(tx, req.GetLogin(), func(t *apiv2.Tenant) error {
			if err := checkMetaIfGiven("tenant", t.GetLogin(), t.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&t.Name, req.Name)
			set(&t.Email, req.Email)
			set(&t.Description, req.Description)
			set(&t.AvatarUrl, req.AvatarUrl)
			updateLabels(t.Meta, req.GetLabels())
			return nil
		})
		return err
	})
	return &apiv2.TenantServiceUpdateResponse{Tenant: t}, err
}

func (s tenants) Delete(ctx context.Context, req *apiv2.TenantServiceDeleteRequest) (*apiv2.TenantServiceDeleteResponse, error) {
	var t *apiv2.Tenant
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		t, err = access.DeleteTenant(tx, req.GetLogin())
		return err
	})
	return &apiv2.TenantServiceDeleteResponse{Tenant: t}, err
}

func (s tenants) Leave(ctx context.Context, req *apiv2.TenantServiceLeaveRequest) (*apiv2.TenantServiceLeaveResponse, error) {
	_, err := s.removeTenantMember(ctx, req.GetLogin(), callerOf(ctx).User())
	return &apiv2.TenantServiceLeaveResponse{}, err
}

func (s tenants) AddMember(ctx context.Context, req *apiv2.TenantServiceAddMemberRequest) (*apiv2.TenantServiceAddMemberResponse, error) {
	if err := mayMake(callerOf(ctx).Standing(s.view(ctx), req.GetLogin()), req.GetRole()); err != nil {
		return nil, err
	}
	m, err := s.addTenantMember(ctx, req.GetLogin(), req.GetMember(), req.GetRole())
	return &apiv2.TenantServiceAddMemberResponse{TenantMember: m}, err
}

func (s tenants) UpdateMember(ctx context.Context, req *apiv2.TenantServiceUpdateMemberRequest) (*apiv2.TenantServiceUpdateMemberResponse, error) {
	var m *privatev1.Member
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		m, err = access.UpdateMember(tx, access.TenantGroup, req.GetLogin(), req.GetMember(), req.GetRole())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &apiv2.TenantServiceUpdateMemberResponse{TenantMember: tenantMember(s.view(ctx), m)}, nil
}

func (s tenants) RemoveMember(ctx context.Context, req *apiv2.TenantServiceRemoveMemberRequest) (*apiv2.TenantServiceRemoveMemberResponse, error) {
	m, err := s.removeTenantMember(ctx, req.GetLogin(), req.GetMember())
	return &apiv2.TenantServiceRemoveMemberResponse{TenantMember: m}, err
}

type adminTenants struct{ *Server }

func (s adminTenants) Create(ctx context.Context, req *adminv2.TenantServiceCreateRequest) (*adminv2.TenantServiceCreateResponse, error) {
	t := &apiv2.Tenant{
		Login:       req.GetName(),
		Name:        req.GetName(),
		Description: req.GetDescription(),
		Email:       req.GetEmail(),
		AvatarUrl:   req.GetAvatarUrl(),
		CreatedBy:   callerOf(ctx).User(),
		Meta:        &apiv2.Meta{Labels: req.GetLabels()},
	}
	err := s.update(ctx, func(tx *store.Tx) error { return access.CreateTenant(tx, t, callerOf(ctx).User()) })
	return &adminv2.TenantServiceCreateResponse{Tenant: t}, err
}

// List counts pages from one; a page without a count has a hundred tenants.
func (s adminTenants) List(ctx context.Context, req *adminv2.TenantServiceListRequest) (*adminv2.TenantServiceListResponse, error) {
	var all []*apiv2.Tenant
	for t := range records.Tenants.All(s.view(ctx)) {
		if tenantFilter.match(req.GetQuery(), t) {
			all = append(all, t)
		}
	}
	paging := req.GetQuery().GetPaging()
	if paging == nil {
		return &adminv2.TenantServiceListResponse{Tenants: all}, nil
	}
	page, next := pageOf(all, paging)
	return &adminv2.TenantServiceListResponse{Tenants: page, NextPage: next}, nil
}

func (s adminTenants) AddMember(ctx context.Context, req *adminv2.TenantServiceAddMemberRequest) (*adminv2.TenantServiceAddMemberResponse, error) {
	m, err := s.addTenantMember(ctx, req.GetTenant(), req.GetMember(), req.GetRole())
	return &adminv2.TenantServiceAddMemberResponse{TenantMember: m}, err
}

func (s adminTenants) RemoveMember(ctx context.Context, req *adminv2.TenantServiceRemoveMemberRequest) (*adminv2.TenantServiceRemoveMemberResponse, error) {
	m, err := s.removeTenantMember(ctx, req.GetTenant(), req.GetMember())
	return &adminv2.TenantServiceRemoveMemberResponse{TenantMember: m}, err
}

func (s *Server) addTenantMember(ctx context.Context, login, member string, role apiv2.TenantRole) (*apiv2.TenantMember, error) {
	var m *privatev1.Member
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		m, err = access.AddMember(tx, access.TenantGroup, login, member, role)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tenantMember(s.view(ctx), m), nil
}

func (s *Server) removeTenantMember(ctx context.Context, login, member string) (*apiv2.TenantMember, error) {
	var m *privatev1.Member
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		m, err = access.RemoveMember(tx, access.TenantGroup, login, member)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tenantMember(s.view(ctx), m), nil
}

// tenantMembers returns the members of a tenant by login, guests included.
func tenantMembers(r store.Reader, login string) []*apiv2.TenantMember {
	members := map[string]*apiv2.TenantMember{}
	for m := range access.TenantGroup.Members(r, login) {
		members[m.GetMember()] = tenantMember(r, m)
	}
	for p := range records.Projects.By(r, "tenant", login) {
		for m := range access.ProjectGroup.Members(r, p.GetUuid()) {
			if members[m.GetMember()] == nil {
				members[m.GetMember()] = tenantMember(r, &privatev1.Member{
					Of: login, Member: m.GetMember(), Role: int32(apiv2.TenantRole_TENANT_ROLE_GUEST), Meta: m.GetMeta(),
				})
			}
		}
	}
	var all []*apiv2.TenantMember
	for _, name := range slices.Sorted(maps.Keys(members)) {
		all = append(all, members[name])
	}
	return all
}

func tenantMember(r store.Reader, m *privatev1.Member) *apiv2.TenantMember {
	out := &apiv2.TenantMember{
		Id: m.GetMember(), Role: apiv2.TenantRole(m.GetRole()), CreatedAt: m.GetMeta().GetCreatedAt(), Meta: m.GetMeta(),
	}
	for p := range records.ProjectMembers.By(r, "member", m.GetMember()) {
		if project, ok := records.Projects.Peek(r, p.GetOf()); ok && project.GetTenant() == m.GetOf() {
			out.Projects = append(out.Projects, p.GetOf())
		}
	}
	return out
}

// mayMake returns fault.Denied if a member would get a role above the caller's.
func mayMake[R interface {
	~int32
	String() string
}](caller, role R) error {
	if caller != 0 && role < caller {
		return fault.Newf(fault.Denied, "", "role %s is above your own, which is %s", role, caller)
	}
	return nil
}

const pageSize = 100

// pageOf returns one page, and the number of the next if there is one.
func pageOf[T any](all []T, p *apiv2.Paging) (page []T, next *uint64) {
	count := p.GetCount()
	if count == 0 {
		count = pageSize
	}
	number := max(p.GetPage(), 1)
	total := uint64(len(all))
	if (number - 1) > total/count {
		return nil, nil
	}
	from := (number - 1) * count
	to := min(from+count, total)
	if to < total {
		number++
		next = &number
	}
	return all[from:to], next
}

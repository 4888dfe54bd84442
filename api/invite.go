package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
)

// invite keeps a new invitation and returns it with its secret.
func invite[R ~int32](ctx context.Context, s *Server, g access.Group, of string, role R) (*privatev1.Invite, string, error) {
	text := rand.Text() // 130 bits
	sealed := s.ring.Seal(access.InviteName(text), secret.New(text))
	var i *privatev1.Invite
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		i, err = access.Invite(tx, g, of, text, sealed, role)
		return err
	})
	return i, text, err
}

// invites returns the open invitations to a project or tenant as show makes
// them, those that end first first.
func invites[I any](ctx context.Context, s *Server, g access.Group, of string, show func(*privatev1.Invite, string) I) ([]I, error) {
	var open []*privatev1.Invite
	for i := range g.Invites(s.view(ctx), of) {
		if s.cfg.Now().Before(i.GetExpires().AsTime()) {
			open = append(open, i)
		}
	}
	slices.SortFunc(open, func(a, b *privatev1.Invite) int {
		return cmp.Or(a.GetExpires().AsTime().Compare(b.GetExpires().AsTime()), cmp.Compare(a.GetHash(), b.GetHash()))
	})
	var shown []I
	for _, i := range open {
		text, err := s.ring.Open("invite/"+i.GetHash(), i.GetSecret().GetValue())
		if err != nil {
			return nil, err
		}
		shown = append(shown, show(i, text.Reveal()))
	}
	return shown, nil
}

func (s *Server) accept(ctx context.Context, g access.Group, text string) (*privatev1.Invite, error) {
	var i *privatev1.Invite
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		i, err = access.Accept(tx, g, text, callerOf(ctx).User())
		return err
	})
	return i, err
}

func (s *Server) uninvite(ctx context.Context, g access.Group, of, text string) error {
	return s.update(ctx, func(tx *store.Tx) error { return g.Uninvite(tx, of, text) })
}

func (s *Server) projectInvite(r store.Reader) func(*privatev1.Invite, string) *apiv2.ProjectInvite {
	return func(i *privatev1.Invite, text string) *apiv2.ProjectInvite {
		p, _ := records.Projects.Peek(r, i.GetOf())
		t, _ := records.Tenants.Peek(r, p.GetTenant())
		return &apiv2.ProjectInvite{
			Secret: text, Project: i.GetOf(), Role: apiv2.ProjectRole(i.GetRole()), ProjectName: p.GetName(),
			Tenant: p.GetTenant(), TenantName: t.GetName(), ExpiresAt: i.GetExpires(),
		}
	}
}

func (s *Server) tenantInvite(r store.Reader) func(*privatev1.Invite, string) *apiv2.TenantInvite {
	return func(i *privatev1.Invite, text string) *apiv2.TenantInvite {
		t, _ := records.Tenants.Peek(r, i.GetOf())
		return &apiv2.TenantInvite{
			Secret: text, TargetTenant: i.GetOf(), Role: apiv2.TenantRole(i.GetRole()), TargetTenantName: t.GetName(),
			Tenant: i.GetOf(), TenantName: t.GetName(), ExpiresAt: i.GetExpires(),
		}
	}
}

func (s projects) Invite(ctx context.Context, req *apiv2.ProjectServiceInviteRequest) (*apiv2.ProjectServiceInviteResponse, error) {
	i, text, err := invite(ctx, s.Server, access.ProjectGroup, req.GetProject(), req.GetRole())
	return &apiv2.ProjectServiceInviteResponse{Invite: s.projectInvite(s.view(ctx))(i, text)}, err
}

func (s projects) InvitesList(ctx context.Context, req *apiv2.ProjectServiceInvitesListRequest) (*apiv2.ProjectServiceInvitesListResponse, error) {
	all, err := invites(ctx, s.Server, access.ProjectGroup, req.GetProject(), s.projectInvite(s.view(ctx)))
	return &apiv2.ProjectServiceInvitesListResponse{Invites: all}, err
}

func (s projects) InviteGet(ctx context.Context, req *apiv2.ProjectServiceInviteGetRequest) (*apiv2.ProjectServiceInviteGetResponse, error) {
	i, err := access.ProjectGroup.Invited(s.view(ctx), req.GetSecret(), s.cfg.Now())
	return &apiv2.ProjectServiceInviteGetResponse{Invite: s.projectInvite(s.view(ctx))(i, req.GetSecret())}, err
}

func (s projects) InviteAccept(ctx context.Context, req *apiv2.ProjectServiceInviteAcceptRequest) (*apiv2.ProjectServiceInviteAcceptResponse, error) {
	i, err := s.accept(ctx, access.ProjectGroup, req.GetSecret())
	p, _ := records.Projects.Peek(s.view(ctx), i.GetOf())
	return &apiv2.ProjectServiceInviteAcceptResponse{Project: i.GetOf(), ProjectName: p.GetName()}, err
}

func (s projects) InviteDelete(ctx context.Context, req *apiv2.ProjectServiceInviteDeleteRequest) (*apiv2.ProjectServiceInviteDeleteResponse, error) {
	return &apiv2.ProjectServiceInviteDeleteResponse{}, s.uninvite(ctx, access.ProjectGroup, req.GetProject(), req.GetSecret())
}

func (s tenants) Invite(ctx context.Context, req *apiv2.TenantServiceInviteRequest) (*apiv2.TenantServiceInviteResponse, error) {
	i, text, err := invite(ctx, s.Server, access.TenantGroup, req.GetLogin(), req.GetRole())
	return &apiv2.TenantServiceInviteResponse{Invite: s.tenantInvite(s.view(ctx))(i, text)}, err
}

func (s tenants) InvitesList(ctx context.Context, req *apiv2.TenantServiceInvitesListRequest) (*apiv2.TenantServiceInvitesListResponse, error) {
	all, err := invites(ctx, s.Server, access.TenantGroup, req.GetLogin(), s.tenantInvite(s.view(ctx)))
	return &apiv2.TenantServiceInvitesListResponse{Invites: all}, err
}

func (s tenants) InviteGet(ctx context.Context, req *apiv2.TenantServiceInviteGetRequest) (*apiv2.TenantServiceInviteGetResponse, error) {
	i, err := access.TenantGroup.Invited(s.view(ctx), req.GetSecret(), s.cfg.Now())
	return &apiv2.TenantServiceInviteGetResponse{Invite: s.tenantInvite(s.view(ctx))(i, req.GetSecret())}, err
}

func (s tenants) InviteAccept(ctx context.Context, req *apiv2.TenantServiceInviteAcceptRequest) (*apiv2.TenantServiceInviteAcceptResponse, error) {
	i, err := s.accept(ctx, access.TenantGroup, req.GetSecret())
	t, _ := records.Tenants.Peek(s.view(ctx), i.GetOf())
	return &apiv2.TenantServiceInviteAcceptResponse{Tenant: i.GetOf(), TenantName: t.GetName()}, err
}

func (s tenants) InviteDelete(ctx context.Context, req *apiv2.TenantServiceInviteDeleteRequest) (*apiv2.TenantServiceInviteDeleteResponse, error) {
	return &apiv2.TenantServiceInviteDeleteResponse{}, s.uninvite(ctx, access.TenantGroup, req.GetLogin(), req.GetSecret())
}

package api

import (
	"context"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
)

type methods struct{ *Server }

func (s methods) List(ctx context.Context, _ *apiv2.MethodServiceListRequest) (*apiv2.MethodServiceListResponse, error) {
	resp := &apiv2.MethodServiceListResponse{}
	for _, m := range access.Callable(s.view(ctx), callerOf(ctx)) {
		resp.Methods = append(resp.Methods, m.Name)
	}
	return resp, nil
}

func (s methods) TokenScopedList(ctx context.Context, _ *apiv2.MethodServiceTokenScopedListRequest) (*apiv2.MethodServiceTokenScopedListResponse, error) {
	r, c := s.view(ctx), callerOf(ctx)
	t := c.Token.GetToken()
	resp := &apiv2.MethodServiceTokenScopedListResponse{
		Permissions:  t.GetPermissions(),
		ProjectRoles: c.ProjectRoles(r),
		TenantRoles:  c.TenantRoles(r),
		InfraRole:    t.InfraRole,
		MachineRoles: t.GetMachineRoles(),
	}
	if role := c.AdminRole(r); role != 0 {
		resp.AdminRole = &role
	}
	return resp, nil
}

package api

import (
	"context"
	"maps"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/records"
)

type users struct{ *Server }

func (s users) Get(ctx context.Context, _ *apiv2.UserServiceGetRequest) (*apiv2.UserServiceGetResponse, error) {
	r, login := s.view(ctx), callerOf(ctx).User()
	own, err := records.Tenants.Get(r, login)
	if err != nil {
		return nil, err
	}
	u := &apiv2.User{Login: login, Name: own.GetName(), Email: own.GetEmail(), AvatarUrl: own.GetAvatarUrl(), DefaultTenant: own}
	for _, id := range slices.Sorted(maps.Keys(access.TenantsOf(r, login))) {
		if t, ok := records.Tenants.Peek(r, id); ok {
			u.Tenants = append(u.Tenants, t)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(access.ProjectsOf(r, login))) {
		if p, ok := records.Projects.Peek(r, id); ok {
			u.Projects = append(u.Projects, p)
		}
	}
	return &apiv2.UserServiceGetResponse{User: u}, nil
}

package api

import (
	"context"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

type versions struct{ *Server }

func (v versions) Get(context.Context, *apiv2.VersionServiceGetRequest) (*apiv2.VersionServiceGetResponse, error) {
	return &apiv2.VersionServiceGetResponse{Version: v.cfg.Version}, nil
}

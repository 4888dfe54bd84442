package api

import (
	"context"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type tokens struct{ *Server }

var tokenFilter = newFilter[*apiv2.TokenQuery, *apiv2.Token](nil)

// issue stores a token and returns it with its JWT.
func (s *Server) issue(ctx context.Context, make func(*store.Tx) (*privatev1.Token, error)) (*apiv2.Token, string, error) {
	var t *apiv2.Token
	err := s.update(ctx, func(tx *store.Tx) error {
		rec, err := make(tx)
		t = rec.GetToken()
		return err
	})
	if err != nil {
		return nil, "", err
	}
	secret, err := s.sign(t)
	return t, secret, err
}

func (s tokens) Get(ctx context.Context, req *apiv2.TokenServiceGetRequest) (*apiv2.TokenServiceGetResponse, error) {
	t, err := access.OwnToken(s.view(ctx), callerOf(ctx), req.GetUuid())
	return &apiv2.TokenServiceGetResponse{Token: t}, err
}

func (s tokens) Create(ctx context.Context, req *apiv2.TokenServiceCreateRequest) (*apiv2.TokenServiceCreateResponse, error) {
	id := newID()
	t, secret, err := s.issue(ctx, func(tx *store.Tx) (*privatev1.Token, error) {
		return access.CreateToken(tx, callerOf(ctx), id, callerOf(ctx).User(), req)
	})
	return &apiv2.TokenServiceCreateResponse{Token: t, Secret: secret}, err
}

func (s tokens) Update(ctx context.Context, req *apiv2.TokenServiceUpdateRequest) (*apiv2.TokenServiceUpdateResponse, error) {
	var t *privatev1.Token
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		t, err = access.UpdateToken(tx, callerOf(ctx), req, func(m *apiv2.Meta) { updateLabels(m, req.GetLabels()) })
		return err
	})
	return &apiv2.TokenServiceUpdateResponse{Token: t.GetToken()}, err
}

func (s tokens) List(ctx context.Context, req *apiv2.TokenServiceListRequest) (*apiv2.TokenServiceListResponse, error) {
	resp := &apiv2.TokenServiceListResponse{}
	for t := range records.Tokens.By(s.view(ctx), "user", callerOf(ctx).User()) {
		if s.lives(t) && tokenFilter.match(req.GetQuery(), t.GetToken()) {
			resp.Tokens = append(resp.Tokens, t.GetToken())
		}
	}
	return resp, nil
}

func (s tokens) Revoke(ctx context.Context, req *apiv2.TokenServiceRevokeRequest) (*apiv2.TokenServiceRevokeResponse, error) {
	err := s.update(ctx, func(tx *store.Tx) error { return access.RevokeToken(tx, callerOf(ctx).User(), req.GetUuid()) })
	return &apiv2.TokenServiceRevokeResponse{}, err
}

func (s tokens) Refresh(ctx context.Context, _ *apiv2.TokenServiceRefreshRequest) (*apiv2.TokenServiceRefreshResponse, error) {
	id := newID()
	t, secret, err := s.issue(ctx, func(tx *store.Tx) (*privatev1.Token, error) {
		return access.RefreshToken(tx, callerOf(ctx), id)
	})
	return &apiv2.TokenServiceRefreshResponse{Token: t, Secret: secret}, err
}

type adminTokens struct{ *Server }

func (s adminTokens) List(ctx context.Context, req *adminv2.TokenServiceListRequest) (*adminv2.TokenServiceListResponse, error) {
	resp := &adminv2.TokenServiceListResponse{}
	for t := range records.Tokens.All(s.view(ctx)) {
		if s.lives(t) && tokenFilter.match(req.GetQuery(), t.GetToken()) {
			resp.Tokens = append(resp.Tokens, t.GetToken())
		}
	}
	return resp, nil
}

func (s adminTokens) Revoke(ctx context.Context, req *adminv2.TokenServiceRevokeRequest) (*adminv2.TokenServiceRevokeResponse, error) {
	err := s.update(ctx, func(tx *store.Tx) error { return access.RevokeToken(tx, req.GetUser(), req.GetUuid()) })
	return &adminv2.TokenServiceRevokeResponse{}, err
}

func (s adminTokens) Create(ctx context.Context, req *adminv2.TokenServiceCreateRequest) (*adminv2.TokenServiceCreateResponse, error) {
	user := callerOf(ctx).User()
	set(&user, req.User)
	asked := req.GetTokenCreateRequest()
	if asked == nil {
		asked = &apiv2.TokenServiceCreateRequest{}
	}
	id := newID()
	t, secret, err := s.issue(ctx, func(tx *store.Tx) (*privatev1.Token, error) {
		return access.CreateToken(tx, callerOf(ctx), id, user, asked)
	})
	return &adminv2.TokenServiceCreateResponse{Token: t, Secret: secret}, err
}

// lives reports whether a token has not expired; the record stays a while.
func (s *Server) lives(t *privatev1.Token) bool {
	return s.cfg.Now().Before(t.GetToken().GetExpires().AsTime())
}

package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Bootstrap gives an empty store its provider tenant and the first token, with
// which everything else can be made. It does so once in the life of a store,
// and reports whether it was now. keep gets the token before it is valid, so
// that a crash cannot lose it; if Bootstrap then returns false, it never
// became valid.
func (s *Server) Bootstrap(ctx context.Context, keep func(token string) error) (bool, error) {
	if hasProvider(s.db.Snapshot()) {
		return false, nil
	}
	now := s.cfg.Now()
	t := &apiv2.Token{
		Uuid:        newID(),
		User:        s.cfg.Provider,
		Description: "first token of the installation",
		TokenType:   apiv2.TokenType_TOKEN_TYPE_API,
		AdminRole:   apiv2.AdminRole_ADMIN_ROLE_EDITOR.Enum(),
		IssuedAt:    timestamppb.New(now),
		Expires:     timestamppb.New(now.Add(access.MaxTokenLife)),
	}
	signed, err := s.sign(t)
	if err != nil {
		return false, err
	}
	if err := keep(signed); err != nil {
		return false, err
	}
	made := false
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if made = !hasProvider(tx); !made {
			return nil
		}
		if err := access.CreateProvider(tx, s.cfg.Provider); err != nil {
			return err
		}
		return records.Tokens.Insert(tx, &privatev1.Token{Token: t})
	})
	return made && err == nil, err
}

func hasProvider(r store.Reader) bool { return records.Tenants.Count(r, "provider", "true") > 0 }

// Knows reports whether a token is valid now.
func (s *Server) Knows(token string) bool {
	snap := s.db.Snapshot()
	uuid, err := s.verify(snap, token)
	if err == nil {
		_, err = access.Identify(snap, uuid, s.cfg.Now())
	}
	return err == nil
}

package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Tokens are the rights of every token that is neither revoked nor long
// expired, by the uuid in its claims.
var Tokens = store.NewTable(store.Table[*privatev1.Token]{
	Name: "token",
	Key:  func(t *privatev1.Token) string { return t.GetToken().GetUuid() },
	Indexes: map[string]func(*privatev1.Token) []string{
		"user": func(t *privatev1.Token) []string { return []string{t.GetToken().GetUser()} },
	},
	Stamp: stamp(func(t *privatev1.Token) **apiv2.Meta {
		if t.Token == nil {
			t.Token = &apiv2.Token{}
		}
		return &t.Token.Meta
	}),
})

package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Invites are the open invitations to projects and tenants, by the SHA-256 of
// their secret. The index "of" is by InviteKey of the kind and the project or
// tenant.
var Invites = store.NewTable(store.Table[*privatev1.Invite]{
	Name: "invite",
	Key:  func(i *privatev1.Invite) string { return InviteKey(i.GetKind(), i.GetHash()) },
	Indexes: map[string]func(*privatev1.Invite) []string{
		"of": func(i *privatev1.Invite) []string { return []string{InviteKey(i.GetKind(), i.GetOf())} },
	},
	Label: func(string) string { return "secret" },
})

// InviteKey returns the key of an invitation to a kind of group.
func InviteKey(kind, hash string) string { return Key(kind, hash) }

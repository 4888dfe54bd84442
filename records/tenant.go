package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// ProviderLabel marks the tenant whose members operate the cloud.
const ProviderLabel = "tenant.metal-stack.io/provider"

// Tenants are the people and organizations, by login. The index "provider" has
// the value "true" for the tenant that operates the cloud.
var Tenants = store.NewTable(store.Table[*apiv2.Tenant]{
	Name: "tenant",
	Key:  func(t *apiv2.Tenant) string { return t.GetLogin() },
	Indexes: map[string]func(*apiv2.Tenant) []string{
		"provider": func(t *apiv2.Tenant) []string {
			return []string{t.GetMeta().GetLabels().GetLabels()[ProviderLabel]}
		},
	},
	Stamp: stamp(func(t *apiv2.Tenant) **apiv2.Meta { return &t.Meta }),
})

// TenantMembers say who has which TenantRole in a tenant; see MemberKey.
var TenantMembers = members("tenant-member")

// ProjectMembers say who has which ProjectRole in a project; see MemberKey.
// Members of the project's tenant inherit theirs and are not listed here.
var ProjectMembers = members("project-member")

// MemberKey returns the key of a member of a tenant or project. Those of one
// tenant or project are Prefix(r, MemberKey(of, "")).
func MemberKey(of, member string) string { return Key(of, member) }

func members(name string) *store.Table[*privatev1.Member] {
	return store.NewTable(store.Table[*privatev1.Member]{
		Name: name,
		Key:  func(m *privatev1.Member) string { return MemberKey(m.GetOf(), m.GetMember()) },
		Indexes: map[string]func(*privatev1.Member) []string{
			"member": func(m *privatev1.Member) []string { return []string{m.GetMember()} },
		},
		Stamp: stamp(func(m *privatev1.Member) **apiv2.Meta { return &m.Meta }),
	})
}

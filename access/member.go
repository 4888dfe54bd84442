package access

import (
	"fmt"
	"iter"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A Group is something that has members: tenants or projects. The rules for
// members are the same for both; roles are those of the group's kind, and the
// strongest is the owner's.
type Group struct {
	noun  string
	table *store.Table[*privatev1.Member]
	open  func(tx *store.Tx, of string) error // whether it exists and can be joined
}

// The two kinds of group.
var (
	TenantGroup = Group{"tenant", records.TenantMembers, func(tx *store.Tx, of string) error {
		_, err := records.Tenants.Get(tx, of)
		return err
	}}
	ProjectGroup = Group{"project", records.ProjectMembers, func(tx *store.Tx, of string) error {
		_, err := OpenProject(tx, of)
		return err
	}}
)

// The roles of direct members have the same numbers in both kinds.
const (
	owner  = int32(apiv2.TenantRole_TENANT_ROLE_OWNER)
	viewer = int32(apiv2.TenantRole_TENANT_ROLE_VIEWER)
)

// checkRole refuses what no direct member can be.
func checkRole[R ~int32](role R) error {
	if r := int32(role); r < owner || r > viewer {
		return fault.New(fault.Invalid, "", "role must be owner, editor or viewer", "")
	}
	return nil
}

// Members yields the direct members of a tenant or project by name.
func (g Group) Members(r store.Reader, of string) iter.Seq[*privatev1.Member] {
	return g.table.Prefix(r, records.MemberKey(of, ""))
}

// AddMember makes an existing tenant a direct member; fault.Exists if it is
// one.
func AddMember[R ~int32](tx *store.Tx, g Group, of, member string, role R) (*privatev1.Member, error) {
	if err := checkRole(role); err != nil {
		return nil, err
	}
	if err := g.open(tx, of); err != nil {
		return nil, err
	}
	if _, err := records.Tenants.Get(tx, member); err != nil {
		return nil, err
	}
	if _, is := g.table.Peek(tx, records.MemberKey(of, member)); is {
		g.table.Rely(tx, records.MemberKey(of, member))
		return nil, fault.Newf(fault.Exists, "", "%s is already member of %s %s", member, g.noun, of)
	}
	m := &privatev1.Member{Of: of, Member: member, Role: int32(role)}
	return m, g.table.Insert(tx, m)
}

// UpdateMember changes a direct member's role. The last owner keeps his, and
// so does everybody in the tenant that carries his name.
func UpdateMember[R ~int32](tx *store.Tx, g Group, of, member string, role R) (*privatev1.Member, error) {
	if err := checkRole(role); err != nil {
		return nil, err
	}
	m, err := g.get(tx, of, member)
	if err != nil {
		return nil, err
	}
	if m.GetRole() == owner && int32(role) != owner {
		if of == member {
			return nil, fault.New(fault.Precondition, "", "cannot demote a user's role within their own default tenant", "")
		}
		if !g.otherOwner(tx, of, member) {
			return nil, fault.New(fault.Precondition, "", "cannot demote last owner's permissions", "")
		}
	}
	return g.table.Change(tx, records.MemberKey(of, member), func(m *privatev1.Member) error {
		m.Role = int32(role)
		return nil
	})
}

// RemoveMember ends a direct membership. The last owner cannot be removed, nor
// anybody from the tenant that carries his name.
func RemoveMember(tx *store.Tx, g Group, of, member string) (*privatev1.Member, error) {
	m, err := g.get(tx, of, member)
	if err != nil {
		return nil, err
	}
	if of == member {
		return nil, fault.New(fault.Precondition, "", "cannot remove a member from their own default tenant", "")
	}
	if m.GetRole() == owner && !g.otherOwner(tx, of, member) {
		return nil, fault.Newf(fault.Precondition, "", "cannot remove last owner of a %s", g.noun)
	}
	return g.table.Delete(tx, records.MemberKey(of, member))
}

func (g Group) get(tx *store.Tx, of, member string) (*privatev1.Member, error) {
	m, err := g.table.Get(tx, records.MemberKey(of, member))
	if err != nil {
		return nil, fault.Newf(fault.NotFound, "", "%s is not a member of %s %s", member, g.noun, of)
	}
	return m, nil
}

// otherOwner reports whether there is an owner besides one, and relies on it:
// of two owners who leave at the same time, one has to try again.
func (g Group) otherOwner(tx *store.Tx, of, besides string) bool {
	for m := range g.Members(tx, of) {
		if m.GetRole() == owner && m.GetMember() != besides {
			g.table.Rely(tx, records.MemberKey(of, m.GetMember()))
			return true
		}
	}
	return false
}

// maxDissolve bounds the memberships that end in one transaction.
const maxDissolve = 50

// dissolve ends all memberships.
func (g Group) dissolve(tx *store.Tx, of string) error {
	n := 0
	for range g.Members(tx, of) {
		n++
	}
	if n > maxDissolve {
		return fault.New(fault.Precondition, g.noun+" "+of, fmt.Sprintf("has %d members", n), fmt.Sprintf("remove members until there are %d", maxDissolve))
	}
	for m := range g.Members(tx, of) {
		if _, err := g.table.Delete(tx, records.MemberKey(of, m.GetMember())); err != nil {
			return err
		}
	}
	return nil
}

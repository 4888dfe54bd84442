package access

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// CreateTenant stores a tenant and makes a member its owner; without one, the
// tenant itself, as is right for a person's own. There is one provider tenant
// at most, and only CreateProvider makes it.
func CreateTenant(tx *store.Tx, t *apiv2.Tenant, member string) error {
	if t.GetMeta().GetLabels().GetLabels()[records.ProviderLabel] != "" {
		return fault.New(fault.Invalid, "", "a provider tenant exists already", "leave out the label "+records.ProviderLabel)
	}
	if err := records.Tenants.Insert(tx, t); err != nil {
		return err
	}
	if member == "" {
		member = t.GetLogin()
	}
	_, err := AddMember(tx, TenantGroup, t.GetLogin(), member, apiv2.TenantRole_TENANT_ROLE_OWNER)
	return err
}

// CreateProvider stores the tenant whose members operate the cloud. It owns
// itself. There must be none yet.
func CreateProvider(tx *store.Tx, login string) error {
	tx.Bump("provider")
	t := &apiv2.Tenant{
		Login: login,
		Name:  login,
		Meta:  &apiv2.Meta{Labels: &apiv2.Labels{Labels: map[string]string{records.ProviderLabel: "true"}}},
	}
	if err := records.Tenants.Insert(tx, t); err != nil {
		return err
	}
	_, err := AddMember(tx, TenantGroup, login, login, apiv2.TenantRole_TENANT_ROLE_OWNER)
	return err
}

// UpdateTenant changes what edit changes. Whether a tenant is the provider
// cannot change.
func UpdateTenant(tx *store.Tx, login string, edit func(*apiv2.Tenant) error) (*apiv2.Tenant, error) {
	return records.Tenants.Change(tx, login, func(t *apiv2.Tenant) error {
		was := t.GetMeta().GetLabels().GetLabels()[records.ProviderLabel]
		if err := edit(t); err != nil {
			return err
		}
		if t.GetMeta().GetLabels().GetLabels()[records.ProviderLabel] != was {
			return fault.New(fault.Invalid, "label "+records.ProviderLabel, "cannot be changed", "")
		}
		return nil
	})
}

// DeleteTenant deletes a tenant and its memberships. It must have no projects,
// must not be a person's own, nor the provider.
func DeleteTenant(tx *store.Tx, login string) (*apiv2.Tenant, error) {
	t, err := records.Tenants.Get(tx, login)
	if err != nil {
		return nil, err
	}
	tx.Bump(projectsOf(login))
	tx.Guard("tenant-member/" + records.MemberKey(login, "")) // a member who is just joining would stay
	switch own := records.MemberKey(login, login); {
	case t.GetMeta().GetLabels().GetLabels()[records.ProviderLabel] != "":
		return nil, fault.New(fault.Precondition, "", "the provider tenant cannot be deleted", "")
	case has(records.TenantMembers.Peek(tx, own)):
		return nil, fault.New(fault.Precondition, "", "the personal tenant (default-tenant) cannot be deleted", "")
	case records.Projects.Count(tx, "tenant", login) > 0:
		return nil, fault.New(fault.Precondition, "", "there are still projects associated with this tenant, you need to delete them first", "")
	}
	if err := TenantGroup.dissolve(tx, login); err != nil {
		return nil, err
	}
	if err := TenantGroup.uninvite(tx, login); err != nil {
		return nil, err
	}
	return records.Tenants.Delete(tx, login)
}

// projectsOf names the guard record of the set of a tenant's projects.
func projectsOf(tenant string) string { return "projects/" + tenant }

func has[T any](_ T, ok bool) bool { return ok }

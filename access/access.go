// Package access holds the rules about who may call what, and about tenants,
// projects, their members and tokens.
//
// What a method asks for stands in its options (Method). What a caller has
// stands in its token's record, never in the token itself, and counts at the
// moment of the call:
//
//   - A token of type USER has the roles its user has in tenants and projects.
//   - A token of type API has what was written into it, and of that never more
//     than its user has at the moment. A member who is demoted takes the rights
//     of all his tokens with him.
//   - A token that was enrolled is a leaf's or a site's: it has the calls of its
//     kind, for its own partition and switch. Some of them no other token has,
//     whatever its roles are.
//
// A stronger role has all rights of a weaker one.
package access

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Any is the subject that stands for all of them.
const Any = "*"

// A Caller is who calls. The zero Caller is nobody in particular.
type Caller struct {
	// Token is the record of the caller's token; nil without a token.
	Token *privatev1.Token
}

// User returns the login the caller acts for; empty without a token.
func (c Caller) User() string { return c.Token.GetToken().GetUser() }

// Partition returns the only partition the caller may act in; empty if it is
// not bound to one.
func (c Caller) Partition() string { return c.Token.GetPartition() }

// IsUser reports whether a person's session calls, not a program.
func (c Caller) IsUser() bool {
	return c.Token.GetToken().GetTokenType() == apiv2.TokenType_TOKEN_TYPE_USER
}

// AdminRole returns the caller's role towards the whole cloud: that of its
// token, and no more than its user has as a member of the provider tenant.
func (c Caller) AdminRole(r store.Reader) apiv2.AdminRole {
	if c.IsUser() || c.Token.GetToken().GetAdminRole() == 0 {
		return 0
	}
	return weaker(c.Token.GetToken().GetAdminRole(), providerRole(r, c.User()))
}

// ProjectRole returns the caller's role in a project.
func (c Caller) ProjectRole(r store.Reader, project string) apiv2.ProjectRole {
	switch c.AdminRole(r) {
	case apiv2.AdminRole_ADMIN_ROLE_EDITOR:
		return apiv2.ProjectRole_PROJECT_ROLE_OWNER
	case apiv2.AdminRole_ADMIN_ROLE_VIEWER:
		return apiv2.ProjectRole_PROJECT_ROLE_VIEWER
	}
	if c.IsUser() {
		return ProjectRole(r, c.User(), project)
	}
	roles := c.Token.GetToken().GetProjectRoles()
	return stronger(
		weaker(roles[Any], ProjectRole(r, c.User(), project)),
		weaker(roles[project], userProjectRole(r, c.User(), project)),
	)
}

// TenantRole returns the caller's role in a tenant.
func (c Caller) TenantRole(r store.Reader, tenant string) apiv2.TenantRole {
	switch c.AdminRole(r) {
	case apiv2.AdminRole_ADMIN_ROLE_EDITOR:
		return apiv2.TenantRole_TENANT_ROLE_OWNER
	case apiv2.AdminRole_ADMIN_ROLE_VIEWER:
		return apiv2.TenantRole_TENANT_ROLE_VIEWER
	}
	if c.IsUser() {
		return TenantRole(r, c.User(), tenant)
	}
	roles := c.Token.GetToken().GetTenantRoles()
	return stronger(
		weaker(roles[Any], TenantRole(r, c.User(), tenant)),
		weaker(roles[tenant], userTenantRole(r, c.User(), tenant)),
	)
}

// Standing returns the caller's role in a tenant, or that of its user if the
// token names methods and no roles.
func (c Caller) Standing(r store.Reader, tenant string) apiv2.TenantRole {
	if role := c.TenantRole(r, tenant); role != 0 {
		return role
	}
	return TenantRole(r, c.User(), tenant)
}

// machineRole returns the caller's role for a machine.
func (c Caller) machineRole(uuid string) apiv2.MachineRole {
	roles := c.Token.GetToken().GetMachineRoles()
	return stronger(roles[Any], roles[uuid])
}

// Authorize returns nil if the caller may call the method with this request,
// and fault.Denied otherwise, in the words of the v2 API. The request may be
// nil; then the answer is that for a request about nothing in particular.
func Authorize(r store.Reader, c Caller, m *Method, req protoreflect.Message) error {
	if c.Token.GetKind() != 0 {
		return authorizeFarEnd(c.Token, m, req)
	}
	if m.Enrolled && c.Token != nil {
		return fault.New(fault.Denied, "", fmt.Sprintf("access to:%q is for enrolled leaves and sites", m.Name), "enrol it with 'ingot partition enroll'")
	}
	subject := m.Subject(req)
	if !Allowed(r, c, m, subject) {
		return denied(m, subject, subjects(r, c, m))
	}
	if c.Partition() != "" && !m.Public && !within(c.Token, m, req) {
		return denied(m, scopeOf(m, req).partition, []string{c.Partition()})
	}
	return nil
}

// Allowed reports whether the caller may call the method about a subject: a
// project, a tenant, a machine, or "" where the method is about neither.
func Allowed(r store.Reader, c Caller, m *Method, subject string) bool {
	t := c.Token.GetToken()
	switch {
	case m.Public:
		return true
	case t == nil:
		return false
	case c.Token.GetKind() != 0:
		return ofKind(c.Token.GetKind(), m)
	case m.Enrolled:
		return false
	case m.Self && c.IsUser():
		return true
	}
	switch c.AdminRole(r) {
	case apiv2.AdminRole_ADMIN_ROLE_EDITOR:
		return true
	case apiv2.AdminRole_ADMIN_ROLE_VIEWER:
		if m.viewer {
			return true
		}
	}
	return m.Project != 0 && reaches(c.ProjectRole(r, subject), m.Project) ||
		m.Tenant != 0 && reaches(c.TenantRole(r, subject), m.Tenant) ||
		reaches(t.GetInfraRole(), m.Infra) ||
		m.Machine != 0 && reaches(c.machineRole(subject), m.Machine) ||
		permitted(r, c, m, subject)
}

// permitted reports whether the token names the method for the subject, and
// its user may do as much.
func permitted(r store.Reader, c Caller, m *Method, subject string) bool {
	for _, p := range c.Token.GetToken().GetPermissions() {
		if (p.GetSubject() == subject || p.GetSubject() == Any) && slices.Contains(p.GetMethods(), m.Name) {
			return userMay(r, c.User(), m, subject)
		}
	}
	return false
}

// userMay reports whether a user's memberships are enough for a method. What
// infrastructure and machines do is not a matter of membership.
func userMay(r store.Reader, user string, m *Method, subject string) bool {
	return m.Self || m.Infra != 0 || m.Machine != 0 ||
		m.Project != 0 && reaches(userProjectRole(r, user, subject), m.Project) ||
		m.Tenant != 0 && reaches(userTenantRole(r, user, subject), m.Tenant) ||
		reaches(providerRole(r, user), m.Admin)
}

// subjects returns what the caller could call the method about, in order.
func subjects(r store.Reader, c Caller, m *Method) []string {
	if m.subject == nil {
		return nil
	}
	t := c.Token.GetToken()
	candidates := map[string]bool{}
	add := func(subjects iter.Seq[string]) {
		for s := range subjects {
			candidates[s] = true
		}
	}
	for _, p := range t.GetPermissions() {
		if slices.Contains(p.GetMethods(), m.Name) {
			candidates[p.GetSubject()] = true
		}
	}
	switch {
	case m.Project != 0:
		add(maps.Keys(t.GetProjectRoles()))
		if t != nil && (c.IsUser() || candidates[Any]) {
			add(maps.Keys(ProjectsOf(r, c.User())))
		}
	case m.Tenant != 0:
		add(maps.Keys(t.GetTenantRoles()))
		if t != nil && (c.IsUser() || candidates[Any]) {
			add(maps.Keys(TenantsOf(r, c.User())))
		}
	case m.Machine != 0:
		add(maps.Keys(t.GetMachineRoles()))
	}
	var may []string
	for _, s := range slices.Sorted(maps.Keys(candidates)) {
		if Allowed(r, c, m, s) {
			may = append(may, s)
		}
	}
	return may
}

// Callable returns the methods the caller can call about something, in order.
func Callable(r store.Reader, c Caller) []*Method {
	var can []*Method
	for _, m := range Methods() {
		if Allowed(r, c, m, "") || len(subjects(r, c, m)) > 0 {
			can = append(can, m)
		}
	}
	return can
}

// ProjectRoles returns the caller's role in each project it has one in, admin
// roles aside.
func (c Caller) ProjectRoles(r store.Reader) map[string]apiv2.ProjectRole {
	if c.IsUser() {
		return ProjectsOf(r, c.User())
	}
	return spread(c.Token.GetToken().GetProjectRoles(), ProjectsOf(r, c.User()),
		func(p string) apiv2.ProjectRole { return userProjectRole(r, c.User(), p) })
}

// TenantRoles returns the caller's role in each tenant it has one in, admin
// roles aside.
func (c Caller) TenantRoles(r store.Reader) map[string]apiv2.TenantRole {
	if c.IsUser() {
		return TenantsOf(r, c.User())
	}
	return spread(c.Token.GetToken().GetTenantRoles(), TenantsOf(r, c.User()),
		func(t string) apiv2.TenantRole { return userTenantRole(r, c.User(), t) })
}

// spread returns the roles of a token as they count: none above what its user
// may have, and the role for any subject as one for each membership.
func spread[R ~int32](token, memberships map[string]R, limit func(subject string) R) map[string]R {
	roles := map[string]R{}
	for s, role := range token {
		if s == Any {
			for m, has := range memberships {
				roles[m] = stronger(roles[m], weaker(role, has))
			}
		} else if role = weaker(role, limit(s)); role != 0 {
			roles[s] = stronger(roles[s], role)
		}
	}
	return roles
}

func denied(m *Method, subject string, allowed []string) error {
	if len(allowed) == 0 {
		return fault.New(fault.Denied, "", fmt.Sprintf("access to:%q is not allowed because it is not part of the token permissions", m.Name), "")
	}
	return fault.New(fault.Denied, "", fmt.Sprintf(
		"access to:%q with subject:%q is not allowed because it is not part of the token permissions, allowed subjects are:%q", m.Name, subject, allowed), "")
}

// ProjectRole returns a user's role as a member of a project, or as a member
// of the project's tenant, whichever is stronger; 0 if there is none.
func ProjectRole(r store.Reader, user, project string) apiv2.ProjectRole {
	var role apiv2.ProjectRole
	if m, ok := records.ProjectMembers.Peek(r, records.MemberKey(project, user)); ok {
		role = apiv2.ProjectRole(m.GetRole())
	}
	if p, ok := records.Projects.Peek(r, project); ok {
		role = stronger(role, Inherited(direct(r, user, p.GetTenant())))
	}
	return role
}

// TenantRole returns a user's role as a member of a tenant; guest if the user
// is only a member of one of its projects, 0 if there is none.
func TenantRole(r store.Reader, user, tenant string) apiv2.TenantRole {
	if role := direct(r, user, tenant); role != 0 {
		return role
	}
	for m := range records.ProjectMembers.By(r, "member", user) {
		if p, ok := records.Projects.Peek(r, m.GetOf()); ok && p.GetTenant() == tenant {
			return apiv2.TenantRole_TENANT_ROLE_GUEST
		}
	}
	return 0
}

func direct(r store.Reader, user, tenant string) apiv2.TenantRole {
	m, _ := records.TenantMembers.Peek(r, records.MemberKey(tenant, user))
	return apiv2.TenantRole(m.GetRole())
}

// Inherited returns the role in a tenant's projects that comes with a role in
// the tenant.
func Inherited(t apiv2.TenantRole) apiv2.ProjectRole {
	switch t {
	case apiv2.TenantRole_TENANT_ROLE_OWNER:
		return apiv2.ProjectRole_PROJECT_ROLE_OWNER
	case apiv2.TenantRole_TENANT_ROLE_EDITOR:
		return apiv2.ProjectRole_PROJECT_ROLE_EDITOR
	case apiv2.TenantRole_TENANT_ROLE_VIEWER:
		return apiv2.ProjectRole_PROJECT_ROLE_VIEWER
	}
	return 0
}

// ProjectsOf returns the projects a user has a role in, and the role.
func ProjectsOf(r store.Reader, user string) map[string]apiv2.ProjectRole {
	roles := map[string]apiv2.ProjectRole{}
	for m := range records.ProjectMembers.By(r, "member", user) {
		roles[m.GetOf()] = apiv2.ProjectRole(m.GetRole())
	}
	for m := range records.TenantMembers.By(r, "member", user) {
		if role := Inherited(apiv2.TenantRole(m.GetRole())); role != 0 {
			for p := range records.Projects.By(r, "tenant", m.GetOf()) {
				roles[p.GetUuid()] = stronger(roles[p.GetUuid()], role)
			}
		}
	}
	return roles
}

// TenantsOf returns the tenants a user has a role in, and the role.
func TenantsOf(r store.Reader, user string) map[string]apiv2.TenantRole {
	roles := map[string]apiv2.TenantRole{}
	for m := range records.TenantMembers.By(r, "member", user) {
		roles[m.GetOf()] = apiv2.TenantRole(m.GetRole())
	}
	for m := range records.ProjectMembers.By(r, "member", user) {
		if p, ok := records.Projects.Peek(r, m.GetOf()); ok && roles[p.GetTenant()] == 0 {
			roles[p.GetTenant()] = apiv2.TenantRole_TENANT_ROLE_GUEST
		}
	}
	return roles
}

// providerRole returns the strongest admin role a user's tokens can have.
func providerRole(r store.Reader, user string) apiv2.AdminRole {
	for t := range records.Tenants.By(r, "provider", "true") {
		switch direct(r, user, t.GetLogin()) {
		case apiv2.TenantRole_TENANT_ROLE_OWNER:
			return apiv2.AdminRole_ADMIN_ROLE_EDITOR
		case apiv2.TenantRole_TENANT_ROLE_EDITOR, apiv2.TenantRole_TENANT_ROLE_VIEWER:
			return apiv2.AdminRole_ADMIN_ROLE_VIEWER
		}
	}
	return 0
}

// userProjectRole is ProjectRole, where members of the provider tenant have
// the role in every project that their admin role comes with.
func userProjectRole(r store.Reader, user, project string) apiv2.ProjectRole {
	role := ProjectRole(r, user, project)
	switch providerRole(r, user) {
	case apiv2.AdminRole_ADMIN_ROLE_EDITOR:
		return apiv2.ProjectRole_PROJECT_ROLE_OWNER
	case apiv2.AdminRole_ADMIN_ROLE_VIEWER:
		return stronger(role, apiv2.ProjectRole_PROJECT_ROLE_VIEWER)
	}
	return role
}

// userTenantRole is TenantRole, where members of the provider tenant have the
// role in every tenant that their admin role comes with.
func userTenantRole(r store.Reader, user, tenant string) apiv2.TenantRole {
	role := TenantRole(r, user, tenant)
	switch providerRole(r, user) {
	case apiv2.AdminRole_ADMIN_ROLE_EDITOR:
		return apiv2.TenantRole_TENANT_ROLE_OWNER
	case apiv2.AdminRole_ADMIN_ROLE_VIEWER:
		return stronger(role, apiv2.TenantRole_TENANT_ROLE_VIEWER)
	}
	return role
}

// stronger returns the stronger of two roles, weaker the weaker one. Of a role
// and none, stronger is the role and weaker is none.
func stronger[R ~int32](a, b R) R {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func weaker[R ~int32](a, b R) R {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

package access

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// TokenLife is how long a token is valid if nobody said.
	TokenLife = 8 * time.Hour
	// MaxTokenLife is the longest validity of a token, and that of the tokens
	// of leaves and sites.
	MaxTokenLife = 365 * 24 * time.Hour
)

// errRevoked has the words of the v2 API.
var errRevoked = fault.New(fault.Unauthenticated, "", "token was revoked", "")

// Identify returns the caller behind a token whose signature was found to be
// ours, by the token's uuid. It is fault.Unauthenticated if the token was
// revoked or has expired.
func Identify(r store.Reader, uuid string, now time.Time) (Caller, error) {
	t, ok := records.Tokens.Peek(r, uuid)
	if !ok {
		return Caller{}, errRevoked
	}
	if !now.Before(t.GetToken().GetExpires().AsTime()) {
		return Caller{}, fault.New(fault.Unauthenticated, "", "token has expired", "")
	}
	return Caller{Token: t}, nil
}

// CreateToken stores a new API token for a user, under a fresh uuid, with the
// rights asked for. They must be covered by the caller's own and by the user's
// memberships.
func CreateToken(tx *store.Tx, c Caller, uuid, user string, req *apiv2.TokenServiceCreateRequest) (*privatev1.Token, error) {
	if user != c.User() && c.AdminRole(tx) != apiv2.AdminRole_ADMIN_ROLE_EDITOR {
		return nil, fault.New(fault.Denied, "", "only admins can specify token user", "")
	}
	if _, err := records.Tenants.Get(tx, user); err != nil {
		return nil, fault.Wrap(fault.Precondition, "user "+user, "has no tenant", err)
	}
	permissions, err := flatten(req.GetPermissions())
	if err != nil {
		return nil, err
	}
	life := TokenLife
	if req.GetExpires() != nil {
		life = req.GetExpires().AsDuration()
	}
	t := &apiv2.Token{
		Uuid:         uuid,
		User:         user,
		Meta:         &apiv2.Meta{Labels: req.GetLabels()},
		Description:  req.GetDescription(),
		Permissions:  permissions,
		IssuedAt:     timestamppb.New(tx.Now()),
		Expires:      timestamppb.New(tx.Now().Add(life)),
		TokenType:    apiv2.TokenType_TOKEN_TYPE_API,
		ProjectRoles: req.GetProjectRoles(),
		TenantRoles:  req.GetTenantRoles(),
		AdminRole:    specified(req.AdminRole),
		InfraRole:    specified(req.InfraRole),
		MachineRoles: req.GetMachineRoles(),
	}
	if err := covered(tx, c, t); err != nil {
		return nil, err
	}
	// What the caller is bound to, its tokens are bound to.
	rec := &privatev1.Token{Token: t, Partition: c.Partition(), FarEnd: c.Token.GetFarEnd()}
	return rec, records.Tokens.Insert(tx, rec)
}

// UpdateToken changes the caller's own API token. New rights must be covered
// like those of a new token.
func UpdateToken(tx *store.Tx, c Caller, req *apiv2.TokenServiceUpdateRequest, labels func(*apiv2.Meta)) (*privatev1.Token, error) {
	if req.GetUpdateMeta().GetUpdatedAt() != nil {
		return nil, fault.New(fault.Invalid, "", "optimistic locking is not yet implemented, please do not provide updated_at in update meta", "")
	}
	permissions, err := flatten(req.GetPermissions())
	if err != nil {
		return nil, err
	}
	if _, err := ownToken(tx, c, req.GetUuid()); err != nil {
		return nil, err
	}
	return records.Tokens.Change(tx, req.GetUuid(), func(rec *privatev1.Token) error {
		t := rec.GetToken()
		if t.GetTokenType() != apiv2.TokenType_TOKEN_TYPE_API || rec.GetKind() != 0 || len(rec.GetPublicKey()) > 0 {
			return fault.New(fault.Invalid, "token "+t.GetUuid(), "only API tokens can be updated", "create another token")
		}
		asked := &apiv2.Token{
			User:         t.GetUser(),
			Permissions:  permissions,
			ProjectRoles: req.GetProjectRoles(),
			TenantRoles:  req.GetTenantRoles(),
			AdminRole:    req.AdminRole,
			InfraRole:    req.InfraRole,
			MachineRoles: req.GetMachineRoles(),
		}
		if err := covered(tx, c, asked); err != nil {
			return err
		}
		if req.Description != nil {
			t.Description = req.GetDescription()
		}
		if len(permissions) > 0 {
			t.Permissions = permissions
		}
		if len(req.GetProjectRoles()) > 0 {
			t.ProjectRoles = req.GetProjectRoles()
		}
		if len(req.GetTenantRoles()) > 0 {
			t.TenantRoles = req.GetTenantRoles()
		}
		if len(req.GetMachineRoles()) > 0 {
			t.MachineRoles = req.GetMachineRoles()
		}
		if req.AdminRole != nil {
			t.AdminRole = specified(req.AdminRole)
		}
		if req.InfraRole != nil {
			t.InfraRole = specified(req.InfraRole)
		}
		labels(t.Meta)
		return nil
	})
}

// specified returns nil for the role that removes a role.
func specified[R ~int32](role *R) *R {
	if role == nil || *role == 0 {
		return nil
	}
	return role
}

// RefreshToken stores a copy of the caller's token under a fresh uuid, valid as
// long as the first was from its issue. The first stays valid.
func RefreshToken(tx *store.Tx, c Caller, uuid string) (*privatev1.Token, error) {
	old, err := records.Tokens.Get(tx, c.Token.GetToken().GetUuid())
	if err != nil {
		return nil, errRevoked
	}
	if len(old.GetPublicKey()) > 0 {
		return nil, fault.New(fault.Denied, "", "the token is bound to a key, whose possession this call does not prove", "use AgentService.Refresh")
	}
	rec := proto.CloneOf(old)
	t := rec.GetToken()
	life := t.GetExpires().AsTime().Sub(t.GetIssuedAt().AsTime())
	t.Uuid = uuid
	t.Meta = &apiv2.Meta{Labels: t.GetMeta().GetLabels()}
	t.IssuedAt, t.Expires = timestamppb.New(tx.Now()), timestamppb.New(tx.Now().Add(life))
	return rec, records.Tokens.Insert(tx, rec)
}

// RevokeToken deletes a token of a user. It is void for every later call.
func RevokeToken(tx *store.Tx, user, uuid string) error {
	t, err := records.Tokens.Get(tx, uuid)
	if err != nil || t.GetToken().GetUser() != user {
		return errNoToken
	}
	_, err = records.Tokens.Delete(tx, uuid)
	return err
}

// errNoToken has the words of the v2 API.
var errNoToken = fault.New(fault.NotFound, "", "token not found", "")

// OwnToken returns a token of the caller's user.
func OwnToken(r store.Reader, c Caller, uuid string) (*apiv2.Token, error) {
	t, err := ownToken(r, c, uuid)
	return t.GetToken(), err
}

func ownToken(r store.Reader, c Caller, uuid string) (*privatev1.Token, error) {
	t, err := records.Tokens.Get(r, uuid)
	if err != nil || t.GetToken().GetUser() != c.User() {
		return nil, errNoToken
	}
	return t, nil
}

// flatten returns permissions as they are stored: one per subject, "" for
// methods that have none.
func flatten(asked []*apiv2.PermissionsByVisibility) ([]*apiv2.MethodPermission, error) {
	bySubject := map[string]*apiv2.MethodPermission{}
	var all []*apiv2.MethodPermission
	for _, p := range asked {
		subject, visibility, names := unpack(p)
		for _, name := range names {
			m := MethodOf(name)
			if m == nil {
				return nil, fault.Newf(fault.Invalid, "", "unknown method %q", name)
			}
			if v := m.visibilities(); !slices.Contains(v, visibility) {
				return nil, fault.Newf(fault.Invalid, "", "requested method %q is of visibility %q, not of visibility %q", name, v[0], visibility)
			}
			into := bySubject[subject]
			if into == nil {
				into = &apiv2.MethodPermission{Subject: subject}
				bySubject[subject] = into
				all = append(all, into)
			}
			if !slices.Contains(into.Methods, name) {
				into.Methods = append(into.Methods, name)
			}
		}
	}
	return all, nil
}

func unpack(p *apiv2.PermissionsByVisibility) (subject, visibility string, names []string) {
	switch v := p.GetVisibility().(type) {
	case *apiv2.PermissionsByVisibility_Public:
		return "", "public", v.Public.GetMethods()
	case *apiv2.PermissionsByVisibility_Self:
		return "", "self", v.Self.GetMethods()
	case *apiv2.PermissionsByVisibility_Project:
		return v.Project.GetProject(), "project", v.Project.GetMethods()
	case *apiv2.PermissionsByVisibility_Tenant:
		return v.Tenant.GetLogin(), "tenant", v.Tenant.GetMethods()
	case *apiv2.PermissionsByVisibility_Admin:
		return "", "admin", v.Admin.GetMethods()
	case *apiv2.PermissionsByVisibility_Machine:
		return v.Machine.GetUuid(), "machine", v.Machine.GetMethods()
	case *apiv2.PermissionsByVisibility_Infra:
		return "", "infra", v.Infra.GetMethods()
	}
	return "", "", nil
}

// visibilities returns the kinds of permission a method can be named in.
func (m *Method) visibilities() []string {
	var v []string
	for _, k := range []struct {
		is   bool
		name string
	}{
		{m.Public, "public"}, {m.Self, "self"}, {m.Project != 0, "project"}, {m.Tenant != 0, "tenant"},
		{m.Admin != 0, "admin"}, {m.Infra != 0, "infra"}, {m.Machine != 0, "machine"},
	} {
		if k.is {
			v = append(v, k.name)
		}
	}
	return v
}

// covered returns fault.Denied if a token would have rights that its user or
// the caller who makes it has not.
func covered(r store.Reader, c Caller, t *apiv2.Token) error {
	if err := adminCovered(r, c, t); err != nil {
		return err
	}
	var bad []string
	for p, role := range t.GetProjectRoles() {
		user := userProjectRole(r, t.GetUser(), p)
		if p == Any {
			user = role // it means no more than the user's memberships, whatever they will be
		}
		if !reaches(c.grantProject(r, p), role) || !reaches(user, role) {
			bad = append(bad, p+"="+role.String())
		}
	}
	if err := notAllowed("project roles are", bad); err != nil {
		return err
	}
	for login, role := range t.GetTenantRoles() {
		user := userTenantRole(r, t.GetUser(), login)
		if login == Any {
			user = role
		}
		if !reaches(c.grantTenant(r, login), role) || !reaches(user, role) {
			bad = append(bad, login+"="+role.String())
		}
	}
	if err := notAllowed("tenant roles are", bad); err != nil {
		return err
	}
	editor := c.AdminRole(r) == apiv2.AdminRole_ADMIN_ROLE_EDITOR
	for uuid, role := range t.GetMachineRoles() {
		if !editor && !reaches(c.machineRole(uuid), role) {
			bad = append(bad, uuid+"="+role.String())
		}
	}
	if err := notAllowed("machine roles are", bad); err != nil {
		return err
	}
	if role := t.GetInfraRole(); role != 0 && !editor && !reaches(c.Token.GetToken().GetInfraRole(), role) {
		return notAllowed("infra role is", []string{role.String()})
	}
	for _, p := range t.GetPermissions() {
		for _, name := range p.GetMethods() {
			m := MethodOf(name)
			if !c.mayGrant(r, m, p.GetSubject()) || p.GetSubject() != Any && !m.Public && !userMay(r, t.GetUser(), m, p.GetSubject()) {
				bad = append(bad, p.GetSubject()+"="+name)
			}
		}
	}
	return notAllowed("methods are", bad)
}

func adminCovered(r store.Reader, c Caller, t *apiv2.Token) error {
	role := t.GetAdminRole()
	if role == 0 {
		return nil
	}
	if may := providerRole(r, t.GetUser()); may != 0 && !reaches(may, role) {
		return fault.Newf(fault.Denied, "", "your provider tenant membership only allows %q, but you requested %q", may, role)
	} else if may == 0 || !c.IsUser() && !reaches(c.AdminRole(r), role) {
		return notAllowed("admin role is", []string{role.String()})
	}
	return nil
}

// grantProject returns the strongest role in a project that the caller can
// pass on. All projects of a user can be passed on by a person, or by a token
// that has them.
func (c Caller) grantProject(r store.Reader, project string) apiv2.ProjectRole {
	if project == Any && c.IsUser() {
		return apiv2.ProjectRole_PROJECT_ROLE_OWNER
	}
	if project == Any && c.AdminRole(r) == 0 {
		return c.Token.GetToken().GetProjectRoles()[Any]
	}
	return c.ProjectRole(r, project)
}

func (c Caller) grantTenant(r store.Reader, tenant string) apiv2.TenantRole {
	if tenant == Any && c.IsUser() {
		return apiv2.TenantRole_TENANT_ROLE_OWNER
	}
	if tenant == Any && c.AdminRole(r) == 0 {
		return c.Token.GetToken().GetTenantRoles()[Any]
	}
	return c.TenantRole(r, tenant)
}

// mayGrant reports whether the caller can pass on the right to call a method.
func (c Caller) mayGrant(r store.Reader, m *Method, subject string) bool {
	if subject != Any {
		return Allowed(r, c, m, subject)
	}
	has := func(p *apiv2.MethodPermission) bool {
		return p.GetSubject() == Any && slices.Contains(p.GetMethods(), m.Name)
	}
	return m.Project != 0 && reaches(c.grantProject(r, Any), m.Project) ||
		m.Tenant != 0 && reaches(c.grantTenant(r, Any), m.Tenant) ||
		slices.ContainsFunc(c.Token.GetToken().GetPermissions(), has) ||
		Allowed(r, c, m, Any)
}

func notAllowed(what string, bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return fault.New(fault.Denied, "", fmt.Sprintf("requested %s not allowed: %q", what, bad), "")
}

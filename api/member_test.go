package api_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// session returns the token of a person who has logged in.
func (w *world) session(user string) string {
	w.t.Helper()
	token := w.token(user, &apiv2.TokenServiceCreateRequest{})
	w.edit(token, func(t *privatev1.Token) { t.Token.TokenType = apiv2.TokenType_TOKEN_TYPE_USER })
	return token
}

// person makes a tenant that owns itself, as a login does.
func (w *world) person(login string) string {
	w.t.Helper()
	w.tenant(login)
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		return records.TenantMembers.Put(tx, &privatev1.Member{Of: login, Member: login, Role: int32(owner)})
	}))
	return w.session(login)
}

const (
	tenantOwner  = apiv2.TenantRole_TENANT_ROLE_OWNER
	tenantEditor = apiv2.TenantRole_TENANT_ROLE_EDITOR
	tenantViewer = apiv2.TenantRole_TENANT_ROLE_VIEWER
)

func TestTenants(t *testing.T) {
	w := newWorld(t)
	anna := dial(w, apiv2connect.NewTenantServiceClient, w.person("anna"))
	_, err := anna.Create(t.Context(), &apiv2.TenantServiceCreateRequest{Name: "acme"})
	wantCode(t, err, connect.CodeInvalidArgument, "email is required")
	made, err := anna.Create(t.Context(), &apiv2.TenantServiceCreateRequest{Name: "acme", Email: new("a@example.org")})
	check(t, err)
	acme := made.GetTenant().GetLogin()
	got, err := anna.Get(t.Context(), &apiv2.TenantServiceGetRequest{Login: acme})
	check(t, err)
	if m := got.GetTenantMembers(); len(m) != 1 || m[0].GetId() != "anna" || m[0].GetRole() != tenantOwner {
		t.Errorf("members: %v", m)
	}
	all, err := anna.List(t.Context(), &apiv2.TenantServiceListRequest{Query: &apiv2.TenantQuery{Name: new("acme")}})
	check(t, err)
	if len(all.GetTenants()) != 1 {
		t.Errorf("list: %v", all)
	}
	_, err = anna.List(t.Context(), &apiv2.TenantServiceListRequest{Query: &apiv2.TenantQuery{Paging: &apiv2.Paging{}}})
	wantCode(t, err, connect.CodeInvalidArgument, "paging is currently not supported on tenant list request")

	stale := &apiv2.UpdateMeta{UpdatedAt: made.GetTenant().GetMeta().GetUpdatedAt()}
	w.clock.Advance(time.Second)
	up, err := anna.Update(t.Context(), &apiv2.TenantServiceUpdateRequest{Login: acme, UpdateMeta: stale, Name: new("Acme"), Labels: &apiv2.UpdateLabels{
		Strategy: &apiv2.UpdateLabels_Patch{Patch: &apiv2.LabelsPatch{Update: &apiv2.Labels{Labels: map[string]string{"a": "b"}}}}}})
	check(t, err)
	if m := up.GetTenant().GetMeta(); m.GetGeneration() != 1 || m.GetLabels().GetLabels()["a"] != "b" || m.GetUpdatedAt().AsTime().Equal(m.GetCreatedAt().AsTime()) {
		t.Errorf("after an update: %v", up)
	}
	_, err = anna.Update(t.Context(), &apiv2.TenantServiceUpdateRequest{Login: acme, UpdateMeta: stale, Name: new("x2")})
	wantCode(t, err, connect.CodeAborted, "cannot update tenant ("+acme+"): the entity was already modified, please retry")
	_, err = anna.Update(t.Context(), &apiv2.TenantServiceUpdateRequest{Login: acme, UpdateMeta: &apiv2.UpdateMeta{}, Labels: &apiv2.UpdateLabels{
		Strategy: &apiv2.UpdateLabels_Replace{Replace: &apiv2.Labels{Labels: map[string]string{"tenant.metal-stack.io/provider": "true"}}}}})
	wantCode(t, err, connect.CodeInvalidArgument, "")

	_, err = anna.Delete(t.Context(), &apiv2.TenantServiceDeleteRequest{Login: "anna"})
	wantCode(t, err, connect.CodeFailedPrecondition, "the personal tenant (default-tenant) cannot be deleted")
	p, err := dial(w, apiv2connect.NewProjectServiceClient, w.session("anna")).Create(t.Context(),
		&apiv2.ProjectServiceCreateRequest{Login: acme, Name: "one", Description: "d"})
	check(t, err)
	_, err = anna.Delete(t.Context(), &apiv2.TenantServiceDeleteRequest{Login: acme})
	wantCode(t, err, connect.CodeFailedPrecondition, "")
	_, err = dial(w, apiv2connect.NewProjectServiceClient, w.session("anna")).Delete(t.Context(), &apiv2.ProjectServiceDeleteRequest{Project: p.GetProject().GetUuid()})
	check(t, err)
	_, err = anna.Delete(t.Context(), &apiv2.TenantServiceDeleteRequest{Login: acme})
	check(t, err)
	_, err = dial(w, apiv2connect.NewTenantServiceClient, w.admin).Get(t.Context(), &apiv2.TenantServiceGetRequest{Login: acme})
	wantCode(t, err, connect.CodeNotFound, "")
}

func TestTenantPages(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.tenant(fmt.Sprintf("t%d", i))
	}
	c := dial(w, adminv2connect.NewTenantServiceClient, w.admin)
	var seen []string
	for page := uint64(0); ; {
		r, err := c.List(t.Context(), &adminv2.TenantServiceListRequest{Query: &apiv2.TenantQuery{Paging: &apiv2.Paging{Page: &page, Count: new(uint64(4))}}})
		check(t, err)
		for _, one := range r.GetTenants() {
			seen = append(seen, one.GetLogin())
		}
		if r.NextPage == nil {
			break
		}
		page = r.GetNextPage()
	}
	if want := "[ingot t0 t1 t2 t3 t4]"; fmt.Sprint(seen) != want {
		t.Errorf("pages: %v, want %s", seen, want)
	}
	r, err := c.List(t.Context(), &adminv2.TenantServiceListRequest{Query: &apiv2.TenantQuery{Paging: &apiv2.Paging{Page: new(^uint64(0)), Count: new(^uint64(0))}}})
	if err != nil || len(r.GetTenants()) != 0 {
		t.Errorf("a page far away: %v, %v", r, err)
	}
}

// Roles in a project come from it and from its tenant, the stronger one
// counts, and guests see little.
func TestInheritance(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("acme"))
	tenants := dial(w, apiv2connect.NewTenantServiceClient, w.admin)
	eva, gil := w.person("eva"), w.person("gil")
	_, err := tenants.AddMember(t.Context(), &apiv2.TenantServiceAddMemberRequest{Login: "acme", Member: "eva", Role: tenantEditor})
	check(t, err)
	w.addMember(p, "eva", viewer)
	w.addMember(p, "gil", viewer)

	got, err := dial(w, apiv2connect.NewProjectServiceClient, eva).Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p})
	check(t, err)
	roles := map[string]string{}
	for _, m := range got.GetProjectMembers() {
		roles[m.GetId()] = fmt.Sprint(m.GetRole(), m.GetInheritedMembership())
	}
	want := map[string]string{"acme": "PROJECT_ROLE_OWNER false", "eva": "PROJECT_ROLE_EDITOR true", "gil": "PROJECT_ROLE_VIEWER false", "ingot": "PROJECT_ROLE_OWNER true"}
	if fmt.Sprint(roles) != fmt.Sprint(want) {
		t.Errorf("members %v, want %v", roles, want)
	}
	got, err = dial(w, apiv2connect.NewProjectServiceClient, gil).Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p})
	check(t, err)
	if len(got.GetProjectMembers()) != 3 {
		t.Errorf("a guest sees %v", got.GetProjectMembers())
	}
	seen, err := dial(w, apiv2connect.NewTenantServiceClient, gil).Get(t.Context(), &apiv2.TenantServiceGetRequest{Login: "acme"})
	check(t, err)
	if len(seen.GetTenantMembers()) != 0 || seen.GetTenant().GetMeta() != nil {
		t.Errorf("a guest sees %v", seen)
	}
	u, err := dial(w, apiv2connect.NewUserServiceClient, gil).Get(t.Context(), &apiv2.UserServiceGetRequest{})
	check(t, err)
	if len(u.GetUser().GetTenants()) != 2 || len(u.GetUser().GetProjects()) != 1 {
		t.Errorf("user: %v", u)
	}
	_, err = dial(w, apiv2connect.NewProjectServiceClient, eva).Update(t.Context(), &apiv2.ProjectServiceUpdateRequest{Project: p, UpdateMeta: &apiv2.UpdateMeta{}, Name: new("by eva")})
	check(t, err)
	_, err = dial(w, apiv2connect.NewTenantServiceClient, eva).AddMember(t.Context(), &apiv2.TenantServiceAddMemberRequest{Login: "acme", Member: "gil", Role: tenantOwner})
	wantCode(t, err, connect.CodePermissionDenied, "role TENANT_ROLE_OWNER is above your own, which is TENANT_ROLE_EDITOR")
}

func TestLastOwner(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme") // owned by ingot, who made it
	anna, bert := w.person("anna"), w.person("bert")
	c := dial(w, apiv2connect.NewTenantServiceClient, w.admin)
	const last = "cannot remove last owner of a tenant"
	_, err := c.RemoveMember(t.Context(), &apiv2.TenantServiceRemoveMemberRequest{Login: "acme", Member: "ingot"})
	wantCode(t, err, connect.CodeFailedPrecondition, last)
	_, err = c.UpdateMember(t.Context(), &apiv2.TenantServiceUpdateMemberRequest{Login: "acme", Member: "ingot", Role: tenantViewer})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot demote last owner's permissions")
	_, err = c.UpdateMember(t.Context(), &apiv2.TenantServiceUpdateMemberRequest{Login: "anna", Member: "anna", Role: tenantViewer})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot demote a user's role within their own default tenant")
	for _, m := range []string{"anna", "bert"} {
		_, err = c.AddMember(t.Context(), &apiv2.TenantServiceAddMemberRequest{Login: "acme", Member: m, Role: tenantOwner})
		check(t, err)
	}
	_, err = c.AddMember(t.Context(), &apiv2.TenantServiceAddMemberRequest{Login: "acme", Member: "anna", Role: tenantViewer})
	wantCode(t, err, connect.CodeAlreadyExists, "")
	_, err = c.RemoveMember(t.Context(), &apiv2.TenantServiceRemoveMemberRequest{Login: "acme", Member: "ingot"})
	check(t, err)

	// Two owners leave at the same time: one stays.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, token := range []string{anna, bert} {
		wg.Go(func() {
			_, errs[i] = dial(w, apiv2connect.NewTenantServiceClient, token).Leave(t.Context(), &apiv2.TenantServiceLeaveRequest{Login: "acme"})
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("two owners left: %v, %v", errs[0], errs[1])
	}
	for _, err := range errs {
		if err != nil {
			wantCode(t, err, connect.CodeFailedPrecondition, last)
		}
	}
}

func TestProjects(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("acme"))
	c := dial(w, apiv2connect.NewProjectServiceClient, w.admin)
	eva := w.person("eva")
	_, err := dial(w, apiv2connect.NewTenantServiceClient, w.admin).AddMember(t.Context(), &apiv2.TenantServiceAddMemberRequest{Login: "acme", Member: "eva", Role: tenantViewer})
	check(t, err)
	m, err := c.UpdateMember(t.Context(), &apiv2.ProjectServiceUpdateMemberRequest{Project: p, Member: "eva", Role: editor}) // she inherits a weaker role
	check(t, err)
	if m.GetProjectMember().GetRole() != editor || m.GetProjectMember().GetInheritedMembership() {
		t.Errorf("a direct member: %v", m)
	}
	_, err = c.UpdateMember(t.Context(), &apiv2.ProjectServiceUpdateMemberRequest{Project: p, Member: "nobody", Role: editor})
	wantCode(t, err, connect.CodeNotFound, "")
	_, err = c.AddMember(t.Context(), &apiv2.ProjectServiceAddMemberRequest{Project: p, Member: "nobody", Role: editor})
	wantCode(t, err, connect.CodeNotFound, "")
	_, err = dial(w, apiv2connect.NewProjectServiceClient, eva).Leave(t.Context(), &apiv2.ProjectServiceLeaveRequest{Project: p})
	check(t, err)
	all, err := dial(w, apiv2connect.NewProjectServiceClient, eva).List(t.Context(), &apiv2.ProjectServiceListRequest{})
	check(t, err)
	if len(all.GetProjects()) != 1 {
		t.Errorf("projects of a tenant's member: %v", all)
	}

	net := &apiv2.Network{Id: "n1", Project: &p}
	check(t, w.db.Update(t.Context(), func(tx *store.Tx) error { return records.Networks.Put(tx, net) }))
	_, err = c.Delete(t.Context(), &apiv2.ProjectServiceDeleteRequest{Project: p})
	wantCode(t, err, connect.CodeFailedPrecondition, "there are still networks associated with this project, you need to delete them first")
	w.addMember(p, "eva", viewer) // it is open again
	check(t, w.db.Update(t.Context(), func(tx *store.Tx) error { _, err := records.Networks.Delete(tx, "n1"); return err }))
	_, err = c.Delete(t.Context(), &apiv2.ProjectServiceDeleteRequest{Project: p})
	check(t, err)
	_, err = c.Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p})
	wantCode(t, err, connect.CodeNotFound, "")
	if n := records.ProjectMembers.Count(w.db.Snapshot(), "", ""); n != 0 {
		t.Errorf("%d members are left", n)
	}
}

func TestInvitations(t *testing.T) {
	w := newWorld(t)
	p, q := w.project(w.tenant("acme")), w.project("acme")
	admin := dial(w, apiv2connect.NewProjectServiceClient, w.admin)
	anna, bert := w.person("anna"), w.person("bert")
	inv, err := admin.Invite(t.Context(), &apiv2.ProjectServiceInviteRequest{Project: p, Role: editor})
	check(t, err)
	s := inv.GetInvite().GetSecret()
	got, err := dial(w, apiv2connect.NewProjectServiceClient, anna).InviteGet(t.Context(), &apiv2.ProjectServiceInviteGetRequest{Secret: s})
	check(t, err)
	if i := got.GetInvite(); i.GetProject() != p || i.GetRole() != editor || i.GetTenantName() != "acme" {
		t.Errorf("invitation: %v", got)
	}
	list, err := admin.InvitesList(t.Context(), &apiv2.ProjectServiceInvitesListRequest{Project: p})
	check(t, err)
	if len(list.GetInvites()) != 1 || list.GetInvites()[0].GetSecret() != s {
		t.Errorf("list: %v", list)
	}
	const gone = "the given invitation does not exist anymore"
	_, err = admin.InviteDelete(t.Context(), &apiv2.ProjectServiceInviteDeleteRequest{Project: q, Secret: s}) // of another project
	wantCode(t, err, connect.CodeNotFound, gone)
	_, err = dial(w, apiv2connect.NewTenantServiceClient, anna).InviteAccept(t.Context(), &apiv2.TenantServiceInviteAcceptRequest{Secret: s}) // of another kind
	wantCode(t, err, connect.CodeNotFound, gone)

	// Two accept at the same time: one gets in.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, token := range []string{anna, bert} {
		wg.Go(func() {
			_, errs[i] = dial(w, apiv2connect.NewProjectServiceClient, token).InviteAccept(t.Context(), &apiv2.ProjectServiceInviteAcceptRequest{Secret: s})
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("one invitation for two: %v, %v", errs[0], errs[1])
	}

	tenants := dial(w, apiv2connect.NewTenantServiceClient, w.admin)
	ti, err := tenants.Invite(t.Context(), &apiv2.TenantServiceInviteRequest{Login: "acme", Role: tenantEditor})
	check(t, err)
	acc, err := dial(w, apiv2connect.NewTenantServiceClient, anna).InviteAccept(t.Context(), &apiv2.TenantServiceInviteAcceptRequest{Secret: ti.GetInvite().GetSecret()})
	check(t, err)
	if acc.GetTenant() != "acme" {
		t.Errorf("accepted: %v", acc)
	}
	ti, err = tenants.Invite(t.Context(), &apiv2.TenantServiceInviteRequest{Login: "acme", Role: tenantEditor})
	check(t, err)
	w.clock.Advance(7 * 24 * time.Hour)
	bert = w.session("bert") // the other has expired, too
	_, err = dial(w, apiv2connect.NewTenantServiceClient, bert).InviteAccept(t.Context(), &apiv2.TenantServiceInviteAcceptRequest{Secret: ti.GetInvite().GetSecret()})
	wantCode(t, err, connect.CodeNotFound, gone)
}

// What a token says it can do is what it can do.
func TestMethodLists(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("acme"))
	token := w.member(p, viewer)
	c := dial(w, apiv2connect.NewMethodServiceClient, token)
	all, err := c.List(t.Context(), &apiv2.MethodServiceListRequest{})
	check(t, err)
	has := map[string]bool{}
	for _, m := range all.GetMethods() {
		has[m] = true
	}
	for m, want := range map[string]bool{
		"/metalstack.api.v2.VersionService/Get":     true,
		"/metalstack.api.v2.IPService/Get":          true,
		"/metalstack.api.v2.IPService/Create":       false,
		"/metalstack.api.v2.ImageService/List":      false,
		"/metalstack.admin.v2.ImageService/Create":  false,
		"/ingot.v1.WatchService/Project":            true,
		"/metalstack.infra.v2.BootService/Register": false,
	} {
		if has[m] != want {
			t.Errorf("%s: %v", m, has[m])
		}
	}
	user := w.tenant("u1")
	w.addMember(p, user, editor)
	scoped, err := dial(w, apiv2connect.NewMethodServiceClient, w.session(user)).TokenScopedList(t.Context(), &apiv2.MethodServiceTokenScopedListRequest{})
	check(t, err)
	if scoped.GetProjectRoles()[p] != editor || scoped.GetTenantRoles()["acme"] != apiv2.TenantRole_TENANT_ROLE_GUEST || scoped.AdminRole != nil {
		t.Errorf("scoped: %v", scoped)
	}
}

package api_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

const (
	owner  = apiv2.ProjectRole_PROJECT_ROLE_OWNER
	editor = apiv2.ProjectRole_PROJECT_ROLE_EDITOR
	viewer = apiv2.ProjectRole_PROJECT_ROLE_VIEWER
)

func permission(subject string, methods ...string) []*apiv2.PermissionsByVisibility {
	return []*apiv2.PermissionsByVisibility{{Visibility: &apiv2.PermissionsByVisibility_Project{
		Project: &apiv2.ProjectPermissions{Project: subject, Methods: methods},
	}}}
}

func selfPermission(methods ...string) []*apiv2.PermissionsByVisibility {
	return []*apiv2.PermissionsByVisibility{{Visibility: &apiv2.PermissionsByVisibility_Self{
		Self: &apiv2.SelfPermissions{Methods: methods},
	}}}
}

// Case 2 of the conformance list, with a method that is served from the start.
func TestMethodPermission(t *testing.T) {
	w := newWorld(t)
	p1, p2 := w.project(w.tenant("t1")), w.project("t1")
	const get = "/metalstack.api.v2.ProjectService/Get"
	c := dial(w, apiv2connect.NewProjectServiceClient, w.token("t1", &apiv2.TokenServiceCreateRequest{Permissions: permission(p1, get)}))
	_, err := c.Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p1})
	check(t, err)
	_, err = c.Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p2})
	wantCode(t, err, connect.CodePermissionDenied, `access to:"`+get+`" with subject:"`+p2+
		`" is not allowed because it is not part of the token permissions, allowed subjects are:["`+p1+`"]`)
}

// Case 3.
func TestRevoke(t *testing.T) {
	w := newWorld(t)
	w.tenant("t1")
	token := w.token("t1", &apiv2.TokenServiceCreateRequest{Permissions: selfPermission(
		"/metalstack.api.v2.TokenService/Revoke", "/metalstack.api.v2.TokenService/List")})
	c := dial(w, apiv2connect.NewTokenServiceClient, token)
	all, err := c.List(t.Context(), &apiv2.TokenServiceListRequest{})
	check(t, err)
	if len(all.GetTokens()) != 1 {
		t.Fatalf("tokens: %v", all)
	}
	_, err = c.Revoke(t.Context(), &apiv2.TokenServiceRevokeRequest{Uuid: all.GetTokens()[0].GetUuid()})
	check(t, err)
	_, err = c.List(t.Context(), &apiv2.TokenServiceListRequest{})
	wantCode(t, err, connect.CodeUnauthenticated, "token was revoked")
	_, err = dial(w, adminv2connect.NewTokenServiceClient, w.admin).Revoke(t.Context(),
		&adminv2.TokenServiceRevokeRequest{Uuid: all.GetTokens()[0].GetUuid(), User: "t1"})
	wantCode(t, err, connect.CodeNotFound, "token not found")
}

// Case 4.
func TestNoElevation(t *testing.T) {
	w := newWorld(t)
	p1 := w.project(w.tenant("t1"))
	const create = "/metalstack.api.v2.TokenService/Create"
	_, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).AddMember(t.Context(),
		&apiv2.ProjectServiceAddMemberRequest{Project: p1, Member: w.tenant("v1"), Role: viewer})
	check(t, err)
	c := dial(w, apiv2connect.NewTokenServiceClient, w.token("v1", &apiv2.TokenServiceCreateRequest{
		Permissions: selfPermission(create), ProjectRoles: map[string]apiv2.ProjectRole{p1: viewer},
	}))
	for name, req := range map[string]*apiv2.TokenServiceCreateRequest{
		`requested project roles are not allowed: ["` + p1 + `=PROJECT_ROLE_OWNER"]`: {ProjectRoles: map[string]apiv2.ProjectRole{p1: owner}},
		`requested project roles are not allowed: ["*=PROJECT_ROLE_VIEWER"]`:         {ProjectRoles: map[string]apiv2.ProjectRole{"*": viewer}},
		`requested tenant roles are not allowed: ["t1=TENANT_ROLE_VIEWER"]`:          {TenantRoles: map[string]apiv2.TenantRole{"t1": apiv2.TenantRole_TENANT_ROLE_VIEWER}},
		`requested admin role is not allowed: ["ADMIN_ROLE_VIEWER"]`:                 {AdminRole: apiv2.AdminRole_ADMIN_ROLE_VIEWER.Enum()},
		`requested infra role is not allowed: ["INFRA_ROLE_VIEWER"]`:                 {InfraRole: apiv2.InfraRole_INFRA_ROLE_VIEWER.Enum()},
		`requested machine roles are not allowed: ["*=MACHINE_ROLE_EDITOR"]`:         {MachineRoles: map[string]apiv2.MachineRole{"*": apiv2.MachineRole_MACHINE_ROLE_EDITOR}},
		`requested methods are not allowed: ["` + p1 + `=/metalstack.api.v2.ProjectService/Update"]`: {
			Permissions: permission(p1, "/metalstack.api.v2.ProjectService/Update")},
	} {
		_, err := c.Create(t.Context(), req)
		wantCode(t, err, connect.CodePermissionDenied, name)
	}
	_, err = c.Create(t.Context(), &apiv2.TokenServiceCreateRequest{Permissions: selfPermission("/metalstack.api.v2.ProjectService/Get")})
	wantCode(t, err, connect.CodeInvalidArgument, `requested method "/metalstack.api.v2.ProjectService/Get" is of visibility "project", not of visibility "self"`)
	_, err = c.Create(t.Context(), &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{p1: viewer}})
	check(t, err)

	_, err = dial(w, adminv2connect.NewTenantServiceClient, w.admin).AddMember(t.Context(), &adminv2.TenantServiceAddMemberRequest{
		Tenant: "ingot", Member: w.tenant("a1"), Role: apiv2.TenantRole_TENANT_ROLE_VIEWER})
	check(t, err)
	c = dial(w, apiv2connect.NewTokenServiceClient, w.token("a1", &apiv2.TokenServiceCreateRequest{
		Permissions: selfPermission(create), AdminRole: apiv2.AdminRole_ADMIN_ROLE_VIEWER.Enum()}))
	_, err = c.Create(t.Context(), &apiv2.TokenServiceCreateRequest{AdminRole: apiv2.AdminRole_ADMIN_ROLE_EDITOR.Enum()})
	wantCode(t, err, connect.CodePermissionDenied,
		`your provider tenant membership only allows "ADMIN_ROLE_VIEWER", but you requested "ADMIN_ROLE_EDITOR"`)
}

// Case 5.
func TestTokenChain(t *testing.T) {
	w := newWorld(t)
	const m1, m2 = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
	all := map[string]apiv2.MachineRole{"*": apiv2.MachineRole_MACHINE_ROLE_EDITOR}
	pixie := w.token("ingot", &apiv2.TokenServiceCreateRequest{
		Permissions: selfPermission("/metalstack.api.v2.TokenService/Create"), MachineRoles: all})
	hammer, err := dial(w, apiv2connect.NewTokenServiceClient, pixie).Create(t.Context(), &apiv2.TokenServiceCreateRequest{
		MachineRoles: map[string]apiv2.MachineRole{m1: apiv2.MachineRole_MACHINE_ROLE_EDITOR}})
	check(t, err)
	c := dial(w, infrav2connect.NewBootServiceClient, hammer.GetSecret())
	_, err = c.SuperUserPassword(t.Context(), &infrav2.BootServiceSuperUserPasswordRequest{Uuid: m1})
	if connect.CodeOf(err) == connect.CodePermissionDenied {
		t.Errorf("own machine: %v", err)
	}
	_, err = c.SuperUserPassword(t.Context(), &infrav2.BootServiceSuperUserPasswordRequest{Uuid: m2})
	wantCode(t, err, connect.CodePermissionDenied, `access to:"/metalstack.infra.v2.BootService/SuperUserPassword" with subject:"`+m2+
		`" is not allowed because it is not part of the token permissions, allowed subjects are:["`+m1+`"]`)
}

// Case 6.
func TestImageCacheToken(t *testing.T) {
	w := newWorld(t)
	token := w.token("ingot", &apiv2.TokenServiceCreateRequest{
		Permissions: selfPermission("/metalstack.api.v2.ImageService/List", "/metalstack.api.v2.PartitionService/List", "/metalstack.api.v2.TokenService/Refresh"),
		InfraRole:   apiv2.InfraRole_INFRA_ROLE_EDITOR.Enum(),
	})
	_, err := dial(w, infrav2connect.NewComponentServiceClient, token).Ping(t.Context(), ping("cache"))
	check(t, err)
	_, err = dial(w, apiv2connect.NewTokenServiceClient, token).Refresh(t.Context(), &apiv2.TokenServiceRefreshRequest{})
	check(t, err)
	_, err = dial(w, apiv2connect.NewImageServiceClient, token).List(t.Context(), &apiv2.ImageServiceListRequest{})
	if connect.CodeOf(err) == connect.CodePermissionDenied {
		t.Errorf("list images: %v", err)
	}
	_, err = dial(w, adminv2connect.NewImageServiceClient, token).Create(t.Context(), &adminv2.ImageServiceCreateRequest{})
	wantCode(t, err, connect.CodePermissionDenied, "")
}

// A token is never more than its user is now.
func TestDemotionReachesTokens(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	admin := dial(w, apiv2connect.NewProjectServiceClient, w.admin)
	_, err := admin.AddMember(t.Context(), &apiv2.ProjectServiceAddMemberRequest{Project: p, Member: w.tenant("u1"), Role: editor})
	check(t, err)
	c := dial(w, apiv2connect.NewProjectServiceClient, w.token("u1", &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{p: editor}}))
	update := &apiv2.ProjectServiceUpdateRequest{Project: p, UpdateMeta: &apiv2.UpdateMeta{}, Name: new("name")}
	_, err = c.Update(t.Context(), update)
	check(t, err)
	_, err = admin.UpdateMember(t.Context(), &apiv2.ProjectServiceUpdateMemberRequest{Project: p, Member: "u1", Role: viewer})
	check(t, err)
	_, err = c.Update(t.Context(), update)
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = c.Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p})
	check(t, err)
	_, err = admin.RemoveMember(t.Context(), &apiv2.ProjectServiceRemoveMemberRequest{Project: p, Member: "u1"})
	check(t, err)
	_, err = c.Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p})
	wantCode(t, err, connect.CodePermissionDenied, "")
}

func TestTokenLife(t *testing.T) {
	w := newWorld(t)
	w.tenant("t1")
	token := w.token("t1", &apiv2.TokenServiceCreateRequest{Permissions: selfPermission(
		"/metalstack.api.v2.TokenService/List", "/metalstack.api.v2.TokenService/Refresh")})
	w.clock.Advance(7 * time.Hour)
	next, err := dial(w, apiv2connect.NewTokenServiceClient, token).Refresh(t.Context(), &apiv2.TokenServiceRefreshRequest{})
	check(t, err)
	w.clock.Advance(time.Hour)
	_, err = dial(w, apiv2connect.NewTokenServiceClient, token).List(t.Context(), &apiv2.TokenServiceListRequest{})
	wantCode(t, err, connect.CodeUnauthenticated, "token has expired")
	all, err := dial(w, apiv2connect.NewTokenServiceClient, next.GetSecret()).List(t.Context(), &apiv2.TokenServiceListRequest{})
	check(t, err)
	if len(all.GetTokens()) != 1 || all.GetTokens()[0].GetUuid() != next.GetToken().GetUuid() {
		t.Errorf("after expiry of the first: %v", all)
	}
}

func TestEnrolment(t *testing.T) {
	w := newWorld(t)
	admin := dial(w, ingotv1connect.NewEnrolmentServiceClient, w.admin)
	anyone := dial(w, ingotv1connect.NewEnrolmentServiceClient, "")
	e, err := admin.Create(t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceCreateRequest{
		Partition: w.partition("part-1"), FarEnd: ingotv1.FarEnd_FAR_END_LEAF, Id: "leaf1"}))
	check(t, err)
	redeem := connect.NewRequest(&ingotv1.EnrolmentServiceRedeemRequest{Secret: e.Msg.GetSecret()})
	r, err := anyone.Redeem(t.Context(), redeem)
	check(t, err)
	_, err = anyone.Redeem(t.Context(), redeem)
	wantCode(t, err, connect.CodePermissionDenied, "")

	leaf := dial(w, ingotv1connect.NewLeafServiceClient, r.Msg.GetToken())
	reports := func(partition, id string) error {
		_, err := leaf.Report(t.Context(), connect.NewRequest(&ingotv1.LeafServiceReportRequest{Partition: partition, Switch: id}))
		return err
	}
	if err := reports("part-1", "leaf1"); connect.CodeOf(err) == connect.CodePermissionDenied {
		t.Errorf("own partition and switch: %v", err)
	}
	wantCode(t, reports("part-2", "leaf1"), connect.CodePermissionDenied, "")
	wantCode(t, reports("part-1", "leaf2"), connect.CodePermissionDenied, "")
	wantCode(t, reports("", ""), connect.CodePermissionDenied, "")
	_, err = leaf.Register(t.Context(), connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{Switch: &apiv2.Switch{Id: "leaf2", Partition: "part-1"}}))
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = dial(w, infrav2connect.NewSwitchServiceClient, r.Msg.GetToken()).Get(t.Context(), &infrav2.SwitchServiceGetRequest{Id: "leaf2"})
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = dial(w, ingotv1connect.NewSiteServiceClient, r.Msg.GetToken()).Report(t.Context(), connect.NewRequest(&ingotv1.SiteServiceReportRequest{Partition: "part-1"}))
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = dial(w, infrav2connect.NewComponentServiceClient, r.Msg.GetToken()).Ping(t.Context(), ping("leaf1"))
	check(t, err)
	next, err := dial(w, apiv2connect.NewTokenServiceClient, r.Msg.GetToken()).Refresh(t.Context(), &apiv2.TokenServiceRefreshRequest{})
	check(t, err)
	leaf = dial(w, ingotv1connect.NewLeafServiceClient, next.GetSecret())
	wantCode(t, reports("part-2", "leaf1"), connect.CodePermissionDenied, "") // refreshing frees nobody

	late, err := admin.Create(t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceCreateRequest{
		Partition: "part-1", FarEnd: ingotv1.FarEnd_FAR_END_SITE, Id: "mgmt"}))
	check(t, err)
	w.clock.Advance(time.Hour)
	_, err = anyone.Redeem(t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceRedeemRequest{Secret: late.Msg.GetSecret()}))
	wantCode(t, err, connect.CodePermissionDenied, "")
}

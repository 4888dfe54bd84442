package access

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/permissions"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// What the descriptors say is what metal-stack's own table says.
func TestMethodsAreThoseOfTheAPI(t *testing.T) {
	theirs := permissions.GetServicePermissions()
	n := 0
	for name := range theirs.Methods {
		if !strings.HasPrefix(name, "/metalstack.") {
			continue // gRPC's reflection
		}
		n++
		m := MethodOf(name)
		if m == nil {
			t.Errorf("%s is not known", name)
			continue
		}
		if m.Public != theirs.Visibility.Public[name] || m.Self != theirs.Visibility.Self[name] || (m.Project != 0) != theirs.Visibility.Project[name] ||
			(m.Tenant != 0) != theirs.Visibility.Tenant[name] || (m.Admin != 0) != theirs.Visibility.Admin[name] ||
			(m.Infra != 0) != theirs.Visibility.Infra[name] || (m.Machine != 0) != theirs.Visibility.Machine[name] || m.Audited != theirs.Auditable[name] {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if n != 150 {
		t.Errorf("%d methods in the v2 API, want 150", n)
	}
}

// Every method says who may call it, and where its subject stands.
func TestMethodsAreComplete(t *testing.T) {
	for _, m := range Methods() {
		if len(m.visibilities()) == 0 {
			t.Errorf("%s: nobody may call it", m.Name)
		}
		if (m.Project != 0 || m.Tenant != 0 || m.Machine != 0) && m.subject == nil {
			t.Errorf("%s: no field says what it is about", m.Name)
		}
		if a := proto.GetExtension(m.Desc.Options(), apiv2.E_Auditing); a == apiv2.Auditing_AUDITING_UNSPECIFIED {
			t.Errorf("%s: not said whether it is audited", m.Name)
		}
		if m.Infra != 0 && m.Admin == 0 && !strings.HasPrefix(m.Name, "/metalstack") && scopeField(m) == nil {
			t.Errorf("%s: no field says which partition it is about", m.Name)
		}
	}
	for _, calls := range farEnds {
		for _, name := range calls {
			known := false
			for _, m := range Methods() {
				known = known || m.Name == name || m.Service() == name
			}
			if !known {
				t.Errorf("far ends may call %s, which does not exist", name)
			}
		}
	}
}

func scopeField(m *Method) protoreflect.FieldDescriptor {
	fields := m.Desc.Input().Fields()
	if f := fields.ByName("partition"); f != nil {
		return f
	}
	return fields.ByName("switch")
}

func TestRoles(t *testing.T) {
	const (
		none   = apiv2.ProjectRole(0)
		owner  = apiv2.ProjectRole_PROJECT_ROLE_OWNER
		viewer = apiv2.ProjectRole_PROJECT_ROLE_VIEWER
	)
	for _, tt := range []struct{ a, b, stronger, weaker apiv2.ProjectRole }{
		{none, none, none, none},
		{none, viewer, viewer, none},
		{owner, none, owner, none},
		{owner, viewer, owner, viewer},
		{viewer, owner, owner, viewer},
	} {
		if s, w := stronger(tt.a, tt.b), weaker(tt.a, tt.b); s != tt.stronger || w != tt.weaker {
			t.Errorf("%v, %v: stronger %v, weaker %v", tt.a, tt.b, s, w)
		}
	}
	if reaches(none, none) || !reaches(owner, viewer) || reaches(viewer, owner) {
		t.Error("reaches")
	}
}

// A far end acts for its own partition, and a leaf for its own switch, however
// the request names them.
func TestFarEndScope(t *testing.T) {
	leaf := Caller{Token: &privatev1.Token{Token: &apiv2.Token{Uuid: "l"}, Kind: ingotv1.FarEnd_FAR_END_LEAF, Partition: "p1", FarEnd: "l1"}}
	site := Caller{Token: &privatev1.Token{Token: &apiv2.Token{Uuid: "s"}, Kind: ingotv1.FarEnd_FAR_END_SITE, Partition: "p1", FarEnd: "m1"}}
	r := storetest.Open(t, records.Tables()...).Snapshot()
	for _, tt := range []struct {
		c    Caller
		m    string
		req  proto.Message
		want bool
	}{
		{leaf, "/ingot.v1.LeafService/Report", &ingotv1.LeafServiceReportRequest{Partition: "p1", Switch: "l1"}, true},
		{leaf, "/ingot.v1.LeafService/Report", &ingotv1.LeafServiceReportRequest{Partition: "p2", Switch: "l1"}, false},
		{leaf, "/ingot.v1.LeafService/Report", &ingotv1.LeafServiceReportRequest{Partition: "p1", Switch: "l2"}, false},
		{leaf, "/ingot.v1.LeafService/Register", &ingotv1.LeafServiceRegisterRequest{Switch: &apiv2.Switch{Id: "l1", Partition: "p1"}}, true},
		{leaf, "/ingot.v1.LeafService/Register", &ingotv1.LeafServiceRegisterRequest{Switch: &apiv2.Switch{Id: "l1", Partition: "p2"}}, false},
		{leaf, "/ingot.v1.LeafService/Register", &ingotv1.LeafServiceRegisterRequest{}, false},
		{leaf, "/metalstack.infra.v2.SwitchService/Get", &infrav2.SwitchServiceGetRequest{Id: "l1"}, true},
		{leaf, "/metalstack.infra.v2.SwitchService/Get", &infrav2.SwitchServiceGetRequest{Id: "l2"}, false},
		{leaf, "/ingot.v1.SiteService/Wanted", &ingotv1.SiteServiceWantedRequest{Partition: "p1"}, false},
		{leaf, "/metalstack.api.v2.TokenService/Create", &apiv2.TokenServiceCreateRequest{}, false},
		{leaf, "/metalstack.api.v2.TokenService/Refresh", &apiv2.TokenServiceRefreshRequest{}, true},
		{leaf, "/metalstack.api.v2.VersionService/Get", &apiv2.VersionServiceGetRequest{}, true},
		{site, "/ingot.v1.SiteService/Wanted", &ingotv1.SiteServiceWantedRequest{Partition: "p1"}, true},
		{site, "/ingot.v1.SiteService/Wanted", &ingotv1.SiteServiceWantedRequest{Partition: "p2"}, false},
		{site, "/ingot.v1.SiteService/Wanted", &ingotv1.SiteServiceWantedRequest{}, false},
		{site, "/metalstack.infra.v2.BMCService/BMCCommandDone", &infrav2.BMCCommandDoneRequest{CommandId: "c"}, false},
		{site, "/ingot.v1.FabricService/Put", &ingotv1.FabricServicePutRequest{}, false},
		{site, "/ingot.v1.LeafService/Report", &ingotv1.LeafServiceReportRequest{Partition: "p1", Switch: "m1"}, false},
	} {
		if err := Authorize(r, tt.c, MethodOf(tt.m), tt.req.ProtoReflect()); (err == nil) != tt.want {
			t.Errorf("%s as %s: %v: %v", tt.m, tt.c.Token.GetFarEnd(), tt.req, err)
		}
	}
	if leaf.CheckFarEnd("p1", "l1") != nil || leaf.CheckFarEnd("p1", "") != nil || leaf.CheckFarEnd("p2", "l1") == nil || leaf.CheckFarEnd("p1", "l2") == nil {
		t.Error("CheckFarEnd of a leaf")
	}
	if (Caller{}).CheckFarEnd("p1", "l1") != nil {
		t.Error("CheckFarEnd of who is bound to nothing")
	}
}

// What authorizing a member costs.
func BenchmarkAuthorize(b *testing.B) {
	db := storetest.Open(b, records.Tables()...)
	var token *privatev1.Token
	err := db.Update(b.Context(), func(tx *store.Tx) error {
		if err := CreateProvider(tx, "ingot"); err != nil {
			return err
		}
		if err := CreateTenant(tx, &apiv2.Tenant{Login: "t1"}, ""); err != nil {
			return err
		}
		if err := CreateProject(tx, &apiv2.Project{Uuid: "p1", Tenant: "t1"}); err != nil {
			return err
		}
		token = &privatev1.Token{Token: &apiv2.Token{Uuid: "u", User: "t1", ProjectRoles: map[string]apiv2.ProjectRole{"p1": apiv2.ProjectRole_PROJECT_ROLE_EDITOR}}}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	r, m := db.Snapshot(), MethodOf("/metalstack.api.v2.IPService/Get")
	req := (&apiv2.IPServiceGetRequest{Project: "p1"}).ProtoReflect()
	for b.Loop() {
		if err := Authorize(r, Caller{Token: token}, m, req); err != nil {
			b.Fatal(err)
		}
	}
}

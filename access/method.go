package access

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/metal-stack/api/go/metalstack/admin/v2" // its methods belong to the API
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	_ "github.com/metal-stack/api/go/metalstack/infra/v2" // its methods too

	_ "github.com/ingot-cloud/ingot/proto/ingot/v1" // its methods too
)

// A Method is one call of the API and what its options say of it. A role is
// the weakest that may call it, zero if no role of that kind may. Roles are
// numbered from the strongest to the weakest.
type Method struct {
	Name    string // as in a URL: "/metalstack.api.v2.IPService/Get"
	Desc    protoreflect.MethodDescriptor
	Public  bool // for everybody
	Self    bool // for every user, about nobody but the user
	Audited bool
	// Enrolled is set for what only leaves and sites may call that were
	// enrolled: they vouch for ports, are told passwords and carry out orders.
	// No role is enough for that; the v2 API knows no such calls.
	Enrolled bool

	Project apiv2.ProjectRole
	Tenant  apiv2.TenantRole
	Admin   apiv2.AdminRole
	Infra   apiv2.InfraRole
	Machine apiv2.MachineRole

	viewer  bool // an admin viewer may call it
	subject protoreflect.FieldDescriptor
}

// packages hold the services of the API.
var packages = []protoreflect.FullName{"metalstack.api.v2", "metalstack.admin.v2", "metalstack.infra.v2", "ingot.v1"}

var methods = describe()

func describe() map[string]*Method {
	all := map[string]*Method{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !slices.Contains(packages, f.Package()) {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := newMethod(s.Methods().Get(j))
				all[m.Name] = m
			}
		}
		return true
	})
	return all
}

func newMethod(d protoreflect.MethodDescriptor) *Method {
	opts := d.Options()
	visibility := proto.GetExtension(opts, apiv2.E_Visibility).(apiv2.Visibility)
	project := proto.GetExtension(opts, apiv2.E_ProjectRoles).([]apiv2.ProjectRole)
	tenant := proto.GetExtension(opts, apiv2.E_TenantRoles).([]apiv2.TenantRole)
	admin := proto.GetExtension(opts, apiv2.E_AdminRoles).([]apiv2.AdminRole)
	infra := proto.GetExtension(opts, apiv2.E_InfraRoles).([]apiv2.InfraRole)
	machine := proto.GetExtension(opts, apiv2.E_MachineRoles).([]apiv2.MachineRole)
	m := &Method{
		Name:    "/" + string(d.Parent().FullName()) + "/" + string(d.Name()),
		Desc:    d,
		Public:  visibility == apiv2.Visibility_VISIBILITY_PUBLIC,
		Self:    visibility == apiv2.Visibility_VISIBILITY_SELF,
		Audited: proto.GetExtension(opts, apiv2.E_Auditing) == apiv2.Auditing_AUDITING_INCLUDED,
		Project: weakest(project),
		Tenant:  weakest(tenant),
		Admin:   weakest(admin),
		Infra:   weakest(infra),
		Machine: weakest(machine),
	}
	m.Enrolled = m.Infra != 0 && d.ParentFile().Package() == "ingot.v1" && len(project)+len(tenant)+len(admin)+len(machine) == 0 && !m.Public && !m.Self
	m.viewer = m.Public || m.Self ||
		m.Project >= apiv2.ProjectRole_PROJECT_ROLE_VIEWER ||
		m.Tenant >= apiv2.TenantRole_TENANT_ROLE_VIEWER ||
		m.Admin == apiv2.AdminRole_ADMIN_ROLE_VIEWER ||
		m.Infra == apiv2.InfraRole_INFRA_ROLE_VIEWER ||
		m.Machine == apiv2.MachineRole_MACHINE_ROLE_VIEWER
	fields := d.Input().Fields()
	switch {
	case m.Project != 0:
		m.subject = fields.ByName("project")
	case m.Tenant != 0:
		m.subject = fields.ByName("login")
	case m.Machine != 0:
		m.subject = fields.ByName("uuid")
	}
	return m
}

func weakest[R cmp.Ordered](roles []R) R {
	var zero R
	if len(roles) == 0 {
		return zero
	}
	return slices.Max(roles)
}

// reaches reports whether a role is enough where weakest is asked for.
func reaches[R cmp.Ordered](role, weakest R) bool {
	var none R
	return role != none && role <= weakest
}

// MethodOf returns the method with this name; nil if the API has none.
func MethodOf(name string) *Method { return methods[name] }

// Methods returns all methods of the API in the order of their names, whether
// this build serves them or not.
func Methods() []*Method {
	all := make([]*Method, 0, len(methods))
	for _, m := range methods {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *Method) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Service returns the full name of the method's service.
func (m *Method) Service() string { return string(m.Desc.Parent().FullName()) }

// Subject returns what a request is about: the project, the tenant's login or
// the machine's uuid; empty if the method is about neither.
func (m *Method) Subject(req protoreflect.Message) string {
	if m.subject == nil || req == nil {
		return ""
	}
	return req.Get(m.subject).String()
}

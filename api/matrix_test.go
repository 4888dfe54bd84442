package api_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// frozen is a store that can be made to refuse changes, so that calls that are
// allowed have no effect.
type frozen struct {
	*store.Mem
	ice atomic.Bool
}

func (f *frozen) Commit(ctx context.Context, conds []store.Cond, writes []store.Write) (store.Rev, bool, error) {
	if f.ice.Load() {
		return 0, false, fault.New(fault.Unavailable, "store", "is frozen", "")
	}
	return f.Mem.Commit(ctx, conds, writes)
}

const matrixFile = "testdata/matrix.txt"

const matrixLegend = `# Who may call what: every method of the API against every kind of caller, for a
# request about project p, tenant t1, machine m, partition part-1, switch leaf1.
#   +  allowed (whatever comes of it)   .  permission denied   !  unauthenticated
# Made by: go test ./api -run TestMatrix -update
#
`

// Every method of the API, called by everybody.
func TestMatrix(t *testing.T) {
	kv := &frozen{Mem: store.NewMem()}
	w := newWorldOn(t, kv, store.Options{})
	callers := w.callers()
	kv.ice.Store(true)

	var got bytes.Buffer
	got.WriteString(matrixLegend)
	for i, c := range callers {
		fmt.Fprintf(&got, "#   %c  %s\n", 'a'+rune(i), c.name)
	}
	got.WriteString("\n")
	for i := range callers {
		got.WriteByte(byte('a' + i))
	}
	got.WriteString("\n")
	methods := access.Methods()
	rows := make([][]byte, len(methods))
	var all errgroup.Group
	all.SetLimit(64) // open streams wait for their time to end: together
	for i, m := range methods {
		rows[i] = make([]byte, len(callers))
		for j, c := range callers {
			all.Go(func() error { rows[i][j] = w.mark(m, c.token); return nil })
		}
	}
	_ = all.Wait() // there are no errors
	for i, m := range methods {
		fmt.Fprintf(&got, "%s  %s\n", rows[i], m.Name)
	}
	if *update {
		check(t, os.WriteFile(matrixFile, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(matrixFile)
	check(t, err)
	old := map[string]bool{}
	for l := range strings.Lines(string(want)) {
		old[l] = true
	}
	for l := range strings.Lines(got.String()) {
		if !old[l] {
			t.Errorf("new: %s", l)
		}
		delete(old, l)
	}
	for l := range old {
		t.Errorf("old: %s", l)
	}
}

const (
	machineM = "00000000-0000-0000-0000-00000000000a"
	machineN = "00000000-0000-0000-0000-00000000000b"
)

type namedToken struct{ name, token string }

// callers returns a token of every kind. They are about project p of tenant t1,
// machine m and leaf1 in part-1, or about others.
func (w *world) callers() []namedToken {
	t, other := w.tenant("t1"), w.tenant("other")
	p, q := w.project(t), w.project(other)
	w.p = p
	admin := func(role apiv2.TenantRole, a apiv2.AdminRole) string {
		user := w.tenant("admin-" + strings.ToLower(a.String()))
		_, err := dial(w, adminv2connect.NewTenantServiceClient, w.admin).AddMember(w.t.Context(),
			&adminv2.TenantServiceAddMemberRequest{Tenant: "ingot", Member: user, Role: role})
		check(w.t, err)
		return w.token(user, &apiv2.TokenServiceCreateRequest{AdminRole: &a})
	}
	infra := func(r apiv2.InfraRole) string {
		return w.token("ingot", &apiv2.TokenServiceCreateRequest{InfraRole: &r})
	}
	machine := func(uuid string, r apiv2.MachineRole) string {
		return w.token("ingot", &apiv2.TokenServiceCreateRequest{MachineRoles: map[string]apiv2.MachineRole{uuid: r}})
	}
	inTenant := func(login string, r apiv2.TenantRole) string {
		user := w.tenant(login + "-" + strings.ToLower(r.String()))
		_, err := dial(w, adminv2connect.NewTenantServiceClient, w.admin).AddMember(w.t.Context(),
			&adminv2.TenantServiceAddMemberRequest{Tenant: login, Member: user, Role: r})
		check(w.t, err)
		return w.token(user, &apiv2.TokenServiceCreateRequest{TenantRoles: map[string]apiv2.TenantRole{login: r}})
	}
	guest := w.tenant("guest")
	w.addMember(p, guest, viewer)
	revoked := w.token("ingot", &apiv2.TokenServiceCreateRequest{})
	w.revoke(revoked)
	expired := w.token("ingot", &apiv2.TokenServiceCreateRequest{})
	w.edit(expired, func(t *privatev1.Token) { t.Token.Expires = t.Token.IssuedAt })
	person := w.token(guest, &apiv2.TokenServiceCreateRequest{})
	w.edit(person, func(t *privatev1.Token) { t.Token.TokenType = apiv2.TokenType_TOKEN_TYPE_USER })
	return []namedToken{
		{"nobody: no token", ""},
		{"garbage for a token", "garbage"},
		{"an expired token", expired},
		{"a revoked token", revoked},
		{"an API token without rights", w.token(t, &apiv2.TokenServiceCreateRequest{})},
		{"a person's session, viewer of p", person},
		{"admin editor", admin(apiv2.TenantRole_TENANT_ROLE_OWNER, apiv2.AdminRole_ADMIN_ROLE_EDITOR)},
		{"admin viewer", admin(apiv2.TenantRole_TENANT_ROLE_VIEWER, apiv2.AdminRole_ADMIN_ROLE_VIEWER)},
		{"infra editor", infra(apiv2.InfraRole_INFRA_ROLE_EDITOR)},
		{"infra viewer", infra(apiv2.InfraRole_INFRA_ROLE_VIEWER)},
		{"machine editor of m", machine(machineM, apiv2.MachineRole_MACHINE_ROLE_EDITOR)},
		{"machine viewer of m", machine(machineM, apiv2.MachineRole_MACHINE_ROLE_VIEWER)},
		{"machine editor of another", machine(machineN, apiv2.MachineRole_MACHINE_ROLE_EDITOR)},
		{"owner of p", w.member(p, owner)},
		{"editor of p", w.member(p, editor)},
		{"viewer of p", w.member(p, viewer)},
		{"owner of another project", w.member(q, owner)},
		{"owner of t1", inTenant(t, apiv2.TenantRole_TENANT_ROLE_OWNER)},
		{"editor of t1", inTenant(t, apiv2.TenantRole_TENANT_ROLE_EDITOR)},
		{"viewer of t1", inTenant(t, apiv2.TenantRole_TENANT_ROLE_VIEWER)},
		{"guest of t1", w.token(guest, &apiv2.TokenServiceCreateRequest{TenantRoles: map[string]apiv2.TenantRole{t: apiv2.TenantRole_TENANT_ROLE_GUEST}})},
		{"owner of another tenant", inTenant(other, apiv2.TenantRole_TENANT_ROLE_OWNER)},
		{"leaf1 of part-1", w.farEnd(ingotv1.FarEnd_FAR_END_LEAF, "part-1", "leaf1")},
		{"leaf2 of part-1", w.farEnd(ingotv1.FarEnd_FAR_END_LEAF, "part-1", "leaf2")},
		{"site of part-1", w.farEnd(ingotv1.FarEnd_FAR_END_SITE, "part-1", "mgmt")},
		{"site of another partition", w.farEnd(ingotv1.FarEnd_FAR_END_SITE, "part-2", "mgmt")},
	}
}

func (w *world) revoke(token string) {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		_, err := records.Tokens.Delete(tx, tokenID(w.t, token))
		return err
	}))
}

func (w *world) edit(token string, edit func(*privatev1.Token)) {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		_, err := records.Tokens.Change(tx, tokenID(w.t, token), func(t *privatev1.Token) error { edit(t); return nil })
		return err
	}))
}

// mark calls a method and returns the sign for what came of it.
func (w *world) mark(m *access.Method, token string) byte {
	c := connect.NewClient[dynamicpb.Message, emptypb.Empty](&http.Client{Transport: bearer{token, w.http.Transport}}, w.url+m.Name)
	req := connect.NewRequest(w.request(m))
	var err error
	if m.Desc.IsStreamingServer() {
		// An open stream may have nothing to say: that is an answer, too.
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		s, openErr := c.CallServerStream(ctx, req)
		if err = openErr; err == nil {
			s.Receive()
			err = s.Err()
			_ = s.Close()
		}
	} else {
		_, err = c.CallUnary(w.t.Context(), req)
	}
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied:
		return '.'
	case connect.CodeUnauthenticated:
		return '!'
	case connect.CodeInternal:
		w.t.Errorf("%s: %v", m.Name, err)
	}
	return '+'
}

// request returns a request about p, t, m, part-1 and leaf1.
func (w *world) request(m *access.Method) *dynamicpb.Message {
	req := dynamicpb.NewMessage(m.Desc.Input())
	put := func(msg protoreflect.Message, name protoreflect.Name, value string) {
		if f := msg.Descriptor().Fields().ByName(name); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			msg.Set(f, protoreflect.ValueOfString(value))
		}
	}
	put(req, "project", w.p)
	put(req, "login", "t1")
	put(req, "uuid", machineM)
	put(req, "partition", "part-1")
	put(req, "switch", "leaf1")
	if m.Service() == "metalstack.infra.v2.SwitchService" {
		put(req, "id", "leaf1")
	}
	if f := m.Desc.Input().Fields().ByName("switch"); f != nil && f.Message() != nil {
		put(req.Mutable(f).Message(), "id", "leaf1")
		put(req.Mutable(f).Message(), "partition", "part-1")
	}
	return req
}

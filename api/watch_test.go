package api_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	ingotclient "github.com/ingot-cloud/ingot/client"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/store"
)

// until waits for something that a goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// A copy is what a watcher has seen of the tenants.
type tenantCopy struct {
	mu    sync.Mutex
	names map[string]string
	lists int
}

func (c *tenantCopy) equal(want map[string]string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Equal(c.names, want)
}

func (c *tenantCopy) list(w *world) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		ctx, call := connect.NewClientContext(ctx)
		all, err := dial(w, adminv2connect.NewTenantServiceClient, w.admin).List(ctx, &adminv2.TenantServiceListRequest{})
		if err != nil {
			return 0, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lists++
		c.names = map[string]string{}
		for _, t := range all.GetTenants() {
			c.names[t.GetLogin()] = t.GetName()
		}
		return ingotclient.Revision(call.ResponseHeader()), nil
	}
}

func (c *tenantCopy) apply(change *ingotv1.Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range change.GetResources() {
		if r.GetResource() == nil {
			delete(c.names, r.GetId())
			continue
		}
		var t apiv2.Tenant
		if err := r.GetResource().UnmarshalTo(&t); err != nil {
			return err
		}
		c.names[r.GetId()] = t.GetName()
	}
	return nil
}

// client returns a client of the kind that far ends and the CLI use.
func (w *world) client(token string) *ingotclient.Client {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "token")
	check(w.t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	c, err := ingotclient.New(ingotclient.Config{URL: w.url, CA: w.srv.CA(), TokenFile: file, Retry: ingotclient.Retry{Min: time.Millisecond}})
	check(w.t, err)
	w.t.Cleanup(c.Close)
	return c
}

// A copy that starts while others write is complete in the end, and so is one
// that has to list again because it was away for too long.
func TestWatchAll(t *testing.T) {
	w := newWorldOn(t, store.NewMem(), store.Options{History: 8})
	tenants := dial(w, adminv2connect.NewTenantServiceClient, w.admin)
	ctx, stop := context.WithCancel(t.Context())
	var c tenantCopy
	ended := make(chan error, 1)
	want := map[string]string{"ingot": "ingot"}
	for i := range 20 {
		if i == 5 {
			go func() {
				ended <- w.client(w.admin).Watch(ctx, ingotclient.Watch{
					Types: []string{"metalstack.api.v2.Tenant"}, List: c.list(w), Apply: c.apply,
				})
			}()
		}
		name := fmt.Sprintf("tenant-%d", i)
		_, err := tenants.Create(t.Context(), &adminv2.TenantServiceCreateRequest{Name: name})
		check(t, err)
		want[name] = name
	}
	admin := dial(w, apiv2connect.NewTenantServiceClient, w.admin)
	_, err := admin.Update(t.Context(), &apiv2.TenantServiceUpdateRequest{Login: "tenant-3", UpdateMeta: &apiv2.UpdateMeta{}, Name: new("three")})
	check(t, err)
	_, err = admin.Delete(t.Context(), &apiv2.TenantServiceDeleteRequest{Login: "tenant-4"})
	check(t, err)
	want["tenant-3"] = "three"
	delete(want, "tenant-4")
	until(t, "a complete copy", func() bool { return c.equal(want) })
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	s, err := dial(w, ingotv1connect.NewWatchServiceClient, w.admin).All(t.Context(), connect.NewRequest(&ingotv1.WatchServiceAllRequest{After: 1}))
	check(t, err)
	for s.Receive() {
	}
	wantCode(t, s.Err(), connect.CodeOutOfRange, "")
}

func TestWatchUnknownType(t *testing.T) {
	w := newWorld(t)
	s, err := dial(w, ingotv1connect.NewWatchServiceClient, w.admin).All(t.Context(),
		connect.NewRequest(&ingotv1.WatchServiceAllRequest{Types: []string{"metalstack.api.v2.Nothing"}}))
	check(t, err)
	for s.Receive() {
	}
	wantCode(t, s.Err(), connect.CodeInvalidArgument, "type metalstack.api.v2.Nothing: cannot be watched")
}

// A member sees his project and nothing of others, and the stream ends when he
// is no member any more.
func TestWatchProject(t *testing.T) {
	w := newWorld(t)
	p, q := w.project(w.tenant("t1")), w.project("t1")
	user := w.tenant("u1")
	w.addMember(p, user, viewer)
	token := w.token(user, &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{p: viewer}})
	s, err := dial(w, ingotv1connect.NewWatchServiceClient, token).Project(t.Context(), connect.NewRequest(&ingotv1.WatchServiceProjectRequest{Project: p}))
	check(t, err)
	if !s.Receive() || s.Msg().GetChange().GetRevision() == 0 || len(s.Msg().GetChange().GetResources()) > 0 {
		t.Fatalf("start: %v, %v", s.Msg(), s.Err())
	}
	rename := func(project, name string) {
		_, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).Update(t.Context(),
			&apiv2.ProjectServiceUpdateRequest{Project: project, UpdateMeta: &apiv2.UpdateMeta{}, Name: &name})
		check(t, err)
	}
	rename(q, "theirs")
	rename(p, "ours")
	if !s.Receive() {
		t.Fatal(s.Err())
	}
	var seen apiv2.Project
	check(t, s.Msg().GetChange().GetResources()[0].GetResource().UnmarshalTo(&seen))
	if seen.GetUuid() != p || seen.GetName() != "ours" {
		t.Errorf("seen: %v", &seen)
	}
	_, err = dial(w, apiv2connect.NewProjectServiceClient, w.admin).RemoveMember(t.Context(), &apiv2.ProjectServiceRemoveMemberRequest{Project: p, Member: user})
	check(t, err)
	for s.Receive() {
	}
	wantCode(t, s.Err(), connect.CodePermissionDenied, "")
}

// Streams end with their token.
func TestStreamsEnd(t *testing.T) {
	w := newWorld(t)
	open := func(token string) *connect.ServerStreamForClient[ingotv1.WatchServiceAllResponse] {
		s, err := dial(w, ingotv1connect.NewWatchServiceClient, token).All(t.Context(), connect.NewRequest(&ingotv1.WatchServiceAllRequest{}))
		check(t, err)
		if !s.Receive() {
			t.Fatal(s.Err())
		}
		return s
	}
	admin := apiv2.AdminRole_ADMIN_ROLE_VIEWER
	revoked, short := w.token("ingot", &apiv2.TokenServiceCreateRequest{AdminRole: &admin}), w.token("ingot", &apiv2.TokenServiceCreateRequest{AdminRole: &admin})
	streams := map[string]*connect.ServerStreamForClient[ingotv1.WatchServiceAllResponse]{
		"token was revoked": open(revoked), "token has expired": open(short),
	}
	lasting := open(w.admin)
	w.revoke(revoked)
	w.clock.Advance(8 * time.Hour)
	for _, message := range slices.Sorted(maps.Keys(streams)) {
		s := streams[message]
		for s.Receive() {
		}
		wantCode(t, s.Err(), connect.CodeUnauthenticated, message)
	}
	w.tenant("t1") // the other one goes on
	for lasting.Receive() {
		if len(lasting.Msg().GetChange().GetResources()) > 0 {
			return
		}
	}
	t.Error(lasting.Err())
}

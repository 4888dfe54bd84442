package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/metal-stack/api/go/client"
	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// Case 1 of the conformance list.
func TestAnonymous(t *testing.T) {
	w := newWorld(t)
	v, err := dial(w, apiv2connect.NewVersionServiceClient, "").Get(t.Context(), &apiv2.VersionServiceGetRequest{})
	check(t, err)
	if v.GetVersion().GetVersion() != "v0.0.0-test" {
		t.Errorf("version %v", v)
	}
	h, err := dial(w, apiv2connect.NewHealthServiceClient, "").Get(t.Context(), &apiv2.HealthServiceGetRequest{})
	check(t, err)
	for _, s := range h.GetHealth().GetServices() {
		if s.GetStatus() != apiv2.ServiceStatus_SERVICE_STATUS_HEALTHY {
			t.Errorf("%v", s)
		}
	}
	_, err = dial(w, apiv2connect.NewImageServiceClient, "").List(t.Context(), &apiv2.ImageServiceListRequest{})
	wantCode(t, err, connect.CodePermissionDenied,
		`access to:"/metalstack.api.v2.ImageService/List" is not allowed because it is not part of the token permissions`)
}

func TestUnserved(t *testing.T) {
	w := newWorld(t)
	_, err := dial(w, adminv2connect.NewTaskServiceClient, w.admin).Queues(t.Context(), &adminv2.TaskServiceQueuesRequest{})
	wantCode(t, err, connect.CodeUnimplemented, "/metalstack.admin.v2.TaskService/Queues: is not implemented")
}

// metalClient is metal-stack's own client, as it is.
func (w *world) metalClient(token string) client.Client {
	w.t.Helper()
	c, err := client.New(&client.DialConfig{BaseURL: w.url, Token: token, Transport: w.http.Transport})
	check(w.t, err)
	return c
}

func TestMetalStackClient(t *testing.T) {
	w := newWorld(t)
	c := w.metalClient(w.admin)
	_, err := c.Adminv2().Tenant().Create(t.Context(), &adminv2.TenantServiceCreateRequest{Name: "t1", Email: new("a@example.org")})
	check(t, err)
	p, err := c.Apiv2().Project().Create(t.Context(), &apiv2.ProjectServiceCreateRequest{Login: "t1", Name: "one", Description: "first"})
	check(t, err)
	token, err := c.Adminv2().Token().Create(t.Context(), &adminv2.TokenServiceCreateRequest{User: new("t1"), TokenCreateRequest: &apiv2.TokenServiceCreateRequest{
		ProjectRoles: map[string]apiv2.ProjectRole{p.GetProject().GetUuid(): owner},
	}})
	check(t, err)
	got, err := w.metalClient(token.GetSecret()).Apiv2().Project().Get(t.Context(), &apiv2.ProjectServiceGetRequest{Project: p.GetProject().GetUuid()})
	check(t, err)
	if !proto.Equal(got.GetProject(), p.GetProject()) || got.GetProjectMembers()[0].GetId() != "t1" {
		t.Errorf("got %v", got)
	}
	s, err := w.metalClient("").Infrav2().Boot().Wait(t.Context(), &infrav2.BootServiceWaitRequest{Uuid: machineM})
	if err == nil {
		s.Receive()
		err = s.Err()
	}
	wantCode(t, err, connect.CodePermissionDenied, "")
}

// All protocols, on one port.
func TestProtocols(t *testing.T) {
	w := newWorld(t)
	http1 := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.http.Transport.(*http.Transport).TLSClientConfig.RootCAs}}
	defer http1.CloseIdleConnections()
	for name, c := range map[string]apiv2connect.UserServiceClient{
		"connect":              dial(w, apiv2connect.NewUserServiceClient, w.admin),
		"connect, JSON":        dial(w, apiv2connect.NewUserServiceClient, w.admin, connect.WithProtoJSON()),
		"gRPC":                 dial(w, apiv2connect.NewUserServiceClient, w.admin, connect.WithGRPC()),
		"gRPC-Web":             dial(w, apiv2connect.NewUserServiceClient, w.admin, connect.WithGRPCWeb()),
		"connect on HTTP/1.1":  apiv2connect.NewUserServiceClient(&http.Client{Transport: bearer{w.admin, http1}}, w.url),
		"gRPC-Web on HTTP/1.1": apiv2connect.NewUserServiceClient(&http.Client{Transport: bearer{w.admin, http1}}, w.url, connect.WithGRPCWeb()),
	} {
		u, err := c.Get(t.Context(), &apiv2.UserServiceGetRequest{})
		if err != nil || u.GetUser().GetLogin() != "ingot" {
			t.Errorf("%s: %v, %v", name, u, err)
		}
	}
}

func TestGRPC(t *testing.T) {
	w := newWorld(t)
	conn, err := grpc.NewClient(strings.TrimPrefix(w.url, "https://"),
		grpc.WithTransportCredentials(credentials.NewTLS(w.http.Transport.(*http.Transport).TLSClientConfig)))
	check(t, err)
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.admin)
	var u apiv2.UserServiceGetResponse
	check(t, conn.Invoke(ctx, "/metalstack.api.v2.UserService/Get", &apiv2.UserServiceGetRequest{}, &u))
	err = conn.Invoke(t.Context(), "/metalstack.api.v2.UserService/Get", &apiv2.UserServiceGetRequest{}, &u)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a token: %v", err)
	}
	err = conn.Invoke(ctx, "/metalstack.api.v2.UserService/Nothing", &apiv2.UserServiceGetRequest{}, &u)
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
	h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "metalstack.api.v2.UserService"})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	s, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	check(t, err)
	check(t, s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	r, err := s.Recv()
	check(t, err)
	if n := len(r.GetListServicesResponse().GetService()); n < 10 {
		t.Errorf("reflection knows %d services", n)
	}
	check(t, s.CloseSend())
}

func TestCrossOrigin(t *testing.T) {
	w := newWorld(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, w.url+"/metalstack.api.v2.UserService/Get", nil)
	check(t, err)
	req.Header.Set("Origin", "https://ui.example.org")
	req.Header.Set("Access-Control-Request-Method", "POST")
	req.Header.Set("Access-Control-Request-Headers", "authorization,connect-protocol-version")
	resp, err := w.http.Do(req)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Origin") != "*" ||
		!strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// What the caller may not do is told before what is wrong with the request,
// and what is wrong in detail.
func TestOrderOfChecks(t *testing.T) {
	w := newWorld(t)
	bad := &adminv2.TenantServiceCreateRequest{Name: "x"}
	_, err := dial(w, adminv2connect.NewTenantServiceClient, "").Create(t.Context(), bad)
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = dial(w, adminv2connect.NewTenantServiceClient, w.admin).Create(t.Context(), bad)
	wantCode(t, err, connect.CodeInvalidArgument, "")
	var e *connect.Error
	if !errors.As(err, &e) || len(e.Details()) != 1 {
		t.Errorf("no detail in %v", err)
	}
	_, err = dial(w, adminv2connect.NewTenantServiceClient, w.admin).Create(t.Context(),
		&adminv2.TenantServiceCreateRequest{Name: "t1", Labels: &apiv2.Labels{Labels: map[string]string{"k": strings.Repeat("x", 5<<20)}}})
	wantCode(t, err, connect.CodeResourceExhausted, "")
}

// Metrics are for admins.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.tenant("t1")
	for token, want := range map[string]int{"": 401, w.token("t1", &apiv2.TokenServiceCreateRequest{}): 403, w.admin: 200} {
		resp, err := (&http.Client{Transport: bearer{token, w.http.Transport}}).Get(w.url + "/metrics")
		check(t, err)
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s, want %d", resp.Status, want)
		}
		if want == 200 && !strings.Contains(string(body), `ingot_api_calls_total{code="ok",method="/metalstack.admin.v2.TenantService/Create"} 1`) {
			t.Errorf("metrics: %s", body)
		}
	}
}

// deaf is a store whose etcd can fall silent.
type deaf struct {
	*store.Mem
	silent atomic.Bool
}

func (d *deaf) Range(ctx context.Context, prefix string) ([]store.Entry, store.Rev, error) {
	if d.silent.Load() {
		return nil, 0, fault.New(fault.Unavailable, "etcd", "does not answer", "")
	}
	return d.Mem.Range(ctx, prefix)
}

// A server that has not heard from etcd for too long serves nothing, and says
// so, until it hears again.
func TestStale(t *testing.T) {
	kv := &deaf{Mem: store.NewMem()}
	w := newWorldOn(t, kv, store.Options{StaleAfter: 400 * time.Millisecond})
	users := dial(w, apiv2connect.NewUserServiceClient, w.admin)
	_, err := users.Get(t.Context(), &apiv2.UserServiceGetRequest{})
	check(t, err)
	ready := func() int {
		resp, err := w.http.Get(w.url + "/readyz")
		check(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	kv.silent.Store(true)
	until(t, "not to be ready", func() bool { return ready() == http.StatusServiceUnavailable })
	_, err = users.Get(t.Context(), &apiv2.UserServiceGetRequest{})
	wantCode(t, err, connect.CodeUnavailable, "")
	kv.silent.Store(false)
	until(t, "to be ready again", func() bool { return ready() == http.StatusOK })
	until(t, "to serve again", func() bool {
		_, err := users.Get(t.Context(), &apiv2.UserServiceGetRequest{})
		return err == nil
	})
}

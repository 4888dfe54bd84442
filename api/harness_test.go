package api_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/golang-jwt/jwt/v5"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/api"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// A world is a server behind a real listener with TLS.
type world struct {
	t     testing.TB
	clock *storetest.Clock
	db    *store.DB
	srv   *api.Server
	url   string
	http  *http.Client // trusts the server, speaks HTTP/2
	admin string       // a token that may do everything
	p     string       // the project of matrix_test.go
}

// newWorld starts a server on an empty store: in memory, or, if the environment
// variable INGOT_TEST_ETCD is set, on an embedded etcd.
func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getenv("INGOT_TEST_ETCD") == "" {
		return newWorldOn(t, store.NewMem(), store.Options{})
	}
	kv, err := store.OpenEtcd(t.Context(), store.EtcdConfig{Dir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	t.Cleanup(func() { check(t, kv.Close()) })
	return newWorldOn(t, kv, store.Options{})
}

// newWorldOn is newWorld with a store of the test's own. Tables and clock are
// set here. The store's log is the server's, too.
func newWorldOn(t testing.TB, kv store.KV, opt store.Options) *world {
	t.Helper()
	w := &world{t: t, clock: storetest.NewClock()}
	w.clock.Set(time.Now().Truncate(time.Second))
	opt.Tables, opt.Now = records.Tables(), w.clock.Now
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	if opt.Log != nil {
		log = opt.Log
	}
	w.db = storetest.OpenKV(t, kv, opt)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	w.url = "https://" + ln.Addr().String()
	w.srv, err = api.New(t.Context(), api.Config{
		DB: w.db, Ring: secret.NewRing(), URL: w.url, Log: log, Now: w.clock.Now,
		Version: &apiv2.Version{Version: "v0.0.0-test"},
	})
	check(t, err)
	if made, err := w.srv.Bootstrap(t.Context(), func(token string) error { w.admin = token; return nil }); err != nil || !made {
		t.Fatalf("bootstrap: %v, %v", made, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.srv.CA())
	w.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
	}}
	ended := make(chan error, 1)
	go func() { ended <- w.srv.Serve(t.Context(), ln, w.srv.TLS("127.0.0.1")) }()
	t.Cleanup(func() { // t's context has ended by now
		w.http.CloseIdleConnections()
		check(t, <-ended)
	})
	return w
}

// tenant makes a tenant and returns its login.
func (w *world) tenant(login string) string {
	w.t.Helper()
	_, err := dial(w, adminv2connect.NewTenantServiceClient, w.admin).Create(w.t.Context(), &adminv2.TenantServiceCreateRequest{Name: login})
	check(w.t, err)
	return login
}

// project makes a project of a tenant and returns its uuid.
func (w *world) project(tenant string) string {
	w.t.Helper()
	p, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).Create(w.t.Context(), &apiv2.ProjectServiceCreateRequest{
		Login: tenant, Name: "project", Description: "of " + tenant,
	})
	check(w.t, err)
	return p.GetProject().GetUuid()
}

// member makes a user a direct member of a project and returns a token with
// that role.
func (w *world) member(project string, role apiv2.ProjectRole) string {
	w.t.Helper()
	user := w.tenant("user-" + rand.Text()[:8])
	w.addMember(project, user, role)
	return w.token(user, &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{project: role}})
}

// addMember makes a tenant a direct member of a project.
func (w *world) addMember(project, member string, role apiv2.ProjectRole) {
	w.t.Helper()
	_, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).AddMember(w.t.Context(), &apiv2.ProjectServiceAddMemberRequest{
		Project: project, Member: member, Role: role,
	})
	check(w.t, err)
}

// tokenID returns the uuid of a token.
func tokenID(t testing.TB, token string) string {
	t.Helper()
	var c jwt.RegisteredClaims
	_, _, err := jwt.NewParser().ParseUnverified(token, &c)
	check(t, err)
	return c.ID
}

// token makes a token for a user with what is asked for.
func (w *world) token(user string, req *apiv2.TokenServiceCreateRequest) string {
	w.t.Helper()
	t, err := dial(w, adminv2connect.NewTokenServiceClient, w.admin).Create(w.t.Context(), &adminv2.TokenServiceCreateRequest{
		User: &user, TokenCreateRequest: req,
	})
	check(w.t, err)
	return t.GetSecret()
}

// partition makes sure that there is a partition.
func (w *world) partition(id string) string {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		return records.Partitions.Put(tx, &apiv2.Partition{Id: id})
	}))
	return id
}

// farEnd enrols a leaf or a site and returns its token.
func (w *world) farEnd(kind ingotv1.FarEnd, partition, id string) string {
	w.t.Helper()
	e, err := dial(w, ingotv1connect.NewEnrolmentServiceClient, w.admin).Create(w.t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceCreateRequest{
		Partition: w.partition(partition), FarEnd: kind, Id: id,
	}))
	check(w.t, err)
	r, err := dial(w, ingotv1connect.NewEnrolmentServiceClient, "").Redeem(w.t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceRedeemRequest{
		Secret: e.Msg.GetSecret(),
	}))
	check(w.t, err)
	return r.Msg.GetToken()
}

// dial returns a generated client that sends a token; none if it is empty.
func dial[C any](w *world, construct func(connect.HTTPClient, string, ...connect.ClientOption) C, token string, opts ...connect.ClientOption) C {
	return construct(&http.Client{Transport: bearer{token, w.http.Transport}}, w.url, opts...)
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode fails the test unless err has the code and, if text is not empty,
// exactly the message.
func wantCode(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	var e *connect.Error
	switch {
	case err == nil:
		t.Errorf("no error, want %v: %s", code, text)
	case connect.CodeOf(err) != code:
		t.Errorf("%v, want %v: %s", err, code, text)
	case text != "" && (!errors.As(err, &e) || e.Message() != text):
		t.Errorf("message %q, want %q", e.Message(), text)
	}
}

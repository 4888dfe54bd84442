package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

const machine = "4c4c4544-0051-3710-8052-b4c04f443732"

// fakeAPI is the far end of the contract, as strict about identity as the
// control plane is.
type fakeAPI struct {
	ingotv1connect.UnimplementedBootServiceHandler
	ingotv1connect.UnimplementedAgentServiceHandler

	mu       sync.Mutex
	boots    int
	key      ed25519.PublicKey
	reports  []string
	lifetime time.Duration
	refused  int // token requests to refuse first
	// installed refuses every boot: there is a system on the disk; deaf
	// records no report.
	installed, deaf bool
	refresh         int
	wipes           []*ingotv1.Wipe
	takes           int // proofs
	wait            func(context.Context, *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error
}

const bootID = "0193e0a0-0000-7000-8000-0000000000aa"

func jwt(id string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"jti":"`+id+`"}`)) + ".sig"
}

func (f *fakeAPI) Begin(_ context.Context, r *connect.Request[ingotv1.BootServiceBeginRequest]) (*connect.Response[ingotv1.BootServiceBeginResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boots++
	if r.Msg.GetUuid() != machine || r.Header().Get("Authorization") != "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("unexpected request"))
	}
	if f.installed {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("rule installed: it boots from its disk"))
	}
	return connect.NewResponse(&ingotv1.BootServiceBeginResponse{BootId: bootID}), nil
}

func (f *fakeAPI) Token(_ context.Context, r *connect.Request[ingotv1.BootServiceTokenRequest]) (*connect.Response[ingotv1.BootServiceTokenResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused > 0 {
		f.refused--
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("boot window: closed"))
	}
	f.key = r.Msg.GetPublicKey()
	if !ed25519.Verify(f.key, []byte("ingot boot "+bootID), r.Msg.GetSignature()) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("bad signature"))
	}
	return connect.NewResponse(&ingotv1.BootServiceTokenResponse{Token: jwt("t1"), Expires: timestamppb.New(time.Now().Add(f.lifetime))}), nil
}

func (f *fakeAPI) Refresh(_ context.Context, r *connect.Request[ingotv1.AgentServiceRefreshRequest]) (*connect.Response[ingotv1.AgentServiceRefreshResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh++
	if !ed25519.Verify(f.key, []byte("ingot refresh t1"), r.Msg.GetSignature()) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("bad signature"))
	}
	return connect.NewResponse(&ingotv1.AgentServiceRefreshResponse{Token: jwt("t2"), Expires: timestamppb.New(time.Now().Add(time.Hour))}), nil
}

func (f *fakeAPI) Report(_ context.Context, r *connect.Request[ingotv1.AgentServiceReportRequest]) (*connect.Response[ingotv1.AgentServiceReportResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header().Get("Authorization") != "Bearer "+jwt("t1") || r.Msg.GetBootId() != bootID || r.Msg.GetUuid() != machine {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no identity"))
	}
	if f.deaf {
		return nil, connect.NewError(connect.CodeInternal, errors.New("no leader"))
	}
	f.reports = append(f.reports, strings.TrimSpace(stepName(r.Msg.GetStep())+" "+nameOf(r.Msg.GetState().String(), "STEP_STATE_")+" "+r.Msg.GetMessage()))
	return connect.NewResponse(&ingotv1.AgentServiceReportResponse{}), nil
}

func (f *fakeAPI) Wait(ctx context.Context, r *connect.Request[ingotv1.AgentServiceWaitRequest], s *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error {
	return f.wait(ctx, s)
}

type tlsServer struct {
	*httptest.Server
	pem []byte
}

func testServer(t *testing.T, f *fakeAPI) (tlsServer, Config) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewBootServiceHandler(f))
	mux.Handle(ingotv1connect.NewAgentServiceHandler(f))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	pemBytes := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return tlsServer{s, pemBytes}, Config{Boot: u, CA: pool, Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func newAgent(t *testing.T, f *fakeAPI, list ...stage) *Agent {
	t.Helper()
	_, cfg := testServer(t, f)
	a := New(cfg)
	a.uuid = machine
	a.stages = list
	return a
}

var identify = stage{ingotv1.AgentStep_AGENT_STEP_TOKEN, (*Agent).identify, 5}

func TestIdentify(t *testing.T) {
	f := &fakeAPI{lifetime: time.Hour, refused: 2}
	link := stage{ingotv1.AgentStep_AGENT_STEP_LINK, func(*Agent, context.Context) error { return nil }, 1}
	a := newAgent(t, f, link, identify)
	if _, err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.bootID != bootID || f.boots != 3 {
		t.Errorf("boot id %q after %d begins: every refused token needs a new boot", a.bootID, f.boots)
	}
	// Steps before the identity are reported once there is one.
	want := []string{
		"link begun", "link done", "token begun",
		"token progress try 1: boot " + bootID + ": the machine got no token: permission_denied: boot window: closed",
		"token progress try 2: boot " + bootID + ": the machine got no token: permission_denied: boot window: closed",
		"token done",
	}
	if !slices.Equal(f.reports, want) {
		t.Errorf("reported\n%s\nwant\n%s", strings.Join(f.reports, "\n"), strings.Join(want, "\n"))
	}
}

func TestStrangerIsNotTrusted(t *testing.T) {
	a := newAgent(t, &fakeAPI{}, identify)
	_, other := testServer(t, &fakeAPI{})
	a.cfg.CA = x509.NewCertPool() // another partition's
	a.cfg.Boot = other.Boot
	if err := a.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

func TestWaitInstructs(t *testing.T) {
	good := &ingotv1.Installation{
		Allocation: &apiv2.MachineAllocation{Uuid: "a", FilesystemLayout: &apiv2.FilesystemLayout{}},
		Source:     &ingotv1.ImageSource{Image: "debian-12.0", Sha256: "x"}, Urls: []string{"http://a"},
	}
	unpinned := &ingotv1.Installation{
		Allocation: &apiv2.MachineAllocation{FilesystemLayout: &apiv2.FilesystemLayout{}},
		Source:     &ingotv1.ImageSource{Image: "debian-12.0"}, Urls: []string{"http://a"},
	}
	say := func(m ...*ingotv1.AgentServiceWaitResponse) func(context.Context, *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error {
		return func(_ context.Context, s *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error {
			for _, m := range m {
				if err := s.Send(m); err != nil {
					return err
				}
			}
			return nil
		}
	}
	life := &ingotv1.AgentServiceWaitResponse{}
	for name, c := range map[string]struct {
		says   func(context.Context, *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error
		err    string
		reboot string
	}{
		"install":  {says: say(life, &ingotv1.AgentServiceWaitResponse{Installation: good})},
		"reboot":   {says: say(life, &ingotv1.AgentServiceWaitResponse{Reboot: "new agent version"}), err: "new agent version", reboot: "new agent version"},
		"unpinned": {says: say(&ingotv1.AgentServiceWaitResponse{Installation: unpinned}), err: "has no pinned digest"},
		"closed":   {says: say(life), err: "the control plane closed the stream"},
	} {
		f := &fakeAPI{lifetime: time.Hour, wait: c.says}
		a := newAgent(t, f, identify, stage{ingotv1.AgentStep_AGENT_STEP_WAIT, (*Agent).wait, 1})
		if err := a.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := a.Step(t.Context())
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || a.reboot != c.reboot {
			t.Errorf("%s: %v, reboot %q", name, err, a.reboot)
		}
	}
}

func TestTokenIsRefreshedWhileWaiting(t *testing.T) {
	f := &fakeAPI{lifetime: -time.Minute} // already past half of its life
	f.wait = func(_ context.Context, s *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error { return nil }
	a := newAgent(t, f, identify, stage{ingotv1.AgentStep_AGENT_STEP_WAIT, (*Agent).wait, 1})
	_ = a.Step(t.Context())
	_ = a.Step(t.Context())
	if f.refresh != 1 || a.api.token.Load().id != "t2" {
		t.Errorf("refreshed %d times, token %q", f.refresh, a.api.token.Load().id)
	}
}

func TestRunGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		failing := func(err error) stage {
			return stage{ingotv1.AgentStep_AGENT_STEP_WIPE, func(*Agent, context.Context) error { tries++; return err }, 4}
		}
		for name, c := range map[string]struct {
			err  error
			want int
		}{
			"retried to the limit": {io.EOF, 4},
			"hopeless at once":     {fault.New(fault.Invalid, "layout", "is wrong", ""), 1},
		} {
			tries = 0
			a := New(Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			a.stages = []stage{failing(c.err)}
			start := time.Now()
			_, err := a.Run(t.Context())
			if !errors.Is(err, ErrReboot) || !errors.Is(err, c.err) || tries != c.want {
				t.Errorf("%s: %v after %d tries", name, err, tries)
			}
			if c.want > 1 && time.Since(start) < time.Second {
				t.Errorf("%s: no back-off, %v", name, time.Since(start))
			}
		}
	})
}

func TestBackOff(t *testing.T) {
	for tries, want := range map[int]time.Duration{1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 8: 15 * time.Second, 1000: 15 * time.Second} {
		if got := backOff(tries); got != want {
			t.Errorf("%d: %v", tries, got)
		}
	}
}

func TestTokenID(t *testing.T) {
	if id, err := tokenID(jwt("t1")); err != nil || id != "t1" {
		t.Errorf("got %q, %v", id, err)
	}
	for _, bad := range []string{"", "a.b", "a.!.c", "a." + base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + ".c"} {
		if id, err := tokenID(bad); err == nil {
			t.Errorf("%q gave %q", bad, id)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

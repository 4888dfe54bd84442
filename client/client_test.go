package client_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	"github.com/ingot-cloud/ingot/client"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A server answers calls with what the test has put there: an error, or nil.
type server struct {
	apiv2connect.UnimplementedProjectServiceHandler
	ingotv1connect.UnimplementedWatchServiceHandler
	ca  []byte
	url string

	mu      sync.Mutex
	answers []error
	tokens  []string
	afters  []int64
	streams []stream
}

// A stream sends changes, and ends with an error; nil waits for the client.
type stream struct {
	revisions []int64
	err       error
}

func newServer(t *testing.T, answers ...error) *server {
	s := &server{answers: answers}
	mux := http.NewServeMux()
	mux.Handle(apiv2connect.NewProjectServiceHandler(s))
	mux.Handle(ingotv1connect.NewWatchServiceHandler(s))
	h := httptest.NewUnstartedServer(mux)
	h.EnableHTTP2 = true
	h.StartTLS()
	t.Cleanup(h.Close)
	s.url = h.URL
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	return s
}

func (s *server) answer(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	call, _ := connect.CallInfoForHandlerContext(ctx)
	s.tokens = append(s.tokens, call.RequestHeader().Get("Authorization"))
	if len(s.answers) == 0 {
		return nil
	}
	err := s.answers[0]
	s.answers = s.answers[1:]
	if err == errCut { //nolint:errorlint // a sentinel of this file
		panic(http.ErrAbortHandler)
	}
	return err
}

func (s *server) List(ctx context.Context, _ *apiv2.ProjectServiceListRequest) (*apiv2.ProjectServiceListResponse, error) {
	return &apiv2.ProjectServiceListResponse{}, s.answer(ctx)
}

func (s *server) Create(ctx context.Context, _ *apiv2.ProjectServiceCreateRequest) (*apiv2.ProjectServiceCreateResponse, error) {
	return &apiv2.ProjectServiceCreateResponse{}, s.answer(ctx)
}

func (s *server) All(ctx context.Context, req *connect.Request[ingotv1.WatchServiceAllRequest], out *connect.ServerStream[ingotv1.WatchServiceAllResponse]) error {
	s.mu.Lock()
	s.afters = append(s.afters, req.Msg.GetAfter())
	next := s.streams[0]
	if len(s.streams) > 1 { // the last one is for whoever comes later, too
		s.streams = s.streams[1:]
	}
	s.mu.Unlock()
	for _, r := range next.revisions {
		if err := out.Send(&ingotv1.WatchServiceAllResponse{Change: &ingotv1.Change{Revision: r}}); err != nil {
			return err
		}
	}
	if next.err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return next.err
}

var (
	// errCut cuts the connection off while the server may have acted.
	errCut      = errors.New("cut")
	unavailable = connect.NewError(connect.CodeUnavailable, errors.New("not now"))
	invalid     = connect.NewError(connect.CodeInvalidArgument, errors.New("never"))
	quick       = client.Retry{Min: time.Millisecond, Max: 2 * time.Millisecond, For: 20 * time.Second}
)

func (s *server) client(t *testing.T, r client.Retry) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.url, CA: s.ca, Token: "t", Retry: r})
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestRetry(t *testing.T) {
	list := func(ctx context.Context, c apiv2connect.ProjectServiceClient) error {
		_, err := c.List(ctx, &apiv2.ProjectServiceListRequest{})
		return err
	}
	create := func(ctx context.Context, c apiv2connect.ProjectServiceClient) error {
		_, err := c.Create(ctx, &apiv2.ProjectServiceCreateRequest{})
		return err
	}
	idempotent := func(ctx context.Context, c apiv2connect.ProjectServiceClient) error {
		return create(client.Idempotent(ctx), c)
	}
	for _, tt := range []struct {
		name    string
		answers []error
		call    func(context.Context, apiv2connect.ProjectServiceClient) error
		retry   client.Retry
		want    connect.Code // zero: success
		calls   int
	}{
		{"the server is not available, then is", []error{unavailable, unavailable}, create, quick, 0, 3},
		{"the request is wrong", []error{invalid}, create, quick, connect.CodeInvalidArgument, 1},
		{"the answer to a read is lost", []error{errCut}, list, quick, 0, 2},
		{"the answer to a change is lost", []error{errCut}, create, quick, connect.CodeInternal, 1},
		{"the answer to a repeatable change is lost", []error{errCut}, idempotent, quick, 0, 2},
		{"no repetition is wanted", []error{unavailable}, list, client.Retry{For: -1}, connect.CodeUnavailable, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.answers...)
			err := tt.call(t.Context(), client.Of(s.client(t, tt.retry), apiv2connect.NewProjectServiceClient))
			if tt.want == 0 && err != nil || tt.want != 0 && connect.CodeOf(err) != tt.want {
				t.Errorf("%v, want code %d", err, tt.want)
			}
			if len(s.tokens) != tt.calls {
				t.Errorf("%d calls, want %d", len(s.tokens), tt.calls)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	s := newServer(t)
	c, err := client.New(client.Config{URL: "https://127.0.0.1:1", CA: s.ca, Retry: client.Retry{Min: time.Millisecond, For: 20 * time.Millisecond}})
	check(t, err)
	_, err = client.Of(c, apiv2connect.NewProjectServiceClient).Create(t.Context(), &apiv2.ProjectServiceCreateRequest{})
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Error(err)
	}
}

func TestOtherAuthority(t *testing.T) {
	s := newServer(t)
	c, err := client.New(client.Config{URL: s.url})
	check(t, err)
	if _, err = client.Of(c, apiv2connect.NewProjectServiceClient).List(t.Context(), &apiv2.ProjectServiceListRequest{}); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
}

func TestTokenFile(t *testing.T) {
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(file, []byte("one\n"), 0o600))
	c, err := client.New(client.Config{URL: s.url, CA: s.ca, TokenFile: file})
	check(t, err)
	projects := client.Of(c, apiv2connect.NewProjectServiceClient)
	call := func() {
		_, err := projects.List(t.Context(), &apiv2.ProjectServiceListRequest{})
		check(t, err)
	}
	call()
	check(t, os.WriteFile(file, []byte("two\n"), 0o600))
	check(t, os.Chtimes(file, time.Time{}, time.Unix(1, 0))) // a change, however coarse the file's times are
	call()
	if want := []string{"Bearer one", "Bearer two"}; !slices.Equal(s.tokens, want) {
		t.Errorf("tokens %q", s.tokens)
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]client.Config{
		"no url":        {},
		"no scheme":     {URL: "localhost:8443"},
		"no PEM":        {URL: "https://localhost", CA: []byte("x")},
		"no CA file":    {URL: "https://localhost", CAFile: "/nonexistent"},
		"no token file": {URL: "https://localhost", TokenFile: "/nonexistent"},
	} {
		if _, err := client.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A watch goes on where it was, lists again when it must, and ends when the
// server refuses.
func TestWatch(t *testing.T) {
	s := newServer(t)
	s.streams = []stream{
		{[]int64{11, 12}, unavailable},
		{nil, unavailable},
		{[]int64{15}, connect.NewError(connect.CodeOutOfRange, errors.New("too old"))},
		{[]int64{21}, connect.NewError(connect.CodeUnauthenticated, errors.New("token was revoked"))},
	}
	lists, lost := []int64{10, 20}, 0
	var seen []int64
	err := s.client(t, quick).Watch(t.Context(), client.Watch{
		Follower: client.Follower{Retry: quick, Lost: func(error) { lost++ }},
		List: func(context.Context) (int64, error) {
			rev := lists[0]
			lists = lists[1:]
			return rev, nil
		},
		Apply: func(c *ingotv1.Change) error { seen = append(seen, c.GetRevision()); return nil },
	})
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Error(err)
	}
	if want := []int64{10, 12, 12, 20}; !slices.Equal(s.afters, want) {
		t.Errorf("streams after %v, want %v", s.afters, want)
	}
	if want := []int64{11, 12, 15, 21}; !slices.Equal(seen, want) {
		t.Errorf("seen %v, want %v", seen, want)
	}
	if lost != 2 {
		t.Errorf("lost %d times", lost)
	}
}

func TestSilence(t *testing.T) {
	s := newServer(t)
	s.streams = []stream{{[]int64{1}, nil}, {[]int64{2}, nil}}
	watch := client.Of(s.client(t, quick), ingotv1connect.NewWatchServiceClient)
	enough := errors.New("enough")
	err := client.Follow(t.Context(), client.Follower{Retry: quick, Silence: 20 * time.Millisecond},
		func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.WatchServiceAllResponse], error) {
			return watch.All(ctx, connect.NewRequest(&ingotv1.WatchServiceAllRequest{}))
		},
		func(m *ingotv1.WatchServiceAllResponse) error {
			if m.GetChange().GetRevision() == 2 {
				return enough
			}
			return nil
		})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

// What works unattended goes on after a refusal, which somebody may mend.
func TestFollowAlways(t *testing.T) {
	s := newServer(t)
	s.streams = []stream{{nil, connect.NewError(connect.CodeNotFound, errors.New("leaf leaf1: not found"))}, {[]int64{2}, nil}}
	watch := client.Of(s.client(t, quick), ingotv1connect.NewWatchServiceClient)
	enough, lost := errors.New("enough"), []connect.Code{}
	err := client.Follow(t.Context(), client.Follower{Retry: quick, Always: true, Lost: func(err error) { lost = append(lost, connect.CodeOf(err)) }},
		func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.WatchServiceAllResponse], error) {
			return watch.All(ctx, connect.NewRequest(&ingotv1.WatchServiceAllRequest{}))
		},
		func(*ingotv1.WatchServiceAllResponse) error { return enough })
	if !errors.Is(err, enough) || !slices.Equal(lost, []connect.Code{connect.CodeNotFound}) {
		t.Errorf("%v after %v", err, lost)
	}
}

// A token that is kept in memory can be replaced.
func TestSetToken(t *testing.T) {
	s := newServer(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca)
	c, err := client.New(client.Config{URL: s.url, Roots: roots, CA: []byte("does not count")})
	check(t, err)
	projects := client.Of(c, apiv2connect.NewProjectServiceClient)
	for _, token := range []string{"", "one", "two"} {
		c.SetToken(token)
		_, err := projects.List(t.Context(), &apiv2.ProjectServiceListRequest{})
		check(t, err)
	}
	if want := []string{"", "Bearer one", "Bearer two"}; !slices.Equal(s.tokens, want) {
		t.Errorf("tokens %q", s.tokens)
	}
}

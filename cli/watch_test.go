package cli_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ingot-cloud/ingot/cli"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

type send = func(*ingotv1.Change) error

// watches answers one stream after the other from a script.
type watches struct {
	ingotv1connect.UnimplementedWatchServiceHandler
	steps chan func(context.Context, *ingotv1.WatchServiceAllRequest, func(*ingotv1.Change) error) error
}

func (w watches) All(ctx context.Context, r *connect.Request[ingotv1.WatchServiceAllRequest], s *connect.ServerStream[ingotv1.WatchServiceAllResponse]) error {
	select {
	case step := <-w.steps:
		return step(ctx, r.Msg, func(c *ingotv1.Change) error { return s.Send(&ingotv1.WatchServiceAllResponse{Change: c}) })
	case <-ctx.Done():
		return ctx.Err()
	}
}

// oneImage lists one image, as of revision 7.
type oneImage struct {
	apiv2connect.UnimplementedImageServiceHandler
}

func (oneImage) List(ctx context.Context, _ *apiv2.ImageServiceListRequest) (*apiv2.ImageServiceListResponse, error) {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return nil, errors.New("no call")
	}
	info.ResponseHeader().Set("Ingot-Revision", "7")
	return &apiv2.ImageServiceListResponse{Images: []*apiv2.Image{{Id: "a-1"}}}, nil
}

// TestWatch follows a list through changes, a broken stream and a revision
// that the server no longer knows, until it is interrupted.
func TestWatch(t *testing.T) {
	w := watches{steps: make(chan func(context.Context, *ingotv1.WatchServiceAllRequest, func(*ingotv1.Change) error) error, 8)}
	expect := func(r *ingotv1.WatchServiceAllRequest, after int64) {
		if r.After != after || len(r.Types) != 1 || r.Types[0] != "metalstack.api.v2.Image" {
			t.Errorf("asked for %v, want what came after %d", r, after)
		}
	}
	w.steps <- func(_ context.Context, r *ingotv1.WatchServiceAllRequest, send send) error {
		expect(r, 7)
		return errors.Join(
			send(change(t, 8, &apiv2.Image{Id: "b-1"}, "b-1")),
			send(&ingotv1.Change{Revision: 9}),
			connect.NewError(connect.CodeUnavailable, errors.New("server: going away")))
	}
	w.steps <- func(_ context.Context, r *ingotv1.WatchServiceAllRequest, send send) error {
		expect(r, 9)
		return connect.NewError(connect.CodeOutOfRange, errors.New("revision 9: no longer kept"))
	}
	w.steps <- func(ctx context.Context, r *ingotv1.WatchServiceAllRequest, send send) error {
		expect(r, 7)
		err := send(change(t, 10, nil, "a-1"))
		<-ctx.Done() // until the client goes
		return err
	}

	mux := http.NewServeMux()
	mux.Handle(apiv2connect.NewImageServiceHandler(oneImage{}))
	mux.Handle(ingotv1connect.NewWatchServiceHandler(w))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	env := map[string]string{"HOME": dir, "INGOT_API_URL": s.URL}
	if err := os.MkdirAll(filepath.Join(dir, ".config"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, out := io.Pipe()
	code := make(chan int, 1)
	var errs strings.Builder
	go func() {
		code <- cli.Main(ctx, cli.Options{
			Args: []string{"image", "list", "--watch", "-o", "table"}, In: strings.NewReader(""), Out: out, Err: &errs,
			Env: func(k string) string { return env[k] },
		})
		out.Close()
	}()
	lines := bufio.NewScanner(r)
	for _, want := range []string{"ID CLASSIFICATION FEATURES EXPIRES NAME", "a-1", "* b-1", "ID CLASSIFICATION FEATURES EXPIRES NAME", "a-1", "gone a-1"} {
		if !lines.Scan() {
			t.Fatalf("no line, want %q; %s", want, errs.String())
		}
		if got := strings.Join(strings.Fields(lines.Text()), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	cancel()
	if c := <-code; c != 130 {
		t.Errorf("exit code %d, want 130", c)
	}
	if errs.Len() > 0 {
		t.Errorf("an interrupted watch complains: %s", errs.String())
	}
}

// change is a revision in which an image changed, or is gone if m is nil.
func change(t *testing.T, revision int64, m proto.Message, id string) *ingotv1.Change {
	t.Helper()
	r := &ingotv1.ResourceChange{Type: "metalstack.api.v2.Image", Id: id}
	if m != nil {
		var err error
		if r.Resource, err = anypb.New(m); err != nil {
			t.Fatal(err)
		}
	}
	return &ingotv1.Change{Revision: revision, Resources: []*ingotv1.ResourceChange{r}}
}

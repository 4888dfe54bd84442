package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/cli"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// hall serves consoles: who reads as operator and follows sees some and waits,
// others see the end.
type hall struct {
	ingotv1connect.UnimplementedConsoleServiceHandler
	tail  chan uint32
	keys  chan string
	taken chan struct{} // closed when somebody takes the pen
	stop  func()        // breaks all connections
}

func (h hall) ReadAny(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceReadAnyRequest], s *connect.ServerStream[ingotv1.ConsoleServiceReadAnyResponse]) error {
	h.tail <- req.Msg.GetTail()
	for _, m := range []*ingotv1.ConsoleServiceReadAnyResponse{
		{}, {Data: []byte("\x1b[2J\x1b[1;1HBdsDxe: \x1b]0;title\x07loading\r\npa")}, {Lost: 5, Data: []byte("nic\x1b[6n\r\n")}, {Notice: "bmc b1: closed the console"},
	} {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	if req.Msg.GetWrite() {
		if err := s.Send(&ingotv1.ConsoleServiceReadAnyResponse{Pen: "p3n"}); err != nil {
			return err
		}
		select {
		case <-h.taken:
			if err := s.Send(&ingotv1.ConsoleServiceReadAnyResponse{PenLost: true, Notice: "user bob writes now"}); err != nil {
				return err
			}
		case <-ctx.Done():
		}
	}
	if req.Msg.GetFollow() {
		<-ctx.Done()
	}
	return nil
}

func (h hall) WriteAny(_ context.Context, req *connect.Request[ingotv1.ConsoleServiceWriteAnyRequest]) (*connect.Response[ingotv1.ConsoleServiceWriteAnyResponse], error) {
	if req.Msg.GetPen() != "p3n" {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("wrong pen"))
	}
	if strings.Contains(string(req.Msg.GetKeys()), "jam") {
		return nil, connect.NewError(connect.CodeAborted, errors.New("the BMC does not take it"))
	}
	h.keys <- string(req.Msg.GetKeys())
	return connect.NewResponse(&ingotv1.ConsoleServiceWriteAnyResponse{}), nil
}

func (h hall) Read(_ context.Context, req *connect.Request[ingotv1.ConsoleServiceReadRequest], _ *connect.ServerStream[ingotv1.ConsoleServiceReadResponse]) error {
	h.tail <- req.Msg.GetTail()
	if req.Msg.GetTail() == 7 {
		return connect.NewError(connect.CodeFailedPrecondition, fault.New(fault.Precondition, "machine m", "has no serial console that can be read now", "try again"))
	}
	return nil
}

func newHall(t *testing.T) (h hall, env func(string) string) {
	t.Helper()
	h = hall{tail: make(chan uint32, 10), keys: make(chan string, 100), taken: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewConsoleServiceHandler(h))
	s := httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	h.stop = s.CloseClientConnections
	vars := map[string]string{"HOME": t.TempDir(), "INGOT_API_URL": s.URL, "INGOT_TOKEN": "t"}
	return h, func(k string) string { return vars[k] }
}

const m, p = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f02"

func TestConsole(t *testing.T) {
	h, env := newHall(t)
	run := func(ctx context.Context, out io.Writer, args ...string) (int, string) {
		var errs bytes.Buffer
		code := cli.Main(ctx, cli.Options{
			Args: append([]string{"machine", "console"}, args...), In: strings.NewReader(""), Out: out, Err: &errs, Env: env,
		})
		return code, errs.String()
	}
	for _, c := range []struct {
		args      []string
		code      int
		tail      uint32
		out, errs string
	}{
		{[]string{m, "--admin"}, 0, 16384, "BdsDxe: loading\npanic\n", "\ningot: 5 bytes are missing here: they came too fast\n\ningot: bmc b1: closed the console\n"},
		{[]string{m, "--project", p, "--tail", "9"}, 0, 9, "", "ingot: the console has shown nothing yet; --follow waits for more\n"},
		{[]string{m, "--project", p, "--tail", "7"}, 5, 7, "", "ingot: machine m: has no serial console that can be read now; try again\n"},
	} {
		var out bytes.Buffer
		code, errs := run(t.Context(), &out, c.args...)
		if tail := <-h.tail; code != c.code || tail != c.tail || out.String() != c.out || errs != c.errs {
			t.Errorf("%v: exit code %d, tail %d, %q, %q", c.args, code, tail, out.String(), errs)
		}
	}
	var out bytes.Buffer
	if code, errs := run(t.Context(), &out, m, "--admin", "-o", "json"); code != 0 || !strings.Contains(out.String(), `"notice"`) {
		t.Errorf("as JSON: exit code %d, %q, %q", code, out.String(), errs)
	}
	<-h.tail

	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		c, errs := run(ctx, w, m, "--admin", "--follow")
		if strings.Contains(errs, "canceled") {
			t.Errorf("interrupted: %q", errs)
		}
		code <- c
		w.Close()
	}()
	seen := make([]byte, len("BdsDxe: loading\npanic\n"))
	if _, err := io.ReadFull(r, seen); err != nil || string(seen) != "BdsDxe: loading\npanic\n" {
		t.Errorf("%q, %v", seen, err)
	}
	cancel()
	if c := <-code; c != 130 {
		t.Errorf("exit code %d, want 130", c)
	}
}

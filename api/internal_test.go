package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

func TestWire(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{fault.New(fault.NotFound, "ip 10.0.0.1", "not found", "look elsewhere"), connect.CodeNotFound, "ip 10.0.0.1: not found; look elsewhere"},
		{fmt.Errorf("while trying: %w", fault.New(fault.Exhausted, "", "no machine available", "")), connect.CodeResourceExhausted, "while trying: no machine available"},
		{fault.New(fault.Conflict, "", "stale", ""), connect.CodeAborted, "stale"},
		{fault.Wrap(fault.Unavailable, "store", "no answer", store.ErrUnknown), connect.CodeUnknown, "the outcome is not known; look whether the change has happened before trying again"},
		{errors.New("secret detail"), connect.CodeInternal, "internal error; the server's log says more"},
		{fault.New(fault.Internal, "key", "secret detail", ""), connect.CodeInternal, "internal error; the server's log says more"},
		{context.Canceled, connect.CodeCanceled, "context canceled"},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), connect.CodeDeadlineExceeded, "context deadline exceeded"},
		{connect.NewError(connect.CodeOutOfRange, errors.New("gone")), connect.CodeOutOfRange, "gone"},
	} {
		if e := wire(tt.err); e.Code() != tt.code || e.Message() != tt.text {
			t.Errorf("%v: %v %q, want %v %q", tt.err, e.Code(), e.Message(), tt.code, tt.text)
		}
	}
	for k := fault.Internal; k <= fault.Unimplemented; k++ {
		if codes[k] == 0 {
			t.Errorf("%v has no code", k)
		}
	}
}

// A panic ends its call with an error, and nothing else.
func TestPanic(t *testing.T) {
	reg := prometheus.NewRegistry()
	i := &interceptor{Server: &Server{log: slog.New(slog.NewTextHandler(io.Discard, nil)), metrics: newMetrics(reg)}}
	m := access.MethodOf("/metalstack.api.v2.VersionService/Get")
	ctx := context.WithValue(t.Context(), callKey{}, &call{method: m})
	err := asError(i.finish(ctx, callOf(ctx), false, i.recovered(ctx, "broken invariant", nil)))
	if connect.CodeOf(err) != connect.CodeInternal {
		t.Error(err)
	}
	counted, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range counted {
		if n := m.GetMetric()[0].GetCounter().GetValue(); m.GetName() == "ingot_api_panics_total" && n != 1 {
			t.Errorf("%v panics counted", n)
		}
	}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // a sentinel, compared as net/http does
			t.Errorf("net/http's own panic became %v", p)
		}
	}()
	_ = i.recovered(ctx, http.ErrAbortHandler, nil)
}

func TestFilter(t *testing.T) {
	f := newFilter[*apiv2.ProjectQuery, *apiv2.Project](nil)
	p := &apiv2.Project{Uuid: "u", Name: "n", Tenant: "t", Meta: &apiv2.Meta{Labels: &apiv2.Labels{Labels: map[string]string{"a": "1", "b": "2"}}}}
	label := func(k, v string) *apiv2.Labels { return &apiv2.Labels{Labels: map[string]string{k: v}} }
	for _, tt := range []struct {
		q    *apiv2.ProjectQuery
		want bool
	}{
		{nil, true},
		{&apiv2.ProjectQuery{}, true},
		{&apiv2.ProjectQuery{Name: new("n")}, true},
		{&apiv2.ProjectQuery{Name: new("")}, false},
		{&apiv2.ProjectQuery{Name: new("n"), Tenant: new("other")}, false},
		{&apiv2.ProjectQuery{Labels: label("a", "1")}, true},
		{&apiv2.ProjectQuery{Labels: label("a", "2")}, false},
		{&apiv2.ProjectQuery{Labels: label("c", "")}, false},
	} {
		if got := f.match(tt.q, p); got != tt.want {
			t.Errorf("%v: %v", tt.q, got)
		}
	}
	if f.match(&apiv2.ProjectQuery{Labels: label("a", "1")}, &apiv2.Project{}) {
		t.Error("labels matched where there are none")
	}

	own := newFilter(map[protoName]func(*apiv2.TenantQuery, *apiv2.Tenant) bool{
		"paging": nil,
		"name":   func(q *apiv2.TenantQuery, t *apiv2.Tenant) bool { return q.GetName() == t.GetLogin() },
	})
	if !own.match(&apiv2.TenantQuery{Name: new("l"), Paging: &apiv2.Paging{}}, &apiv2.Tenant{Login: "l"}) {
		t.Error("a field's own function was not asked")
	}
	defer func() {
		if recover() == nil {
			t.Error("a query that does not fit its message was accepted")
		}
	}()
	newFilter[*apiv2.TenantQuery, *apiv2.Tenant](nil)
}

// FuzzVisit reads user names that anybody may send.
func FuzzVisit(f *testing.F) {
	const id = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
	for _, s := range []string{id, id + "+read", id + "+take", id + "+", id + "+read+take", "urn:uuid:" + id, strings.ToUpper(id), "{" + id + "}", "root", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, user string) {
		v, ok := parseVisit(user)
		if !ok {
			return
		}
		again := v.machine
		if v.readOnly {
			again += "+read"
		}
		if v.take {
			again += "+take"
		}
		if again != user || len(v.machine) != len(id) {
			t.Errorf("%q is read as %+v", user, v)
		}
	})
}

// TestGuests opens connections from few and from many addresses.
func TestGuests(t *testing.T) {
	now := time.Unix(1700000000, 0)
	g := guests{from: map[string]*guest{}}
	from := func(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }
	var leave []func()
	for i := range maxFrom {
		l, ok := g.enter(from(fmt.Sprintf("[2001:db8::%x]:1000", i)), now) // all of one /64
		if !ok {
			t.Fatalf("connection %d is refused", i+1)
		}
		leave = append(leave, l)
	}
	if _, ok := g.enter(from("[2001:db8::ffff]:1"), now); ok {
		t.Error("one /64 has more connections than it may")
	}
	for _, l := range leave {
		l()
	}
	if _, ok := g.enter(from("[2001:db8::1]:1"), now); ok {
		t.Error("connections come as fast as they go")
	}
	now = now.Add(time.Second)
	if l, ok := g.enter(from("[2001:db8::1]:1"), now); !ok {
		t.Error("a connection a second is refused")
	} else {
		l()
	}
	if _, ok := g.enter(from("[2001:db8::1]:1"), now); ok {
		t.Error("more than one connection a second")
	}

	// Many come once and are forgotten; no more than maxGuests stay.
	for i := range 20 * maxGuests {
		now = now.Add(100 * time.Millisecond)
		l, ok := g.enter(from(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&0xff)), now)
		if !ok {
			t.Fatalf("address %d is refused", i+1)
		}
		l()
	}
	if len(g.from) > 16*maxGuests {
		t.Errorf("%d addresses are remembered", len(g.from))
	}
	now = now.Add(time.Hour)
	for i := range maxGuests {
		if _, ok := g.enter(from(fmt.Sprintf("10.1.%d.%d:1", i>>8, i&0xff)), now); !ok {
			t.Fatalf("guest %d is refused", i+1)
		}
	}
	if _, ok := g.enter(from("192.0.2.1:1"), now); ok {
		t.Error("there are too many guests")
	}
}

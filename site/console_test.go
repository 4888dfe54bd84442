package site_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/site"
)

// desk is a control plane where consoles are read.
type desk struct {
	ingotv1connect.UnimplementedConsoleServiceHandler

	mu       sync.Mutex
	readings map[string]string // ids by machine
	moved    chan struct{}
	sent     map[string][]*ingotv1.ConsoleServiceSendRequest
	lose     int // answers that get lost
	calls    int
	written  bool                                     // somebody writes
	keys     chan *ingotv1.ConsoleServiceKeysResponse // for the site
	outcomes chan *ingotv1.ConsoleServiceTypedRequest
}

func newDesk(t *testing.T) (*desk, ingotv1connect.ConsoleServiceClient) {
	t.Helper()
	d := &desk{readings: map[string]string{}, moved: make(chan struct{}), sent: map[string][]*ingotv1.ConsoleServiceSendRequest{}}
	d.keys, d.outcomes = make(chan *ingotv1.ConsoleServiceKeysResponse), make(chan *ingotv1.ConsoleServiceTypedRequest, 1)
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewConsoleServiceHandler(d))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return d, ingotv1connect.NewConsoleServiceClient(s.Client(), s.URL)
}

func (d *desk) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.moved)
	d.moved = make(chan struct{})
}

// read has a console read under an id; an empty one ends it.
func (d *desk) read(machine, id string) {
	d.change(func() {
		delete(d.readings, machine)
		if id != "" {
			d.readings[machine] = id
		}
	})
}

func (d *desk) Wanted(ctx context.Context, _ *connect.Request[ingotv1.ConsoleServiceWantedRequest], s *connect.ServerStream[ingotv1.ConsoleServiceWantedResponse]) error {
	for {
		d.mu.Lock()
		var all []*ingotv1.ConsoleReading
		for m, id := range d.readings {
			all = append(all, &ingotv1.ConsoleReading{Uuid: m, Id: id, Written: d.written})
		}
		moved := d.moved
		d.mu.Unlock()
		if err := s.Send(&ingotv1.ConsoleServiceWantedResponse{Readings: all}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

func (d *desk) Send(_ context.Context, r *connect.Request[ingotv1.ConsoleServiceSendRequest]) (*connect.Response[ingotv1.ConsoleServiceSendResponse], error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.readings[r.Msg.GetUuid()] != r.Msg.GetReading() {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("reading %s is over", r.Msg.GetReading()))
	}
	d.sent[r.Msg.GetReading()] = append(d.sent[r.Msg.GetReading()], r.Msg)
	if d.lose > 0 {
		d.lose--
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("lost"))
	}
	return connect.NewResponse(&ingotv1.ConsoleServiceSendResponse{}), nil
}

func (d *desk) Keys(ctx context.Context, _ *connect.Request[ingotv1.ConsoleServiceKeysRequest], s *connect.ServerStream[ingotv1.ConsoleServiceKeysResponse]) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case k := <-d.keys:
			if k == nil { // the connection breaks
				return connect.NewError(connect.CodeUnavailable, fmt.Errorf("broken"))
			}
			if err := s.Send(k); err != nil {
				return err
			}
		}
	}
}

func (d *desk) Typed(_ context.Context, r *connect.Request[ingotv1.ConsoleServiceTypedRequest]) (*connect.Response[ingotv1.ConsoleServiceTypedResponse], error) {
	d.outcomes <- r.Msg
	return connect.NewResponse(&ingotv1.ConsoleServiceTypedResponse{}), nil
}

// types hands keys to the site and returns what became of them.
func (d *desk) types(t *testing.T, number uint64, keys string, allocation *string) *ingotv1.ConsoleServiceTypedRequest {
	t.Helper()
	until := time.After(30 * time.Second)
	select {
	case d.keys <- &ingotv1.ConsoleServiceKeysResponse{Number: number, Keys: []byte(keys), Allocation: allocation}:
	case <-until:
		t.Fatal("the site does not ask for keys")
	}
	select {
	case o := <-d.outcomes:
		if o.GetNumber() != number || o.GetUuid() != uuid || o.GetPartition() != partition {
			t.Fatalf("outcome %v of keys %d", o, number)
		}
		return o
	case <-until:
		t.Fatal("the site does not say what became of keys")
		return nil
	}
}

// keys is the serial port of a server: it keeps what is typed.
type keys struct {
	mu   sync.Mutex
	text string
}

func (k *keys) dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	go func() { // ends when the BMC closes its end
		for buf := make([]byte, 100); ; {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			k.mu.Lock()
			k.text += string(buf[:n])
			k.mu.Unlock()
		}
	}()
	return near, nil
}

// are waits until exactly this was typed.
func (k *keys) are(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		text := k.text
		k.mu.Unlock()
		if text == want {
			return
		}
		if len(text) > len(want) || time.Now().After(deadline) {
			t.Fatalf("typed %q, want %q", text, want)
		}
	}
}

// got returns what came for a reading, by allocation: [a]text; and the newest
// message.
func (d *desk) got(reading string) (string, *ingotv1.ConsoleServiceSendRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	var at uint64
	var owner string
	var last *ingotv1.ConsoleServiceSendRequest
	for _, s := range d.sent[reading] {
		if last = s; len(s.GetData()) == 0 || s.GetOffset() < at {
			continue // a repetition
		}
		if s.GetOffset() > at && at > 0 {
			b.WriteString("[gap]")
		}
		if at = s.GetOffset() + uint64(len(s.GetData())); s.GetAllocation() != owner {
			owner = s.GetAllocation()
			fmt.Fprintf(&b, "[%s]", owner)
		}
		b.Write(s.GetData())
	}
	return b.String(), last
}

// eventually waits until a reading has come to what is wanted.
func (d *desk) eventually(t *testing.T, reading, what string, holds func(text string, last *ingotv1.ConsoleServiceSendRequest) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text, last := d.got(reading)
		if holds(text, last) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s; %q, %v %q", what, text, last.GetState(), last.GetError())
		}
	}
}

func (d *desk) shows(t *testing.T, reading, want string) {
	t.Helper()
	d.eventually(t, reading, want, func(text string, last *ingotv1.ConsoleServiceSendRequest) bool {
		return text == want && last.GetNewest()
	})
}

// is waits for a state.
func (d *desk) is(t *testing.T, reading string, state ingotv1.ConsoleState, why string) {
	t.Helper()
	d.eventually(t, reading, state.String()+" "+why, func(_ string, last *ingotv1.ConsoleServiceSendRequest) bool {
		return last.GetState() == state && strings.Contains(last.GetError(), why)
	})
}

const (
	isOpen        = ingotv1.ConsoleState_CONSOLE_STATE_OPEN
	isClosed      = ingotv1.ConsoleState_CONSOLE_STATE_CLOSED
	isUnsupported = ingotv1.ConsoleState_CONSOLE_STATE_UNSUPPORTED
)

// prints has a server print on its serial console.
func (s server) prints(t *testing.T, text string) {
	t.Helper()
	f, err := os.OpenFile(s.serial, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func startConsoles(t *testing.T, keep int) (*control, *desk, func()) {
	t.Helper()
	c, api := newControl(t)
	d, consoles := newDesk(t)
	stop := start(t, api, site.NewConsoles(site.ConsolesConfig{Partition: partition, API: consoles, Keep: keep, Retry: 5 * time.Millisecond, Log: quiet}))
	return c, d, stop
}

// The console is listened to before anybody reads it, and what it showed says
// under which allocation.
func TestConsole(t *testing.T) {
	c, d, _ := startConsoles(t, 0)
	s := newServer(t, "b1")
	s.want.Machine = uuid
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "probe") // tells when the console is open
	d.is(t, "probe", isOpen, "")
	d.read(uuid, "")
	s.prints(t, "firmware\r\n")
	d.read(uuid, "one")
	d.shows(t, "one", "firmware\r\n")
	d.mu.Lock()
	d.lose = 2
	d.mu.Unlock()
	s.prints(t, "more\r\n")
	d.shows(t, "one", "firmware\r\nmore\r\n")
	allocate := func(a string) {
		c.want(func(w *ingotv1.SiteWanted) { w.Bmcs[0].Allocation = a })
	}
	allocate("a1")
	// That the label has arrived shows only by what is printed after it.
	d.eventually(t, "one", "a label", func(text string, _ *ingotv1.ConsoleServiceSendRequest) bool {
		s.prints(t, ".")
		return strings.Contains(text, "[a1].")
	})
	allocate("a2")
	d.eventually(t, "one", "another label", func(text string, _ *ingotv1.ConsoleServiceSendRequest) bool {
		s.prints(t, ".")
		return strings.Contains(text, "[a2].")
	})
	// Whoever reads later gets the same, from the beginning.
	d.read(uuid, "two")
	d.eventually(t, "two", "everything", func(text string, last *ingotv1.ConsoleServiceSendRequest) bool {
		return strings.HasPrefix(text, "firmware\r\nmore\r\n") && strings.Contains(text, "[a1].") && strings.Contains(text, "[a2].") && last.GetNewest()
	})
	// What nobody reads is not sent.
	d.read(uuid, "")
	for deadline, n := time.Now().Add(30*time.Second), -1; ; time.Sleep(100 * time.Millisecond) {
		d.mu.Lock()
		calls := d.calls
		d.mu.Unlock()
		if calls == n {
			break
		}
		if n = calls; time.Now().After(deadline) {
			t.Fatal("the console is still sent")
		}
		s.prints(t, "unread\r\n")
	}
	if strings.Contains(fmt.Sprint(d.sent), "s3cret-word") {
		t.Error("the password was sent")
	}
}

// A machine that prints much costs no more memory, and its last words are kept.
func TestConsoleKeepsTheEnd(t *testing.T) {
	c, d, _ := startConsoles(t, 10_000)
	s := newServer(t, "b1")
	s.want.Machine = uuid
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "probe")
	d.is(t, "probe", isOpen, "")
	d.read(uuid, "")
	s.prints(t, strings.Repeat("noise\r\n", 20_000)+"last words")
	for i := 0; ; i++ { // until all of it has been heard
		id := fmt.Sprint("look", i)
		d.read(uuid, id)
		var text string
		d.eventually(t, id, "the newest", func(now string, last *ingotv1.ConsoleServiceSendRequest) bool {
			text = now
			return last.GetNewest()
		})
		if len(text) > 10_000 {
			t.Fatalf("%d bytes are kept", len(text))
		}
		if strings.HasSuffix(text, "last words") {
			break
		}
	}
}

// A BMC that goes away is opened again; one that is another is not.
func TestConsoleProblems(t *testing.T) {
	c, d, _ := startConsoles(t, 0)
	c.want(func(*ingotv1.SiteWanted) {})
	d.read(uuid, "one")
	d.is(t, "one", isUnsupported, "ingot bmc create")

	s := newServer(t, "b1")
	s.want.Machine, s.want.Password = uuid, "wr0ng-word"
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "two")
	d.eventually(t, "two", "the refusal", func(_ string, last *ingotv1.ConsoleServiceSendRequest) bool {
		return last.GetState() == isClosed && strings.Contains(last.GetError(), "password") || last.GetState() == isUnsupported
	})
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs[0].Password = "s3cret-word" })
	d.read(uuid, "three")
	d.is(t, "three", isOpen, "")
	s.prints(t, "one\r\n")
	d.shows(t, "three", "one\r\n")
	s.stop()
	d.is(t, "three", isClosed, "")
	mute := newServerOn(t, "b2", "")
	mute.want.Machine = uuid
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{mute.want} })
	d.is(t, "three", isUnsupported, "no serial console over SSH")

	other := newServer(t, "b3")
	other.want.Machine = "00000000-0000-4000-8000-000000000001"
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{other.want} })
	// The reading of the machine that is gone keeps what it had.
	d.eventually(t, "four", "the other machine", func(_ string, last *ingotv1.ConsoleServiceSendRequest) bool {
		d.read(other.want.GetMachine(), "four")
		return strings.Contains(last.GetError(), "is in machine "+uuid)
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, all := range d.sent {
		for _, r := range all {
			if bytes.Contains([]byte(r.String()), []byte("-word")) {
				t.Errorf("a password was sent: %v", r)
			}
		}
	}
}

// When the site ends, no session of its stays at a BMC.
func TestConsoleEnds(t *testing.T) {
	c, d, stop := startConsoles(t, 0)
	s := newServer(t, "b1")
	s.want.Machine = uuid
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "one")
	d.is(t, "one", isOpen, "")
	if n := s.bmc.Sessions(); n != 0 {
		t.Errorf("%d Redfish sessions are kept for a console", n)
	}
	stop()
}

// What is typed reaches the console, in order, once, and only while the machine
// is whose it must be.
func TestConsoleKeys(t *testing.T) {
	c, d, _ := startConsoles(t, 0)
	s := newServer(t, "b1")
	s.want.Machine = uuid
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "one")
	d.is(t, "one", isOpen, "")
	d.change(func() { d.written = true })
	const (
		typed    = ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED
		closed   = ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED
		notOwned = ingotv1.ConsoleKeys_CONSOLE_KEYS_NOT_OWNED
	)
	want, number := "", uint64(0)
	enter := func(keys string, allocation *string, outcome ingotv1.ConsoleKeys) {
		t.Helper()
		number++
		if o := d.types(t, number, keys, allocation); o.GetOutcome() != outcome {
			t.Errorf("%q: %v", keys, o)
		}
		if outcome == typed {
			want += keys
		}
	}
	enter("root\r", nil, typed)
	for i := range 20 {
		enter(fmt.Sprintf("line %d\r", i), nil, typed)
	}
	d.keys <- nil // the site asks again
	enter("\x03\x00after\r", nil, typed)
	mine, other := "a1", "a2"
	enter("of a tenant\r", &mine, notOwned)
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs[0].Allocation = mine })
	d.eventually(t, "one", "the label", func(text string, _ *ingotv1.ConsoleServiceSendRequest) bool {
		s.prints(t, ".")
		return strings.Contains(text, "[a1].")
	})
	enter("of a tenant\r", &mine, typed)
	enter("of another\r", &other, notOwned)
	s.typed.are(t, want)
	s.stop()
	d.is(t, "one", isClosed, "")
	enter("too late\r", nil, closed)
	s.typed.are(t, want)
}

// Where the console leads to the BMC's own command line, a tenant types nothing.
func TestConsoleShared(t *testing.T) {
	c, d, _ := startConsoles(t, 0)
	s := newServer(t, "b1")
	if err := s.bmc.SetQuirk(lab.SharesConsole, true); err != nil {
		t.Fatal(err)
	}
	mine := "a1"
	s.want.Machine, s.want.Allocation = uuid, mine
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	d.read(uuid, "one")
	d.is(t, "one", isOpen, "")
	d.change(func() { d.written = true })
	if o := d.types(t, 1, "tenant\r", &mine); o.GetOutcome() != ingotv1.ConsoleKeys_CONSOLE_KEYS_SHARED {
		t.Errorf("a tenant: %v", o)
	}
	if o := d.types(t, 2, "operator\r", nil); o.GetOutcome() != ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED {
		t.Errorf("an operator: %v", o)
	}
	s.typed.are(t, "operator\r")
}

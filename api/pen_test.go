package api_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/store"
)

// A typewriter is the end of a site where keys come out.
type typewriter struct {
	t     *testing.T
	ended chan error // how the stream ended

	mu     sync.Mutex
	answer func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys
	paper  bytes.Buffer // what was typed
}

// typewriter asks for the keys of a reading and types them until it is stopped.
func (s *consoleSite) typewriter(machine, reading string) *typewriter {
	s.t.Helper()
	y := &typewriter{t: s.t, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(s.t.Context())
	stream, err := s.client.Keys(ctx, connect.NewRequest(&ingotv1.ConsoleServiceKeysRequest{Partition: s.partition, Uuid: machine, Reading: reading}))
	check(s.t, err)
	go func() {
		defer close(y.ended)
		defer stream.Close()
		for stream.Receive() {
			k := stream.Msg()
			if k.GetNumber() == 0 { // a sign of life
				continue
			}
			y.mu.Lock()
			outcome := ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED
			if y.answer != nil {
				outcome = y.answer(k)
			}
			if outcome == ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED {
				y.paper.Write(k.GetKeys())
			}
			y.mu.Unlock()
			if outcome == 0 { // says nothing
				continue
			}
			if _, err := s.client.Typed(ctx, connect.NewRequest(&ingotv1.ConsoleServiceTypedRequest{
				Partition: s.partition, Uuid: machine, Reading: reading, Number: k.GetNumber(), Outcome: outcome, Error: "bmc 10.0.0.1: is away",
			})); err != nil && ctx.Err() == nil {
				s.t.Error(err)
			}
		}
		y.ended <- stream.Err()
	}()
	s.t.Cleanup(func() {
		cancel()
		for range y.ended { // until it has ended
		}
	})
	return y
}

// answers has the site say something else than that keys were typed.
func (y *typewriter) answers(f func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.answer = f
}

func (y *typewriter) typed(want string) {
	y.t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.paper.String() != want {
		y.t.Errorf("typed %q, want %q", y.paper.String(), want)
	}
}

// pen waits until the onlooker has one.
func (v *onlooker) hasPen() (pen string) {
	v.t.Helper()
	until(v.t, "a pen", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		pen = v.pen
		return pen != "" || v.err != nil
	})
	if pen == "" {
		v.t.Fatalf("there is no pen: %v", v.err)
	}
	return pen
}

func (v *onlooker) losesPen() {
	v.t.Helper()
	until(v.t, "the loss of the pen", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.penLost
	})
}

// memberTypes types as a member of a project, an operatorTypes as an operator.
func (w *world) memberTypes(token, machine, project, pen, keys string) error {
	_, err := dial(w, ingotv1connect.NewConsoleServiceClient, token).Write(w.t.Context(), connect.NewRequest(&ingotv1.ConsoleServiceWriteRequest{
		Uuid: machine, Project: project, Pen: pen, Keys: []byte(keys),
	}))
	return err
}

func (w *world) operatorTypes(machine, pen, keys string) error {
	_, err := dial(w, ingotv1connect.NewConsoleServiceClient, w.admin).WriteAny(w.t.Context(), connect.NewRequest(&ingotv1.ConsoleServiceWriteAnyRequest{
		Uuid: machine, Pen: pen, Keys: []byte(keys),
	}))
	return err
}

// written waits until the site is asked to type, or no longer is.
func (s *consoleSite) isWritten(machine string, want bool) {
	s.t.Helper()
	until(s.t, "that somebody writes, or no longer", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.written[machine] == want
	})
}

// Many read and one writes: what is typed arrives once and in order, the pen
// can be taken, and who has not got it types nothing.
func TestConsolePen(t *testing.T) {
	w := newWorld(t)
	p, other := w.project(w.tenant("t1")), w.project(w.tenant("t2"))
	alice, bob, mallory := w.member(p, owner), w.member(p, apiv2.ProjectRole_PROJECT_ROLE_EDITOR), w.member(other, owner)
	m, a := w.machineWithBMC("p1", p)
	s := w.consoleSite(t, "p1")
	write := func(take bool) *ingotv1.ConsoleServiceReadRequest {
		return &ingotv1.ConsoleServiceReadRequest{Uuid: m, Project: p, Tail: 1000, Follow: true, Write: true, Take: take}
	}

	reader := w.memberReads(t, bob, m, p, 1000, true)
	r := s.reading(m)
	s.isWritten(m, false)
	one := w.memberLooks(t, alice, write(false))
	s.isWritten(m, true)
	y := s.typewriter(m, r)
	check(t, s.send(s.open(m, r, 0, "login: ", a)))
	pen := one.hasPen()
	check(t, w.memberTypes(alice, m, p, pen, "root\r"))
	check(t, w.memberTypes(alice, m, p, pen, "s3cret-word\r"))
	y.typed("root\rs3cret-word\r")
	check(t, s.send(s.open(m, r, 7, "# ", a)))
	reader.sees("login: # ")
	one.sees("login: # ")

	// Neither a guess nor somebody else's pen types anything.
	wantCode(t, w.memberTypes(alice, m, p, "guess", "x"), connect.CodeFailedPrecondition, "")
	wantCode(t, w.memberTypes(bob, m, p, pen, "x"), connect.CodeFailedPrecondition, "")
	wantCode(t, w.operatorTypes(m, pen, "x"), connect.CodeFailedPrecondition, "")
	wantCode(t, w.memberTypes(mallory, m, other, pen, "x"), connect.CodeNotFound, "machine "+m+": not found")
	wantCode(t, w.memberTypes(mallory, m, p, pen, "x"), connect.CodePermissionDenied, "")
	wantCode(t, w.memberTypes(w.member(p, apiv2.ProjectRole_PROJECT_ROLE_VIEWER), m, p, pen, "x"), connect.CodePermissionDenied, "")
	wantCode(t, w.memberLooks(t, mallory, &ingotv1.ConsoleServiceReadRequest{Uuid: m, Project: other, Follow: true, Write: true, Take: true}).end(), connect.CodeNotFound, "")
	noFollow := write(true)
	noFollow.Follow = false
	wantCode(t, w.memberLooks(t, alice, noFollow).end(), connect.CodeInvalidArgument, "")

	// A second writer learns who writes, and takes over.
	err := w.memberLooks(t, bob, write(false)).end()
	wantCode(t, err, connect.CodeAborted, "")
	if user := "user-"; err != nil && (!strings.Contains(err.Error(), user) || !strings.Contains(err.Error(), "--take")) {
		t.Errorf("a second writer is told %v", err)
	}
	two := w.memberLooks(t, bob, write(true))
	second := two.hasPen()
	one.losesPen()
	one.notice("writes now; you still read")
	wantCode(t, w.memberTypes(alice, m, p, pen, "x"), connect.CodeFailedPrecondition, "")
	check(t, w.memberTypes(bob, m, p, second, "b"))
	check(t, s.send(s.open(m, r, 9, "b", a)))
	one.sees("login: # b")

	// An operator does, too; which one is none of the members' business.
	operator := w.operatorLooks(t, &ingotv1.ConsoleServiceReadAnyRequest{Uuid: m, Follow: true, Write: true, Take: true})
	third := operator.hasPen()
	two.notice("an operator writes now")
	y.answers(func(k *ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys {
		if k.Allocation != nil {
			t.Errorf("an operator's keys are for allocation %q", k.GetAllocation())
		}
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED
	})
	check(t, w.operatorTypes(m, third, "o"))
	y.typed("root\rs3cret-word\rbo")

	// Who leaves gives the pen back.
	operator.cancel()
	s.isWritten(m, false)
	y.answers(nil)
	w.memberLooks(t, alice, write(false)).hasPen()
}

// The pen ends with the allocation and with the right to it.
func TestConsolePenEnds(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	user := w.tenant("user")
	w.addMember(p, user, apiv2.ProjectRole_PROJECT_ROLE_EDITOR)
	token := w.token(user, &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{p: apiv2.ProjectRole_PROJECT_ROLE_EDITOR}})
	m, a := w.machineWithBMC("p1", p)
	s := w.consoleSite(t, "p1")
	operator := w.operatorReads(t, m, 1000, true)
	r := s.reading(m)
	y := s.typewriter(m, r)
	write := &ingotv1.ConsoleServiceReadRequest{Uuid: m, Project: p, Follow: true, Write: true}
	v := w.memberLooks(t, token, write)
	check(t, s.send(s.open(m, r, 0, "x", a)))
	operator.sees("x")
	pen := v.hasPen()
	check(t, w.memberTypes(token, m, p, pen, "a"))

	// The machine goes and comes back: what was of the old allocation is void at
	// once, although the stream has not ended yet.
	w.allocate(m, "")
	wantCode(t, w.memberTypes(token, m, p, pen, "x"), connect.CodeNotFound, "machine "+m+": not found")
	w.allocate(m, p)
	if code := connect.CodeOf(w.memberTypes(token, m, p, pen, "x")); code != connect.CodeNotFound && code != connect.CodeFailedPrecondition {
		t.Errorf("with the pen of another allocation: %v", code)
	}
	wantCode(t, v.end(), connect.CodeNotFound, "")
	s.isWritten(m, false)

	v = w.memberLooks(t, token, write)
	pen = v.hasPen()
	_, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).RemoveMember(t.Context(), &apiv2.ProjectServiceRemoveMemberRequest{Project: p, Member: user})
	check(t, err)
	wantCode(t, w.memberTypes(token, m, p, pen, "x"), connect.CodePermissionDenied, "")
	wantCode(t, v.end(), connect.CodePermissionDenied, "")
	s.isWritten(m, false)
	y.typed("a")
}

// Who types learns what the site made of it; the words of BMCs are for
// operators. What is in flight when the site goes away is typed once or not,
// and the writer is told that nobody knows.
func TestConsoleKeysOutcomes(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	token := w.member(p, owner)
	m, a := w.machineWithBMC("p1", p)
	s := w.consoleSite(t, "p1")
	v := w.memberLooks(t, token, &ingotv1.ConsoleServiceReadRequest{Uuid: m, Project: p, Follow: true, Write: true})
	r := s.reading(m)
	y := s.typewriter(m, r)
	check(t, s.send(s.open(m, r, 0, "x", a)))
	pen := v.hasPen()
	for outcome, want := range map[ingotv1.ConsoleKeys]struct {
		code connect.Code
		text string
	}{
		ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED:    {connect.CodeFailedPrecondition, "machine " + m + ": nothing was typed: its console is not open; try again"},
		ingotv1.ConsoleKeys_CONSOLE_KEYS_NOT_OWNED: {connect.CodeFailedPrecondition, "machine " + m + ": nothing was typed: its management server does not know that it is the project's; try again"},
		ingotv1.ConsoleKeys_CONSOLE_KEYS_SHARED:    {connect.CodeFailedPrecondition, "machine " + m + ": nothing was typed: its console leads to the BMC's own command line, where only operators may type; ask an operator"},
		ingotv1.ConsoleKeys_CONSOLE_KEYS_STUCK:     {connect.CodeAborted, "machine " + m + ": some of it may not have been typed: the BMC does not take it; look at what the console shows"},
	} {
		y.answers(func(k *ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys {
			if k.GetAllocation() != a {
				t.Errorf("a member's keys are for allocation %q", k.GetAllocation())
			}
			return outcome
		})
		wantCode(t, w.memberTypes(token, m, p, pen, "x"), want.code, want.text)
	}

	// The site goes away with keys that it was given, and comes back.
	given := make(chan struct{})
	y.answers(func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys { close(given); return 0 })
	lost := make(chan error, 1)
	go func() { lost <- w.memberTypes(token, m, p, pen, "lost") }()
	<-given
	again := s.typewriter(m, r)
	wantCode(t, <-lost, connect.CodeAborted, "machine "+m+": it is not known whether all of it was typed: the management server has gone away; look at what the console shows")
	if err := <-y.ended; connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("the stream before the last ended with %v", err)
	}
	check(t, w.memberTypes(token, m, p, pen, "after"))
	again.typed("after")

	operator := w.operatorLooks(t, &ingotv1.ConsoleServiceReadAnyRequest{Uuid: m, Follow: true, Write: true, Take: true})
	again.answers(func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys {
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED
	})
	wantCode(t, w.operatorTypes(m, operator.hasPen(), "x"), connect.CodeFailedPrecondition, "machine "+m+": nothing was typed: its console is not open: bmc 10.0.0.1: is away; try again")

	// Others ask in vain.
	wantCode(t, firstOf(dial(w, ingotv1connect.NewConsoleServiceClient, w.admin), s.partition, m, r), connect.CodePermissionDenied, "")
	elsewhere := w.consoleSite(t, "p2")
	wantCode(t, firstOf(elsewhere.client, "p1", m, r), connect.CodePermissionDenied, "")
	wantCode(t, firstOf(elsewhere.client, "p2", m, r), connect.CodeNotFound, "")
}

// firstOf asks for keys and returns why there are none.
func firstOf(c ingotv1connect.ConsoleServiceClient, partition, machine, reading string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := c.Keys(ctx, connect.NewRequest(&ingotv1.ConsoleServiceKeysRequest{Partition: partition, Uuid: machine, Reading: reading}))
	if err != nil {
		return err
	}
	defer s.Close()
	s.Receive()
	return s.Err()
}

// TestConsoleKeysOverHTTP1 types like a browser or a proxy that knows no HTTP/2,
// and looks for what was typed in the log and in the store.
func TestConsoleKeysOverHTTP1(t *testing.T) {
	var log lockedBuffer
	w := newWorldOn(t, store.NewMem(), store.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	m, _ := w.machineWithBMC("p1", "")
	s := w.consoleSite(t, "p1")
	old := w.http.Transport.(*http.Transport).Clone()
	old.ForceAttemptHTTP2 = false
	old.TLSClientConfig.NextProtos = []string{"http/1.1"}
	c := ingotv1connect.NewConsoleServiceClient(&http.Client{Transport: bearer{w.admin, old}}, w.url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pens := make(chan string, 1)
	go func() {
		defer close(pens)
		stream, err := c.ReadAny(ctx, connect.NewRequest(&ingotv1.ConsoleServiceReadAnyRequest{Uuid: m, Follow: true, Write: true}))
		if err != nil {
			return
		}
		defer stream.Close()
		for stream.Receive() {
			if pen := stream.Msg().GetPen(); pen != "" {
				pens <- pen
			}
		}
	}()
	r := s.reading(m)
	y := s.typewriter(m, r)
	check(t, s.send(s.open(m, r, 0, "Password: ", "")))
	pen := <-pens
	for _, keys := range []string{"s3cret-word\r", strings.Repeat("s3cret-word", 372)} { // the second is just not too long
		if _, err := c.WriteAny(ctx, connect.NewRequest(&ingotv1.ConsoleServiceWriteAnyRequest{Uuid: m, Pen: pen, Keys: []byte(keys)})); err != nil {
			t.Error(err)
		}
	}
	_, err := c.WriteAny(ctx, connect.NewRequest(&ingotv1.ConsoleServiceWriteAnyRequest{Uuid: m, Pen: pen, Keys: []byte(strings.Repeat("s3cret-word", 400))}))
	wantCode(t, err, connect.CodeInvalidArgument, "")
	if err != nil && strings.Contains(err.Error(), "s3cret-word") {
		t.Error("what was typed is in an error")
	}
	y.answers(func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys {
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_STUCK
	})
	_, err = c.WriteAny(ctx, connect.NewRequest(&ingotv1.ConsoleServiceWriteAnyRequest{Uuid: m, Pen: pen, Keys: []byte("s3cret-word")}))
	wantCode(t, err, connect.CodeAborted, "")
	text := log.String()
	if !strings.Contains(text, "ConsoleService/WriteAny") {
		t.Error("the log does not show the calls: it proves nothing")
	}
	if strings.Contains(text, "s3cret") || strings.Contains(text, pen) {
		t.Error("what was typed, or the pen, is in the log")
	}
}

// A lockedBuffer is a buffer that many may write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

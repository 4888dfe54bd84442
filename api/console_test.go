package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// machineWithBMC makes a machine of a partition whose BMC a site knows, for a
// project if one is given, and returns its uuid and that of the allocation.
func (w *world) machineWithBMC(partition, project string) (id, allocation string) {
	w.t.Helper()
	id = uuid.NewString()
	w.partition(partition)
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		if err := records.Machines.Put(tx, &privatev1.Machine{Uuid: id, Partition: partition}); err != nil {
			return err
		}
		return records.MachineBMCs.Put(tx, &privatev1.MachineBMC{Uuid: id, Partition: partition, Bmc: "b1"})
	}))
	return id, w.allocate(id, project)
}

// allocate gives a machine to a project, or takes it from the one it has.
func (w *world) allocate(id, project string) (allocation string) {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		if project == "" {
			if _, ok := records.Allocations.Peek(tx, id); !ok {
				return nil
			}
			_, err := records.Allocations.Delete(tx, id)
			return err
		}
		allocation = uuid.NewString()
		return records.Allocations.Put(tx, &privatev1.Allocation{Machine: id, Allocation: &apiv2.MachineAllocation{Uuid: allocation, Project: project}})
	}))
	return allocation
}

// A consoleSite is a management server: it sends what the test has it send,
// for whatever is read.
type consoleSite struct {
	t         *testing.T
	partition string
	client    ingotv1connect.ConsoleServiceClient

	mu       sync.Mutex
	readings map[string]string // ids by machine
	written  map[string]bool   // somebody writes
	stop     func()
}

func (w *world) consoleSite(t *testing.T, partition string) *consoleSite {
	t.Helper()
	s := &consoleSite{
		t: t, partition: partition, readings: map[string]string{},
		client: dial(w, ingotv1connect.NewConsoleServiceClient, w.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition, "mgmt-"+partition)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := s.client.Wanted(ctx, connect.NewRequest(&ingotv1.ConsoleServiceWantedRequest{Partition: partition}))
	check(t, err)
	if !stream.Receive() { // it counts as connected from here on
		t.Fatal(stream.Err())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			now, written := map[string]string{}, map[string]bool{}
			for _, r := range stream.Msg().GetReadings() {
				now[r.GetUuid()], written[r.GetUuid()] = r.GetId(), r.GetWritten()
			}
			s.mu.Lock()
			s.readings, s.written = now, written
			s.mu.Unlock()
		}
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-ended; stream.Close() })
	t.Cleanup(s.stop)
	return s
}

// reading waits until a machine's console is read, and returns the id of that.
func (s *consoleSite) reading(machine string) (id string) {
	s.t.Helper()
	until(s.t, "a reading of "+machine, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		id = s.readings[machine]
		return id != ""
	})
	return id
}

// open is an open console with everything that the site has.
func (s *consoleSite) open(machine, reading string, offset int, data, allocation string) *ingotv1.ConsoleServiceSendRequest {
	return &ingotv1.ConsoleServiceSendRequest{
		Partition: s.partition, Uuid: machine, Reading: reading, Source: "s1", Offset: uint64(offset), Data: []byte(data), Allocation: allocation,
		Newest: true, State: ingotv1.ConsoleState_CONSOLE_STATE_OPEN,
	}
}

func (s *consoleSite) send(req *ingotv1.ConsoleServiceSendRequest) error {
	_, err := s.client.Send(s.t.Context(), connect.NewRequest(req))
	return err
}

// An onlooker is somebody who reads a console.
type onlooker struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	seen    bytes.Buffer
	lost    uint64
	notices []string
	pen     string
	penLost bool
	err     error
}

// A glance is a message of a console.
type glance interface {
	GetData() []byte
	GetLost() uint64
	GetNotice() string
	GetPen() string
	GetPenLost() bool
}

// take takes what a stream yields until it ends.
func (v *onlooker) take(receive func() bool, msg func() glance, end func() error) {
	for receive() {
		m := msg()
		v.mu.Lock()
		v.seen.Write(m.GetData())
		v.lost += m.GetLost()
		if m.GetNotice() != "" {
			v.notices = append(v.notices, m.GetNotice())
		}
		if m.GetPen() != "" {
			v.pen = m.GetPen()
		}
		v.penLost = v.penLost || m.GetPenLost()
		v.mu.Unlock()
	}
	v.mu.Lock()
	v.err = end()
	v.mu.Unlock()
	close(v.ended)
}

func (w *world) onlooker(t *testing.T) (*onlooker, context.Context) {
	ctx, cancel := context.WithCancel(t.Context())
	v := &onlooker{t: t, cancel: cancel, ended: make(chan struct{})}
	t.Cleanup(func() { cancel(); <-v.ended })
	return v, ctx
}

// member reads as a member of a project.
func (w *world) memberReads(t *testing.T, token, machine, project string, tail uint32, follow bool) *onlooker {
	t.Helper()
	return w.memberLooks(t, token, &ingotv1.ConsoleServiceReadRequest{Uuid: machine, Project: project, Tail: tail, Follow: follow})
}

func (w *world) memberLooks(t *testing.T, token string, req *ingotv1.ConsoleServiceReadRequest) *onlooker {
	t.Helper()
	v, ctx := w.onlooker(t)
	go func() {
		s, err := dial(w, ingotv1connect.NewConsoleServiceClient, token).Read(ctx, connect.NewRequest(req))
		if err != nil {
			v.err = err
			close(v.ended)
			return
		}
		v.take(s.Receive, func() glance { return s.Msg() }, s.Err)
		s.Close()
	}()
	return v
}

// operatorReads reads as an operator.
func (w *world) operatorReads(t *testing.T, machine string, tail uint32, follow bool) *onlooker {
	t.Helper()
	return w.operatorLooks(t, &ingotv1.ConsoleServiceReadAnyRequest{Uuid: machine, Tail: tail, Follow: follow})
}

func (w *world) operatorLooks(t *testing.T, req *ingotv1.ConsoleServiceReadAnyRequest) *onlooker {
	t.Helper()
	v, ctx := w.onlooker(t)
	go func() {
		s, err := dial(w, ingotv1connect.NewConsoleServiceClient, w.admin).ReadAny(ctx, connect.NewRequest(req))
		if err != nil {
			v.err = err
			close(v.ended)
			return
		}
		v.take(s.Receive, func() glance { return s.Msg() }, s.Err)
		s.Close()
	}()
	return v
}

// sees waits until the onlooker has seen exactly what is wanted.
func (v *onlooker) sees(want string) {
	v.t.Helper()
	until(v.t, fmt.Sprintf("seeing %q", want), func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.seen.Len() >= len(want) || v.err != nil
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen.String() != want {
		v.t.Errorf("saw %q, want %q; %v", v.seen.String(), want, v.err)
	}
}

// notice waits until the onlooker is told something.
func (v *onlooker) notice(want string) {
	v.t.Helper()
	until(v.t, "the notice "+want, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return strings.Contains(strings.Join(v.notices, "\n"), want)
	})
}

// end waits until the stream ends and returns how.
func (v *onlooker) end() error {
	v.t.Helper()
	select {
	case <-v.ended:
		return v.err
	case <-time.After(20 * time.Second):
		v.t.Fatal("the stream does not end")
		return nil
	}
}

func TestConsole(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	m, _ := w.machineWithBMC("p1", p)
	s := w.consoleSite(t, "p1")

	early := w.operatorReads(t, m, 1000, true)
	r := s.reading(m)
	first := s.open(m, r, 100, "firmware ", "")
	first.Newest = false
	check(t, s.send(first))
	check(t, s.send(first)) // its answer was lost
	check(t, s.send(s.open(m, r, 105, "are kernel ", "")))
	early.sees("firmware kernel ")
	late := w.operatorReads(t, m, 7, true)
	late.sees("kernel ")
	all := w.operatorReads(t, m, 1000, false)
	check(t, all.end())
	all.sees("firmware kernel ")
	check(t, w.operatorReads(t, m, 0, false).end())

	check(t, s.send(s.open(m, r, 116, "login: ", "")))
	early.sees("firmware kernel login: ")
	late.sees("kernel login: ")

	// The site was restarted, and then lost some of it.
	again := s.open(m, r, 0, "more", "")
	again.Source = "s2"
	check(t, s.send(again))
	again.Offset, again.Data = 10, []byte("end")
	check(t, s.send(again))
	late.sees("kernel login: moreend")
	late.mu.Lock()
	if late.lost != 6 {
		t.Errorf("%d bytes are lost, want 6", late.lost)
	}
	late.mu.Unlock()

	closed := s.open(m, r, 13, "", "")
	closed.Source, closed.State, closed.Error = "s2", ingotv1.ConsoleState_CONSOLE_STATE_CLOSED, "bmc b1: does not answer"
	check(t, s.send(closed))
	early.notice("bmc b1: does not answer")

	early.cancel()
	check(t, s.send(again)) // somebody still reads
	late.cancel()
	until(t, "the end of the reading", func() bool { return connect.CodeOf(s.send(again)) == connect.CodeNotFound })
}

// TestConsoleOwners checks that a project sees what its own system showed and
// nothing else.
func TestConsoleOwners(t *testing.T) {
	w := newWorld(t)
	p1, p2 := w.project(w.tenant("t1")), w.project(w.tenant("t2"))
	editor1, owner2 := w.member(p1, apiv2.ProjectRole_PROJECT_ROLE_EDITOR), w.member(p2, owner)
	m, a1 := w.machineWithBMC("p1", p1)
	s := w.consoleSite(t, "p1")

	one := w.memberReads(t, editor1, m, p1, 1000, true)
	r := s.reading(m)
	check(t, s.send(s.open(m, r, 0, "the agent wipes ", "")))
	check(t, s.send(s.open(m, r, 16, "secret of one ", a1)))
	one.sees("secret of one ")
	wantCode(t, w.memberReads(t, owner2, m, p2, 1000, true).end(), connect.CodeNotFound, "machine "+m+": not found")
	wantCode(t, w.memberReads(t, owner2, m, p1, 1000, true).end(), connect.CodePermissionDenied, "")
	wantCode(t, w.memberReads(t, w.member(p1, apiv2.ProjectRole_PROJECT_ROLE_VIEWER), m, p1, 1000, true).end(), connect.CodePermissionDenied, "")
	wantCode(t, w.memberReads(t, editor1, uuid.NewString(), p1, 0, false).end(), connect.CodeNotFound, "")

	// An operator keeps the reading open while the machine goes to the next.
	operator := w.operatorReads(t, m, 1000, true)
	operator.sees("the agent wipes secret of one ")
	w.allocate(m, "")
	wantCode(t, one.end(), connect.CodeNotFound, "")
	check(t, s.send(s.open(m, r, 30, "last words ", a1))) // before the site knows
	a2 := w.allocate(m, p2)
	two := w.memberReads(t, owner2, m, p2, 1000, true)
	check(t, s.send(s.open(m, r, 41, "wiped ", "")))
	check(t, s.send(s.open(m, r, 47, "hello two ", a2)))
	two.sees("hello two ")
	operator.sees("the agent wipes secret of one last words wiped hello two ")
	wantCode(t, w.memberReads(t, editor1, m, p1, 1000, false).end(), connect.CodeNotFound, "")

	// A member learns that the console is closed, and nothing of the BMC.
	closed := s.open(m, r, 57, "", "")
	closed.State, closed.Error = ingotv1.ConsoleState_CONSOLE_STATE_CLOSED, "bmc 10.0.0.1: does not answer"
	check(t, s.send(closed))
	operator.notice("10.0.0.1")
	two.notice("not open")
	two.mu.Lock()
	if strings.Contains(fmt.Sprint(two.notices), "10.0.0.1") {
		t.Errorf("a member is told %q", two.notices)
	}
	two.mu.Unlock()
	again := w.memberReads(t, owner2, m, p2, 4, false)
	check(t, again.end())
	again.sees("two ")
}

// TestConsoleRights checks that a stream ends with the role it was opened with.
func TestConsoleRights(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	user := w.tenant("user")
	w.addMember(p, user, apiv2.ProjectRole_PROJECT_ROLE_EDITOR)
	token := w.token(user, &apiv2.TokenServiceCreateRequest{ProjectRoles: map[string]apiv2.ProjectRole{p: apiv2.ProjectRole_PROJECT_ROLE_EDITOR}})
	m, a := w.machineWithBMC("p1", p)
	s := w.consoleSite(t, "p1")
	v := w.memberReads(t, token, m, p, 1000, true)
	check(t, s.send(s.open(m, s.reading(m), 0, "x", a)))
	v.sees("x")
	_, err := dial(w, apiv2connect.NewProjectServiceClient, w.admin).RemoveMember(t.Context(), &apiv2.ProjectServiceRemoveMemberRequest{Project: p, Member: user})
	check(t, err)
	wantCode(t, v.end(), connect.CodePermissionDenied, "")
}

// TestConsoleSites checks what sites may send, and what is said when none can.
func TestConsoleSites(t *testing.T) {
	w := newWorld(t)
	p := w.project(w.tenant("t1"))
	token := w.member(p, owner)
	m, _ := w.machineWithBMC("p1", p)
	wantCode(t, w.operatorReads(t, m, 0, false).end(), connect.CodeUnavailable, "")
	other := w.consoleSite(t, "p2")
	wantCode(t, w.operatorReads(t, m, 0, false).end(), connect.CodeUnavailable, "")

	s := w.consoleSite(t, "p1")
	v := w.operatorReads(t, m, 0, true)
	r := s.reading(m)
	other.mu.Lock()
	if len(other.readings) != 0 {
		t.Errorf("partition p2 is told to send %v", other.readings)
	}
	other.mu.Unlock()
	forged := s.open(m, r, 0, "x", "")
	wantCode(t, other.send(forged), connect.CodePermissionDenied, "")
	forged.Partition = "p2"
	wantCode(t, other.send(forged), connect.CodeNotFound, "")
	wantCode(t, s.send(s.open(m, "guess", 0, "x", "")), connect.CodeNotFound, "reading guess: is over")
	_, err := other.client.Wanted(t.Context(), connect.NewRequest(&ingotv1.ConsoleServiceWantedRequest{Partition: "p1"}))
	if err == nil {
		stream, _ := other.client.Wanted(t.Context(), connect.NewRequest(&ingotv1.ConsoleServiceWantedRequest{Partition: "p1"}))
		if stream.Receive() {
			t.Error("a site is told of another partition")
		}
		err = stream.Err()
	}
	wantCode(t, err, connect.CodePermissionDenied, "")

	no := s.open(m, r, 0, "", "")
	no.State, no.Error = ingotv1.ConsoleState_CONSOLE_STATE_UNSUPPORTED, "bmc b1: offers no serial console over SSH; use its web page"
	check(t, s.send(no))
	wantCode(t, v.end(), connect.CodeFailedPrecondition, "machine "+m+": its console cannot be read: bmc b1: offers no serial console over SSH; use its web page")
	member := w.memberReads(t, token, m, p, 0, true)
	again := proto.CloneOf(no)
	until(t, "another reading", func() bool { again.Reading = s.reading(m); return again.GetReading() != r })
	check(t, s.send(again))
	if err := member.end(); connect.CodeOf(err) != connect.CodeFailedPrecondition || strings.Contains(err.Error(), "bmc b1") {
		t.Errorf("a member is told %v", err)
	}

	// The site goes away while somebody reads.
	v = w.operatorReads(t, m, 0, true)
	var last string
	until(t, "another reading", func() bool { last = s.reading(m); return last != again.GetReading() })
	check(t, s.send(s.open(m, last, 0, "x", "")))
	s.stop()
	v.notice("is away")

	check(t, w.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := records.MachineBMCs.Delete(tx, m)
		return err
	}))
	wantCode(t, w.operatorReads(t, m, 0, false).end(), connect.CodeFailedPrecondition, "")
}

// TestConsoleSlowReader has a machine show much while one reads nothing: the
// other sees it all, memory stays bounded, and the slow one learns how much it
// missed.
func TestConsoleSlowReader(t *testing.T) {
	w := newWorld(t)
	m, _ := w.machineWithBMC("p1", "")
	s := w.consoleSite(t, "p1")
	fast := w.operatorReads(t, m, 0, true)
	r := s.reading(m)
	check(t, s.send(s.open(m, r, 0, "", "")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow, err := dial(w, ingotv1connect.NewConsoleServiceClient, w.admin).ReadAny(ctx, connect.NewRequest(&ingotv1.ConsoleServiceReadAnyRequest{Uuid: m, Follow: true, Tail: 1}))
	check(t, err)
	defer slow.Close()
	const piece, pieces = 64 << 10, 200 // 12 MiB
	noise := make([]byte, piece)        // does not compress
	_, _ = rand.Read(noise)
	line := string(noise)
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	seen := func() (n, lost uint64) {
		fast.mu.Lock()
		defer fast.mu.Unlock()
		return uint64(fast.seen.Len()), fast.lost
	}
	for i := range pieces {
		check(t, s.send(s.open(m, r, i*piece, line, "")))
		until(t, "the fast reader", func() bool { n, lost := seen(); return n+lost >= uint64(i+1)*piece })
		if n, lost := seen(); lost != 0 {
			t.Fatalf("the fast reader saw %d and lost %d", n, lost)
		}
		if i%100 == 0 {
			fast.mu.Lock()
			fast.seen.Grow(100 * piece) // of the test's own
			fast.mu.Unlock()
		}
	}
	fast.mu.Lock()
	mine := uint64(fast.seen.Cap())
	fast.mu.Unlock()
	if grown := int64(heap()) - int64(before) - int64(mine); grown > 16<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	var n, lost uint64
	for n+lost < piece*pieces && slow.Receive() {
		n += uint64(len(slow.Msg().GetData()))
		lost += slow.Msg().GetLost()
	}
	if n+lost != piece*pieces || lost < piece*pieces/2 {
		t.Errorf("the slow reader saw %d, lost %d of %d; %v", n, lost, piece*pieces, slow.Err())
	}
}

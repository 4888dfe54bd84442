package site

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Consoles listens to the serial consoles of all machines through their BMCs
// and keeps the end of each in memory, so that the last words of a machine
// that is stuck are there when somebody looks. What is read goes to the control
// plane; the rest stays here.
type Consoles struct {
	cfg    ConsolesConfig
	logins chan struct{} // one for each BMC that may be logged in to at a time

	mu     sync.Mutex
	shown  map[string]*screen      // by machine
	wanted bool                    // something has been
	moved  chan struct{}           // closed and replaced when shown or wanted change
	keys   map[string]*bmc.HostKey // by BMC and what identifies it
}

// ConsolesConfig of Consoles.
type ConsolesConfig struct {
	Partition string
	API       ingotv1connect.ConsoleServiceClient
	// Keep is how many bytes of each console are kept; 128 KiB if zero.
	Keep int
	// Retry is how long to wait before a console is opened again that could
	// not be or was closed; it doubles with each failure. A second if zero.
	Retry time.Duration
	Log   *slog.Logger
}

// NewConsoles returns Consoles that listen to none yet.
func NewConsoles(c ConsolesConfig) *Consoles {
	if c.Keep == 0 {
		c.Keep = 128 << 10
	}
	if c.Retry == 0 {
		c.Retry = time.Second
	}
	return &Consoles{
		cfg: c, logins: make(chan struct{}, maxLogins), shown: map[string]*screen{}, moved: make(chan struct{}), keys: map[string]*bmc.HostKey{},
	}
}

const (
	// maxLogins is how many BMCs are logged in to at a time.
	maxLogins = 128
	// maxConsoleRetry is the longest pause between two attempts at a console,
	// unsupported the one if the BMC offers none.
	maxConsoleRetry = 5 * time.Minute
	unsupported     = time.Hour
	// steady is how long a console must have been open to count as a success.
	steady = time.Minute
)

// Name implements Part.
func (c *Consoles) Name() string { return "console" }

// A screen is what one machine's console showed, and how it is with it.
type screen struct {
	source string // names it; the next of the same machine has another
	tail   *console.Tail

	mu         sync.Mutex
	allocation string // that the machine has now
	line       *line  // to type on; nil while the console is not open
	state      ingotv1.ConsoleState
	err        string
	turned     chan struct{} // closed and replaced when the state changes
}

func newScreen(keep int) *screen {
	s := &screen{source: rand.Text(), tail: console.NewTail(keep), turned: make(chan struct{})}
	s.turn(ingotv1.ConsoleState_CONSOLE_STATE_CLOSED, fault.New(fault.Unavailable, "console", "is being opened", ""))
	return s
}

func (s *screen) turn(state ingotv1.ConsoleState, err error) { s.turnOn(nil, state, err) }

// turnOn is turn for a console with a line to type on.
func (s *screen) turnOn(l *line, state ingotv1.ConsoleState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line, s.state, s.err = l, state, ""
	if err != nil {
		s.err = err.Error()
	}
	close(s.turned)
	s.turned = make(chan struct{})
}

func (s *screen) is() (ingotv1.ConsoleState, string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.err, s.turned
}

func (s *screen) belongsTo(allocation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allocation = allocation
}

// show keeps what the console shows now, for whom the machine belongs to now.
func (s *screen) show(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail.Append(s.allocation, data)
}

// A listener listens to one console as long as it is wanted the same way.
type listener struct {
	want *ingotv1.BMCWanted
	stop context.CancelFunc
}

// Run implements Part. Each console has a goroutine of its own; it ends when
// its BMC is wanted otherwise, or with ctx.
func (c *Consoles) Run(ctx context.Context, wanted Wanted) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { c.deliver(ctx) })
	listeners := map[string]listener{}
	for ctx.Err() == nil {
		w, moved := wanted()
		machines, bmcs, keys := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, want := range w.GetBmcs() {
			if want.GetMachine() == "" || machines[want.GetMachine()] {
				continue
			}
			machines[want.GetMachine()], bmcs[want.GetId()], keys[keyID(want)] = true, true, true
			screen := c.screen(want.GetMachine())
			screen.belongsTo(want.GetAllocation())
			if l, ok := listeners[want.GetId()]; ok {
				if sameConsole(l.want, want) {
					continue
				}
				l.stop()
			}
			own, stop := context.WithCancel(ctx)
			listeners[want.GetId()] = listener{want, stop}
			all.Go(func() { c.listen(own, want, screen) })
		}
		for id, l := range listeners {
			if !bmcs[id] {
				l.stop()
				delete(listeners, id)
			}
		}
		c.forget(w != nil, machines, keys)
		select {
		case <-ctx.Done():
		case <-moved:
		}
	}
	for _, l := range listeners {
		l.stop()
	}
}

// keyID names the BMC that a host key belongs to: one that was told of anew
// may have another.
func keyID(w *ingotv1.BMCWanted) string {
	return strings.Join([]string{w.GetId(), w.GetAddress(), w.GetCa()}, "\x00")
}

func sameConsole(a, b *ingotv1.BMCWanted) bool {
	return keyID(a) == keyID(b) && a.GetMachine() == b.GetMachine() && a.GetUser() == b.GetUser() && a.GetPassword() == b.GetPassword()
}

// screen returns the memory of a machine's console.
func (c *Consoles) screen(machine string) *screen {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown[machine] == nil {
		c.shown[machine] = newScreen(c.cfg.Keep)
	}
	return c.shown[machine]
}

// hostKey returns what was seen of a BMC's SSH server.
func (c *Consoles) hostKey(w *ingotv1.BMCWanted) *bmc.HostKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := keyID(w)
	if c.keys[id] == nil {
		c.keys[id] = &bmc.HostKey{}
	}
	return c.keys[id]
}

// forget drops what is known of machines and BMCs that are not wanted, and
// tells that the others are.
func (c *Consoles) forget(wanted bool, machines, keys map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = wanted
	close(c.moved)
	c.moved = make(chan struct{})
	for m := range c.shown {
		if !machines[m] {
			delete(c.shown, m)
		}
	}
	for k := range c.keys {
		if !keys[k] {
			delete(c.keys, k)
		}
	}
}

// listen keeps one console open until ctx ends.
func (c *Consoles) listen(ctx context.Context, want *ingotv1.BMCWanted, s *screen) {
	failures := 0
	for ctx.Err() == nil {
		began := time.Now()
		err := c.once(ctx, want, s)
		if ctx.Err() != nil {
			return
		}
		if failures++; time.Since(began) > steady {
			failures = 1
		}
		again := min(maxConsoleRetry, c.cfg.Retry<<min(failures-1, 16))
		state := ingotv1.ConsoleState_CONSOLE_STATE_CLOSED
		if errors.Is(err, fault.Unimplemented) || errors.Is(err, fault.Precondition) {
			state, again = ingotv1.ConsoleState_CONSOLE_STATE_UNSUPPORTED, min(unsupported, 60*again)
		}
		s.turn(state, err)
		c.cfg.Log.Info("a console is not open", "bmc", want.GetId(), "machine", want.GetMachine(), "again", again, "error", err)
		pause(ctx, again)
	}
}

// once opens a console and keeps what it shows until it is closed.
func (c *Consoles) once(ctx context.Context, want *ingotv1.BMCWanted, s *screen) error {
	l, err := c.open(ctx, want)
	if err != nil {
		return err
	}
	defer l.Close()
	s.turnOn(l, ingotv1.ConsoleState_CONSOLE_STATE_OPEN, nil)
	buf := make([]byte, 4<<10)
	for {
		n, err := l.Read(buf)
		s.show(buf[:n])
		if err != nil {
			return fault.Wrap(fault.Unavailable, "bmc "+want.GetId(), "closed the console", err)
		}
	}
}

// open looks up where the console is and opens it.
func (c *Consoles) open(ctx context.Context, want *ingotv1.BMCWanted) (*line, error) {
	select {
	case c.logins <- struct{}{}:
		defer func() { <-c.logins }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e := endpoint(want, first(want))
	r, err := bmc.Open(ctx, e)
	if err != nil {
		return nil, err
	}
	at, err := r.Console(ctx)
	r.Close(context.WithoutCancel(ctx)) // a session left open is one less for the next
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(at.UUID, want.GetMachine()) {
		return nil, misplaced(want, strings.ToLower(at.UUID))
	}
	open, err := at.Open(ctx, e, c.hostKey(want))
	if err != nil {
		return nil, err
	}
	return &line{open, at.Shared}, nil
}

// misplaced says that a BMC is in another machine than it was.
func misplaced(want *ingotv1.BMCWanted, machine string) error {
	return fault.New(fault.Precondition, "bmc "+want.GetId(), fmt.Sprintf("is in machine %s, expected %s", machine, want.GetMachine()),
		"if the board was replaced, delete the BMC and create it again")
}

// deliver follows which consoles are read and sends them, until ctx ends.
func (c *Consoles) deliver(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	sending, hearing := map[string]context.CancelFunc{}, map[string]context.CancelFunc{} // by id of the reading
	defer func() {
		keepOnly(sending, nil)
		keepOnly(hearing, nil)
	}()
	start := func(of map[string]context.CancelFunc, r *ingotv1.ConsoleReading, run func(context.Context, *ingotv1.ConsoleReading)) {
		if of[r.GetId()] == nil {
			own, stop := context.WithCancel(ctx)
			of[r.GetId()] = stop
			all.Go(func() { run(own, r) })
		}
	}
	stayTuned(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.ConsoleServiceWantedResponse], error) {
		return c.cfg.API.Wanted(ctx, connect.NewRequest(&ingotv1.ConsoleServiceWantedRequest{Partition: c.cfg.Partition}))
	}, func(m *ingotv1.ConsoleServiceWantedResponse) {
		read, written := map[string]bool{}, map[string]bool{}
		for _, r := range m.GetReadings() {
			read[r.GetId()] = true
			start(sending, r, c.send)
			if r.GetWritten() {
				written[r.GetId()] = true
				start(hearing, r, c.hear)
			}
		}
		keepOnly(sending, read)
		keepOnly(hearing, written)
	}, func(err error) {
		c.cfg.Log.Warn("the control plane does not say which consoles are read", "error", err)
	})
}

// keepOnly stops those of running that are not to run any more.
func keepOnly(running map[string]context.CancelFunc, keep map[string]bool) {
	for id, stop := range running {
		if !keep[id] {
			stop()
			delete(running, id)
		}
	}
}

const (
	// maxSend is how much of a console is sent at a time.
	maxSend = 32 << 10
	// sendEvery is how often a console is sent at most once its reader has
	// caught up.
	sendEvery = 50 * time.Millisecond
	// sendTimeout bounds one call.
	sendTimeout = 20 * time.Second
)

// send sends a console from its oldest byte on, until nobody reads it or ctx
// ends. What comes faster than it can be sent is dropped.
func (c *Consoles) send(ctx context.Context, r *ingotv1.ConsoleReading) {
	unknown := newScreen(0)
	unknown.turn(ingotv1.ConsoleState_CONSOLE_STATE_UNSUPPORTED, fault.New(fault.NotFound, "machine "+r.GetUuid(), "has no BMC that the management server knows",
		"tell of it with 'ingot bmc create', and look at its errors with 'ingot bmc list'"))
	source, at, failures := "", uint64(0), 0
	for ctx.Err() == nil {
		s, others := c.look(r.GetUuid(), unknown)
		if s == nil { // nothing is known yet
			select {
			case <-ctx.Done():
			case <-others:
			}
			continue
		}
		if s.source != source {
			source, at = s.source, 0
		}
		state, problem, turned := s.is()
		piece, moved := s.tail.Next(at, maxSend)
		newest := piece.End() >= s.tail.End()
		err := c.sendOne(ctx, &ingotv1.ConsoleServiceSendRequest{
			Partition: c.cfg.Partition, Uuid: r.GetUuid(), Reading: r.GetId(), Source: source,
			Offset: piece.Offset, Data: piece.Data, Allocation: piece.Owner, Newest: newest, State: state, Error: problem,
		})
		switch {
		case ctx.Err() != nil || connect.CodeOf(err) == connect.CodeNotFound:
			return // nobody reads it any more
		case err != nil:
			failures++
			c.cfg.Log.Warn("a console cannot be sent", "machine", r.GetUuid(), "error", err)
			pause(ctx, min(15*time.Second, 200*time.Millisecond<<min(failures, 8)))
			continue
		}
		failures, at = 0, piece.End()
		if !newest {
			continue
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-turned:
		case <-others:
			if now, _ := c.look(r.GetUuid(), unknown); now == s {
				continue
			}
		}
		pause(ctx, sendEvery)
	}
}

// look returns the memory of a machine's console, unknown if there is none, or
// nil if it is too early to tell; and a channel that is closed when that may
// have changed.
func (c *Consoles) look(machine string, unknown *screen) (*screen, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shown[machine]
	if s == nil && c.wanted {
		s = unknown
	}
	return s, c.moved
}

func (c *Consoles) sendOne(ctx context.Context, req *ingotv1.ConsoleServiceSendRequest) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	_, err := c.cfg.API.Send(ctx, connect.NewRequest(req))
	return err
}

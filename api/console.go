package api

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
)

// consoles serves the serial consoles of machines.
type consoles struct{ *Server }

var _ ingotv1connect.ConsoleServiceHandler = consoles{}

// Read implements ingot.v1. A project sees what its machine has shown since it
// was allocated to it, and not before: the site says of every byte whose the
// machine was. The stream ends with the allocation.
func (s consoles) Read(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceReadRequest], stream *connect.ServerStream[ingotv1.ConsoleServiceReadResponse]) error {
	m, err := own(s.view(ctx), req.Msg.GetUuid(), req.Msg.GetProject())
	if err != nil {
		return err
	}
	a, _ := records.Allocations.Peek(s.view(ctx), m.GetUuid())
	allocation := a.GetAllocation().GetUuid()
	return s.read(ctx, m, look{
		tail: int(req.Msg.GetTail()), follow: req.Msg.GetFollow(),
		sees: func(owner string) bool { return owner == allocation },
		still: func() error {
			now, _ := records.Allocations.Peek(s.db.Snapshot(), m.GetUuid())
			if now.GetAllocation().GetUuid() != allocation {
				return fault.New(fault.NotFound, "machine "+m.GetUuid(), "is no longer allocated to the project", "")
			}
			return nil
		},
		tell: func(data []byte, lost uint64, notice string) error {
			return stream.Send(&ingotv1.ConsoleServiceReadResponse{Data: data, Lost: lost, Notice: notice})
		},
	})
}

// ReadAny implements ingot.v1.
func (s consoles) ReadAny(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceReadAnyRequest], stream *connect.ServerStream[ingotv1.ConsoleServiceReadAnyResponse]) error {
	m, err := records.Machines.Get(s.view(ctx), req.Msg.GetUuid())
	if err != nil {
		return err
	}
	return s.read(ctx, m, look{
		tail: int(req.Msg.GetTail()), follow: req.Msg.GetFollow(), operator: true,
		sees: func(string) bool { return true },
		still: func() error {
			_, err := records.Machines.Get(s.db.Snapshot(), m.GetUuid())
			return err
		},
		tell: func(data []byte, lost uint64, notice string) error {
			return stream.Send(&ingotv1.ConsoleServiceReadAnyResponse{Data: data, Lost: lost, Notice: notice})
		},
	})
}

// A look is what somebody wants to see of a console.
type look struct {
	tail     int
	follow   bool
	operator bool                    // may know about BMCs
	sees     func(owner string) bool // what was shown under which allocation
	still    func() error            // why the look must end
	tell     func(data []byte, lost uint64, notice string) error
}

const (
	// consoleKeep is how much of a console that is read is held: what a site
	// keeps of one.
	consoleKeep = 128 << 10
	// maxReadings bounds the consoles that are read at a time, and with
	// consoleKeep the memory: 64 MiB.
	maxReadings = 512
	// consolePiece is how much is sent to a reader at a time.
	consolePiece = 32 << 10
	// consoleAnswer is how long a site may take until a console has come.
	consoleAnswer = 10 * time.Second
)

// read shows a console. Each reader goes at its own pace; one that is too slow
// misses something and is told how much.
func (s consoles) read(ctx context.Context, m *privatev1.Machine, l look) error {
	if b, ok := records.MachineBMCs.Peek(s.view(ctx), m.GetUuid()); !ok || b.GetBmc() == "" {
		return l.cannot(m, "no BMC is known that its console could be read through", "tell of it with 'ingot bmc create'")
	}
	r, err := s.readings.join(m.GetUuid(), m.GetPartition())
	if err != nil {
		return err
	}
	defer s.readings.leave(r)
	if err := r.await(ctx); err != nil {
		return err
	}
	at, end, shown, told := r.tail.Back(l.tail, l.sees), r.tail.End(), false, ""
	check, alive := time.NewTicker(streamCheck), time.NewTicker(s.cfg.LifeSign)
	defer check.Stop()
	defer alive.Stop()
	if l.follow { // the client learns that it follows
		if err := l.tell(nil, 0, ""); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		if err := l.still(); err != nil {
			return err
		}
		size := uint64(consolePiece)
		if !l.follow {
			size = min(size, end-min(at, end))
		}
		piece, moved := r.tail.Next(at, int(size)) //nolint:gosec // at most consolePiece
		if len(piece.Data) > 0 {
			lost := piece.Offset - at
			if at = piece.End(); l.sees(piece.Owner) {
				shown = true
				if err := l.tell(piece.Data, lost, ""); err != nil {
					return err
				}
			}
			continue
		}
		state, problem, turned := r.is()
		if state == ingotv1.ConsoleState_CONSOLE_STATE_UNSUPPORTED || state == ingotv1.ConsoleState_CONSOLE_STATE_CLOSED && !l.follow && !shown {
			return l.cannot(m, problem, "")
		}
		notice := s.notice(r, l, problem)
		if notice != told {
			if told = notice; notice != "" {
				if err := l.tell(nil, 0, notice); err != nil {
					return err
				}
			}
		}
		if !l.follow {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-turned:
		case <-check.C:
		case <-alive.C:
			if err := l.tell(nil, 0, ""); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// notice says why a console that is followed shows nothing new; nothing if it
// is open.
func (s consoles) notice(r *reading, l look, problem string) string {
	switch {
	case s.readings.away(r.partition):
		return "the management server of partition " + r.partition + " is away"
	case problem == "":
		return ""
	case l.operator:
		return problem
	}
	return "the console is not open"
}

// cannot says that a console cannot be read. What is the case with the BMC is
// for operators.
func (l look) cannot(m *privatev1.Machine, why, remedy string) error {
	object := "machine " + m.GetUuid()
	if !l.operator {
		return fault.New(fault.Precondition, object, "has no serial console that can be read now", "try again, or ask an operator of partition "+m.GetPartition())
	}
	return fault.New(fault.Precondition, object, "its console cannot be read: "+why, remedy)
}

// Wanted implements ingot.v1.
func (s consoles) Wanted(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceWantedRequest], stream *connect.ServerStream[ingotv1.ConsoleServiceWantedResponse]) error {
	partition := req.Msg.GetPartition()
	if _, err := records.Partitions.Get(s.view(ctx), partition); err != nil {
		return err
	}
	defer s.readings.connect(partition)()
	for ctx.Err() == nil {
		now, moved := s.readings.of(partition)
		if err := stream.Send(&ingotv1.ConsoleServiceWantedResponse{Readings: now}); err != nil {
			return err
		}
		t := time.NewTimer(s.cfg.LifeSign)
		select {
		case <-ctx.Done():
		case <-moved:
		case <-t.C:
		}
		t.Stop()
	}
	return context.Cause(ctx)
}

// Send implements ingot.v1.
func (s consoles) Send(_ context.Context, req *connect.Request[ingotv1.ConsoleServiceSendRequest]) (*connect.Response[ingotv1.ConsoleServiceSendResponse], error) {
	r := s.readings.find(req.Msg)
	if r == nil {
		return nil, fault.New(fault.NotFound, "reading "+req.Msg.GetReading(), "is over", "")
	}
	r.take(req.Msg)
	return connect.NewResponse(&ingotv1.ConsoleServiceSendResponse{}), nil
}

// readings are the consoles that somebody reads through this server. Nothing
// of them is stored. Sites say nothing that nobody reads.
type readings struct {
	mu    sync.Mutex
	open  map[string]*reading // by machine
	sites map[string]int      // that are connected, by partition
	moved chan struct{}       // closed and replaced when open changes
}

func newReadings() readings {
	return readings{open: map[string]*reading{}, sites: map[string]int{}, moved: make(chan struct{})}
}

// A reading is a console while at least one reads it.
type reading struct {
	id, machine, partition string
	tail                   *console.Tail
	readers                int // guarded by the mu of readings

	mu      sync.Mutex
	source  string
	shift   uint64 // from the source's positions to those of tail; may wrap around
	whole   bool   // everything that the site had has come once
	state   ingotv1.ConsoleState
	problem string
	turned  chan struct{} // closed and replaced when whole, state or problem change
}

// join adds a reader of a console.
func (a *readings) join(machine, partition string) (*reading, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sites[partition] == 0 {
		return nil, silent(partition)
	}
	r := a.open[machine]
	if r == nil {
		if len(a.open) >= maxReadings {
			return nil, fault.Newf(fault.Exhausted, "machine "+machine, "%d other consoles are being read", maxReadings).Do("try again later")
		}
		r = &reading{id: newID(), machine: machine, partition: partition, tail: console.NewTail(consoleKeep), turned: make(chan struct{})}
		a.open[machine] = r
		a.move()
	}
	r.readers++
	return r, nil
}

func silent(partition string) error {
	return fault.New(fault.Unavailable, "partition "+partition, "its management server does not send consoles", "check that ingotd runs there, with its part bmc")
}

// leave takes a reader away. The last one takes the console's memory with it.
func (a *readings) leave(r *reading) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.readers--; r.readers == 0 {
		delete(a.open, r.machine)
		a.move()
	}
}

// move wakes those who wait for a change of a.open. a.mu is held.
func (a *readings) move() {
	close(a.moved)
	a.moved = make(chan struct{})
}

// connect notes that the site of a partition listens, until it calls what is
// returned.
func (a *readings) connect(partition string) (leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sites[partition]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.sites[partition]--; a.sites[partition] == 0 {
			delete(a.sites, partition)
		}
	}
}

// away reports whether no site of a partition listens.
func (a *readings) away(partition string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sites[partition] == 0
}

// of returns what is read of a partition, and a channel that is closed when
// that may have changed.
func (a *readings) of(partition string) ([]*ingotv1.ConsoleReading, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*ingotv1.ConsoleReading
	for _, r := range a.open {
		if r.partition == partition {
			all = append(all, &ingotv1.ConsoleReading{Uuid: r.machine, Id: r.id})
		}
	}
	return all, a.moved
}

// find returns the reading that something was sent for; nil if it is over or
// another partition's.
func (a *readings) find(req *ingotv1.ConsoleServiceSendRequest) *reading {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.open[req.GetUuid()]; r != nil && r.id == req.GetReading() && r.partition == req.GetPartition() {
		return r
	}
	return nil
}

// take takes what a site sent. What came before, because its answer was lost,
// changes nothing.
func (r *reading) take(req *ingotv1.ConsoleServiceSendRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.source != req.GetSource() {
		r.source, r.shift = req.GetSource(), r.tail.End()-req.GetOffset()
	}
	r.tail.Put(console.Piece{Offset: req.GetOffset() + r.shift, Owner: req.GetAllocation(), Data: req.GetData()})
	whole := r.whole || req.GetNewest()
	if r.whole == whole && r.state == req.GetState() && r.problem == req.GetError() {
		return
	}
	r.whole, r.state, r.problem = whole, req.GetState(), req.GetError()
	close(r.turned)
	r.turned = make(chan struct{})
}

// is returns how the site gets on with the console, and a channel that is
// closed when that changes.
func (r *reading) is() (state ingotv1.ConsoleState, problem string, turned <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.problem, r.turned
}

// await waits until everything that the site had has come.
func (r *reading) await(ctx context.Context) error {
	t := time.NewTimer(consoleAnswer)
	defer t.Stop()
	for {
		r.mu.Lock()
		whole, turned := r.whole, r.turned
		r.mu.Unlock()
		if whole {
			return nil
		}
		select {
		case <-turned:
		case <-t.C:
			return silent(r.partition)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

package api

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
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
	l := s.memberLook(s.view(ctx), m.GetUuid())
	l.tail, l.follow, l.take = int(req.Msg.GetTail()), req.Msg.GetFollow(), req.Msg.GetTake()
	if req.Msg.GetWrite() {
		l.pen = newPen(callerOf(ctx).User(), &l.allocation)
	}
	l.tell = func(t told) error {
		return stream.Send(&ingotv1.ConsoleServiceReadResponse{Data: t.data, Lost: t.lost, Notice: t.notice, Pen: t.pen, PenLost: t.penLost})
	}
	return s.read(ctx, m, l)
}

// ReadAny implements ingot.v1.
func (s consoles) ReadAny(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceReadAnyRequest], stream *connect.ServerStream[ingotv1.ConsoleServiceReadAnyResponse]) error {
	m, err := records.Machines.Get(s.view(ctx), req.Msg.GetUuid())
	if err != nil {
		return err
	}
	l := look{
		tail: int(req.Msg.GetTail()), follow: req.Msg.GetFollow(), take: req.Msg.GetTake(), operator: true,
		sees: func(string) bool { return true },
		still: func() error {
			_, err := records.Machines.Get(s.db.Snapshot(), m.GetUuid())
			return err
		},
		tell: func(t told) error {
			return stream.Send(&ingotv1.ConsoleServiceReadAnyResponse{Data: t.data, Lost: t.lost, Notice: t.notice, Pen: t.pen, PenLost: t.penLost})
		},
	}
	if req.Msg.GetWrite() {
		l.pen = newPen(callerOf(ctx).User(), nil)
	}
	return s.read(ctx, m, l)
}

// A look is what somebody wants to see of a console, and whether to write.
type look struct {
	tail       int
	follow     bool
	operator   bool                    // may know about BMCs
	allocation string                  // of a member
	sees       func(owner string) bool // what was shown under which allocation
	still      func() error            // why the look must end
	tell       func(told) error
	pen        *pen // to get; nil to read only
	take       bool // also from somebody else
}

// told is what somebody is told who looks; nothing as a sign of life.
type told struct {
	data    []byte
	lost    uint64
	notice  string
	pen     string
	penLost bool
}

// memberLook returns what the project sees that a machine is allocated to.
func (s *Server) memberLook(r store.Reader, machine string) look {
	a, _ := records.Allocations.Peek(r, machine)
	allocation := a.GetAllocation().GetUuid()
	return look{
		allocation: allocation,
		sees:       func(owner string) bool { return owner == allocation },
		still: func() error {
			now, _ := records.Allocations.Peek(s.db.Snapshot(), machine)
			if now.GetAllocation().GetUuid() != allocation {
				return fault.New(fault.NotFound, "machine "+machine, "is no longer allocated to the project", "")
			}
			return nil
		},
	}
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

// read shows a console until ctx ends, and lends the pen as long. Each reader
// goes at its own pace; one that is too slow misses something and is told how
// much.
func (s *Server) read(ctx context.Context, m *privatev1.Machine, l look) error {
	if b, ok := records.MachineBMCs.Peek(s.db.Snapshot(), m.GetUuid()); !ok || b.GetBmc() == "" {
		return l.cannot(m, "no BMC is known that its console could be read through", "tell of it with 'ingot bmc create'")
	}
	if l.pen != nil && !l.follow {
		return fault.New(fault.Invalid, "machine "+m.GetUuid(), "who writes on its console must follow it, too", "set follow, or do not set write")
	}
	r, err := s.readings.join(m.GetUuid(), m.GetPartition())
	if err != nil {
		return err
	}
	defer s.readings.leave(r)
	if err := s.readings.lend(r, l.pen, l.take); err != nil {
		return err
	}
	defer s.readings.giveBack(r, l.pen)
	if err := r.await(ctx); err != nil {
		return err
	}
	at, end, shown, said := r.tail.Back(l.tail, l.sees), r.tail.End(), false, ""
	taken := l.pen.taken()
	check, alive := time.NewTicker(streamCheck), time.NewTicker(s.cfg.LifeSign)
	defer check.Stop()
	defer alive.Stop()
	if l.follow { // the client learns that it follows
		if err := l.tell(told{pen: l.pen.name()}); err != nil {
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
				if err := l.tell(told{data: piece.Data, lost: lost}); err != nil {
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
		if notice != said {
			if said = notice; notice != "" {
				if err := l.tell(told{notice: notice}); err != nil {
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
		case <-taken:
			taken = nil
			if err := l.tell(told{penLost: true, notice: s.readings.taker(l.pen) + " writes now; you still read"}); err != nil {
				return err
			}
		case <-alive.C:
			if err := l.tell(told{}); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// notice says why a console that is followed shows nothing new; nothing if it
// is open.
func (s *Server) notice(r *reading, l look, problem string) string {
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
	r, err := s.readings.find(req.Msg)
	if err != nil {
		return nil, err
	}
	r.take(req.Msg)
	return connect.NewResponse(&ingotv1.ConsoleServiceSendResponse{}), nil
}

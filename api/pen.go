package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
)

// A pen is the right to write on a console. One has it at a time, as long as
// the stream lives that it was lent to.
type pen struct {
	id         string
	user       string
	allocation *string // that the machine must have; nil for an operator
	since      time.Time
	gone       chan struct{} // closed when it was taken
	taker      *pen          // who took it; guarded by the mu of readings
}

// newPen returns a pen that nobody has lent yet; allocation is nil for an
// operator.
func newPen(user string, allocation *string) *pen {
	return &pen{id: rand.Text(), user: user, allocation: allocation, gone: make(chan struct{})}
}

// name returns what shows that one has the pen; nothing for none.
func (p *pen) name() string {
	if p == nil {
		return ""
	}
	return p.id
}

// taken returns a channel that is closed when somebody takes the pen.
func (p *pen) taken() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.gone
}

// holder says who has the pen. Which operator is a matter of operators.
func (p *pen) holder(to *pen) string {
	if p.allocation == nil && to.allocation != nil {
		return "an operator"
	}
	return p.user
}

// lend gives the pen of a console, if one is wanted.
func (a *readings) lend(r *reading, p *pen, take bool) error {
	if p == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := r.pen; old != nil {
		if !take {
			return fault.Newf(fault.Conflict, "machine "+r.machine, "%s has been writing on its console since %s", old.holder(p), old.since.UTC().Format(time.RFC3339)).
				Do("only read, or take over with 'ingot machine console --take'")
		}
		old.taker = p
		close(old.gone)
	}
	p.since = time.Now()
	r.pen = p
	a.move()
	return nil
}

// giveBack ends the lending of a pen, unless somebody has taken it already.
func (a *readings) giveBack(r *reading, p *pen) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p != nil && r.pen == p {
		r.pen = nil
		a.move()
	}
}

// taker says who took a pen.
func (a *readings) taker(p *pen) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return p.taker.holder(p)
}

// has reports whether a pen is still that of a console.
func (a *readings) has(r *reading, p *pen) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return r.pen == p
}

// shown returns the reading whose pen a user shows: as an operator, or as a
// member of a machine's project.
func (a *readings) shown(machine, id, user string, operator bool) (*reading, *pen, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.open[machine]
	if r == nil || r.pen == nil || subtle.ConstantTimeCompare([]byte(r.pen.id), []byte(id)) == 0 || r.pen.user != user || (r.pen.allocation == nil) != operator {
		return nil, nil, noPen(machine)
	}
	return r, r.pen, nil
}

func noPen(machine string) error {
	return fault.New(fault.Precondition, "machine "+machine, "nothing was typed: the console's pen is with somebody else", "take it with 'ingot machine console --take'")
}

// Write implements ingot.v1.
func (s consoles) Write(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceWriteRequest]) (*connect.Response[ingotv1.ConsoleServiceWriteResponse], error) {
	m := req.Msg
	if _, err := own(s.view(ctx), m.GetUuid(), m.GetProject()); err != nil {
		return nil, err
	}
	r, p, err := s.readings.shown(m.GetUuid(), m.GetPen(), callerOf(ctx).User(), false)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, r, p, m.GetKeys()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.ConsoleServiceWriteResponse{}), nil
}

// WriteAny implements ingot.v1.
func (s consoles) WriteAny(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceWriteAnyRequest]) (*connect.Response[ingotv1.ConsoleServiceWriteAnyResponse], error) {
	m := req.Msg
	r, p, err := s.readings.shown(m.GetUuid(), m.GetPen(), callerOf(ctx).User(), true)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, r, p, m.GetKeys()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.ConsoleServiceWriteAnyResponse{}), nil
}

// keys are what is typed at once, on their way to the site. They are kept no
// longer.
type keys struct {
	data    []byte
	pen     *pen
	number  uint64
	settled chan struct{} // closed when err is how it ended
	err     error
}

const (
	// keysTaken is how long a site may take to ask for keys: it may have to
	// connect again.
	keysTaken = 10 * time.Second
	// keysTyped is how long it may then take to say what became of them.
	keysTyped = 15 * time.Second
)

// write has the site type keys and waits until it has. The error is a
// fault.Conflict if some may have been typed; otherwise none were.
func (s *Server) write(ctx context.Context, r *reading, p *pen, data []byte) error {
	if p.allocation != nil {
		a, _ := records.Allocations.Peek(s.db.Snapshot(), r.machine)
		if a.GetAllocation().GetUuid() != *p.allocation {
			return fault.New(fault.NotFound, "machine "+r.machine, "is no longer allocated to the project", "")
		}
	}
	k := &keys{data: data, pen: p, settled: make(chan struct{})}
	t := time.NewTimer(keysTaken)
	defer t.Stop()
	select {
	case r.keys <- k:
	case <-p.gone:
		return noPen(r.machine)
	case <-r.over:
		return noPen(r.machine)
	case <-t.C:
		return fault.New(fault.Precondition, "machine "+r.machine, "nothing was typed: the management server of partition "+r.partition+" is away", "try again")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-k.settled:
		return k.err
	case <-ctx.Done(): // it may be typed nevertheless
		return context.Cause(ctx)
	}
}

// Keys implements ingot.v1.
func (s consoles) Keys(ctx context.Context, req *connect.Request[ingotv1.ConsoleServiceKeysRequest], stream *connect.ServerStream[ingotv1.ConsoleServiceKeysResponse]) error {
	r, err := s.readings.find(req.Msg)
	if err != nil {
		return err
	}
	newer := r.listen()
	if err := stream.Send(&ingotv1.ConsoleServiceKeysResponse{}); err != nil { // the site learns that it is heard
		return err
	}
	alive := time.NewTicker(s.cfg.LifeSign)
	defer alive.Stop()
	for ctx.Err() == nil {
		send := &ingotv1.ConsoleServiceKeysResponse{}
		var k *keys
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-newer:
			return fault.New(fault.Conflict, "reading "+r.id, "another stream gets its keys", "")
		case <-r.over:
			return nil
		case <-alive.C:
		case k = <-r.keys:
			if !s.readings.has(r, k.pen) {
				k.settle(noPen(r.machine))
				continue
			}
			if send.Number = r.fly(k, newer); send.Number == 0 {
				continue
			}
			send.Keys, send.Allocation = k.data, k.pen.allocation
		}
		if err := stream.Send(send); err != nil {
			r.land(send.GetNumber(), unsure(r.machine))
			return err
		}
		if k != nil {
			r.awaitTyped(ctx, k)
		}
	}
	return context.Cause(ctx)
}

// Typed implements ingot.v1.
func (s consoles) Typed(_ context.Context, req *connect.Request[ingotv1.ConsoleServiceTypedRequest]) (*connect.Response[ingotv1.ConsoleServiceTypedResponse], error) {
	r, err := s.readings.find(req.Msg)
	if err != nil {
		return nil, err
	}
	r.land(req.Msg.GetNumber(), r.outcome(req.Msg))
	return connect.NewResponse(&ingotv1.ConsoleServiceTypedResponse{}), nil
}

// outcome says what became of keys to who typed them.
func (r *reading) outcome(req *ingotv1.ConsoleServiceTypedRequest) func(*keys) error {
	return func(k *keys) error {
		object, why := "machine "+r.machine, ""
		if k.pen.allocation == nil && req.GetError() != "" { // BMCs are for operators
			why = ": " + req.GetError()
		}
		switch req.GetOutcome() {
		case ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED:
			return nil
		case ingotv1.ConsoleKeys_CONSOLE_KEYS_NOT_OWNED:
			return fault.New(fault.Precondition, object, "nothing was typed: its management server does not know that it is the project's", "try again")
		case ingotv1.ConsoleKeys_CONSOLE_KEYS_SHARED:
			return fault.New(fault.Precondition, object, "nothing was typed: its console leads to the BMC's own command line, where only operators may type", "ask an operator")
		case ingotv1.ConsoleKeys_CONSOLE_KEYS_STUCK:
			return fault.New(fault.Conflict, object, "some of it may not have been typed: the BMC does not take it"+why, "look at what the console shows")
		}
		return fault.New(fault.Precondition, object, "nothing was typed: its console is not open"+why, "try again")
	}
}

// unsure says that nobody knows whether keys were typed.
func unsure(machine string) func(*keys) error {
	return func(*keys) error {
		return fault.New(fault.Conflict, "machine "+machine, "it is not known whether all of it was typed: the management server has gone away", "look at what the console shows")
	}
}

func (k *keys) settle(err error) {
	k.err = err
	close(k.settled)
}

// listen makes a stream the one that gets the keys, until the channel it
// returns is closed. What the one before got may have been lost.
func (r *reading) listen() (newer chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newer != nil {
		close(r.newer)
	}
	if r.flight != nil {
		r.flight.settle(unsure(r.machine)(r.flight))
		r.flight = nil
	}
	r.newer = make(chan struct{})
	return r.newer
}

// fly numbers keys that a stream is about to send. There is none if another
// stream has come between: then they are settled.
func (r *reading) fly(k *keys, newer chan struct{}) (number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newer != newer {
		k.settle(fault.New(fault.Unavailable, "machine "+r.machine, "nothing was typed: the management server has connected again", "try again"))
		return 0
	}
	r.heard++
	k.number, r.flight = r.heard, k
	return k.number
}

// land settles the keys of a number, if they are still on their way.
func (r *reading) land(number uint64, how func(*keys) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.flight; k != nil && k.number == number {
		r.flight = nil
		k.settle(how(k))
	}
}

// awaitTyped waits until it is known what became of keys, or no longer will be.
func (r *reading) awaitTyped(ctx context.Context, k *keys) {
	t := time.NewTimer(keysTyped)
	defer t.Stop()
	select {
	case <-k.settled:
	case <-ctx.Done():
		r.land(k.number, unsure(r.machine))
	case <-t.C:
		r.land(k.number, unsure(r.machine))
	}
}

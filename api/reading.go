package api

import (
	"context"
	"sync"
	"time"

	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

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
	keys                   chan *keys    // for the site, one at a time
	over                   chan struct{} // closed when nobody reads any more
	readers                int           // guarded by the mu of readings, like pen
	pen                    *pen          // nil if nobody writes

	mu      sync.Mutex
	source  string
	shift   uint64 // from the source's positions to those of tail; may wrap around
	whole   bool   // everything that the site had has come once
	state   ingotv1.ConsoleState
	problem string
	turned  chan struct{} // closed and replaced when whole, state or problem change
	heard   uint64        // keys that were numbered
	flight  *keys         // with the site; nil if none are
	newer   chan struct{} // closed when the site asks for the keys again
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
		r = &reading{id: newID(), machine: machine, partition: partition, tail: console.NewTail(consoleKeep), turned: make(chan struct{}), keys: make(chan *keys), over: make(chan struct{})}
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
		close(r.over)
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
			all = append(all, &ingotv1.ConsoleReading{Uuid: r.machine, Id: r.id, Written: r.pen != nil})
		}
	}
	return all, a.moved
}

// find returns the reading that a site means. One that is over, or another
// partition's, is not found.
func (a *readings) find(req interface {
	GetPartition() string
	GetUuid() string
	GetReading() string
}) (*reading, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.open[req.GetUuid()]; r != nil && r.id == req.GetReading() && r.partition == req.GetPartition() {
		return r, nil
	}
	return nil, fault.New(fault.NotFound, "reading "+req.GetReading(), "is over", "")
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

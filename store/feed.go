package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// An Event is what one revision did to one record.
type Event struct {
	Rev     Rev
	Table   string // empty in a bookmark: nothing of interest happened up to Rev
	Key     string
	Value   []byte // for Table.Decode; must not be modified
	Old     []byte // the record before; nil if there was none
	Deleted bool
	Last    bool // the last event of its revision that the watch shows
}

// WatchOptions say what to watch.
type WatchOptions struct {
	// After is the revision to continue from, that of a Snapshot or of an
	// Event that was Last or a bookmark. Zero is the present.
	After Rev
	// Prefixes are those of keys to watch, each the name of a table, a slash
	// and perhaps the start of a key. None means everything.
	Prefixes []string
	// Idle, if set, asks for a bookmark when nothing of interest has happened
	// for so long; resuming after it spares looking through what was of no
	// interest.
	Idle time.Duration
}

func (o WatchOptions) match(full string) bool {
	return len(o.Prefixes) == 0 || slices.ContainsFunc(o.Prefixes, func(p string) bool { return strings.HasPrefix(full, p) })
}

// historyBytes bounds the values that are kept only for watches.
const historyBytes = 64 << 20

// A step is the events of one revision.
type step struct {
	rev    Rev
	events []Event
}

func (s step) size() int {
	n := 0
	for _, e := range s.events {
		n += len(e.Value) + len(e.Old)
	}
	return n
}

// A hub hands the one watch of the process to any number of consumers. It
// keeps the last revisions once for all of them, and wakes only those whose
// prefixes a revision touches; a consumer that falls behind what is kept is
// told so and lists again.
type hub struct {
	history int

	mu      sync.Mutex
	steps   []step // ascending
	bytes   int
	floor   Rev // everything after it is in steps
	head    Rev
	topics  map[string]map[*consumer]bool // by prefix
	lengths []int                         // of the prefixes in topics, ascending
	closed  error
}

// A consumer is one Watch.
type consumer struct {
	WatchOptions
	from Rev           // the first revision it has to look at; 0 if there is none
	wake chan struct{} // has room for one
}

func newHub(history int, rev Rev) *hub {
	return &hub{history: history, floor: rev, head: rev, topics: map[string]map[*consumer]bool{}}
}

// publish adds a revision.
func (h *hub) publish(rev Rev, events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = rev
	if len(events) == 0 {
		return
	}
	s := step{rev, events}
	h.steps = append(h.steps, s)
	h.bytes += s.size()
	for len(h.steps) > h.history || h.bytes > historyBytes && len(h.steps) > 1 {
		h.floor = h.steps[0].rev
		h.bytes -= h.steps[0].size()
		h.steps[0] = step{}
		h.steps = h.steps[1:]
	}
	for _, e := range events {
		full := e.Table + "/" + e.Key
		for _, n := range h.lengths {
			if n > len(full) {
				break
			}
			for c := range h.topics[full[:n]] {
				c.rouse(rev)
			}
		}
	}
}

func (c *consumer) rouse(rev Rev) {
	if c.from != 0 {
		return // it has been woken already
	}
	c.from = rev
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close ends every watch.
func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = err
	for _, cs := range h.topics {
		for c := range cs {
			c.rouse(h.head)
		}
	}
}

// join adds a consumer, and leave takes it away.
func (h *hub) join(c *consumer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.After == 0 {
		c.After = h.head
	}
	if c.After < h.floor {
		return tooOld(c.After)
	}
	if c.After < h.head {
		c.rouse(c.After + 1)
	}
	prefixes := c.Prefixes
	if len(prefixes) == 0 {
		prefixes = []string{""}
	}
	for _, p := range prefixes {
		if h.topics[p] == nil {
			h.topics[p] = map[*consumer]bool{}
		}
		h.topics[p][c] = true
	}
	h.measure()
	return nil
}

func (h *hub) leave(c *consumer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for p, cs := range h.topics {
		if len(c.Prefixes) > 0 && !slices.Contains(c.Prefixes, p) {
			continue
		}
		if delete(cs, c); len(cs) == 0 {
			delete(h.topics, p)
		}
	}
	h.measure()
}

func (h *hub) measure() {
	h.lengths = h.lengths[:0]
	for p := range h.topics {
		if i, found := slices.BinarySearch(h.lengths, len(p)); !found {
			h.lengths = slices.Insert(h.lengths, i, len(p))
		}
	}
}

// take returns some of the steps a consumer has to look at, and the head. If
// there are no steps, the consumer has seen all up to the head.
func (h *hub) take(c *consumer) ([]step, Rev, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != nil {
		return nil, 0, h.closed
	}
	if c.from == 0 {
		return nil, h.head, nil
	}
	if c.from <= h.floor {
		return nil, 0, tooOld(c.from)
	}
	i := sort.Search(len(h.steps), func(i int) bool { return h.steps[i].rev >= c.from })
	j := min(i+64, len(h.steps))
	c.from = 0
	if j < len(h.steps) {
		c.from = h.steps[j].rev
	}
	return slices.Clone(h.steps[i:j]), h.head, nil
}

func tooOld(rev Rev) error {
	return fault.New(fault.Conflict, fmt.Sprintf("revision %d", rev), "is no longer kept", "list again and watch from the revision of the list")
}

// Watch yields every event after a revision below some prefixes, without a gap
// and in order, until ctx ends or it yields an error. Whoever has seen an event
// finds it in every later Snapshot. The error is fault.Conflict if the
// revision, or what a slow consumer has yet to see, is no longer kept: list
// again, and watch from the Snapshot's revision. After a loss of the watch on
// etcd, the events of many revisions may come as one.
func (db *DB) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Event, error] {
	for _, p := range o.Prefixes {
		if i, _, ok := db.locate(p); !ok || i >= len(db.opt.Tables) {
			panic(fmt.Sprintf("store: Watch(%q): the prefix must start with the name of a table and a slash", p))
		}
	}
	return func(yield func(Event, error) bool) {
		if err := db.Wait(ctx, o.After); err != nil {
			if ctx.Err() == nil {
				yield(Event{}, err)
			}
			return
		}
		c := &consumer{WatchOptions: o, wake: make(chan struct{}, 1)}
		if err := db.hub.join(c); err != nil {
			yield(Event{}, err)
			return
		}
		defer db.hub.leave(c)
		for ctx.Err() == nil {
			steps, head, err := db.hub.take(c)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, s := range steps {
				if !c.show(s, yield) {
					return
				}
			}
			if len(steps) == 0 && !c.rest(ctx) && !yield(Event{Rev: head}, nil) {
				return
			}
		}
	}
}

// show yields the events of a step that are of interest.
func (c *consumer) show(s step, yield func(Event, error) bool) bool {
	var held Event
	for _, e := range s.events {
		if !c.match(e.Table + "/" + e.Key) {
			continue
		}
		if held.Rev != 0 && !yield(held, nil) {
			return false
		}
		held = e
	}
	held.Last = true
	return held.Rev == 0 || yield(held, nil)
}

// rest waits for something to look at; false means that it is time for a
// bookmark.
func (c *consumer) rest(ctx context.Context) bool {
	var idle <-chan time.Time
	if c.Idle > 0 {
		t := time.NewTimer(c.Idle)
		defer t.Stop()
		idle = t.C
	}
	select {
	case <-c.wake:
	case <-ctx.Done():
	case <-idle:
		return false
	}
	return true
}

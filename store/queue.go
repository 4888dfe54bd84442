package store

import (
	"context"
	"slices"
	"sync"
)

// A queue lets rivals for a key in this process go one after the other, first
// come first served, instead of racing and losing. It is about speed and
// fairness only; correctness comes from the compares in etcd.
type queue struct {
	mu    sync.Mutex
	lines map[string]*line // of the keys that are held
}

// A line is a held key and those who wait for it.
type line struct{ waiting []chan struct{} }

// A hold is the set of keys one Update holds.
type hold struct {
	q    *queue
	keys []string
}

// busy returns those of the keys that somebody else holds.
func (h *hold) busy(keys []string) []string {
	h.q.mu.Lock()
	defer h.q.mu.Unlock()
	var out []string
	for _, k := range keys {
		if h.q.lines[k] != nil && !slices.Contains(h.keys, k) {
			out = append(out, k)
		}
	}
	return out
}

// take waits for more keys. Keys are taken in one order by everybody, so that
// nobody waits for each other; what is held already is given up first.
func (h *hold) take(ctx context.Context, keys []string) error {
	want := slices.Concat(h.keys, keys)
	slices.Sort(want)
	want = slices.Compact(want)
	if len(want) == len(h.keys) {
		return nil
	}
	h.release()
	for _, k := range want {
		if err := h.q.enter(ctx, k); err != nil {
			h.release()
			return err
		}
		h.keys = append(h.keys, k)
	}
	return nil
}

// release gives up every key.
func (h *hold) release() {
	for _, k := range h.keys {
		h.q.leave(k)
	}
	h.keys = nil
}

func (q *queue) enter(ctx context.Context, key string) error {
	q.mu.Lock()
	l := q.lines[key]
	if l == nil {
		q.lines[key] = &line{}
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	q.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(l.waiting, turn)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // our turn came at the same moment
		q.leave(key)
	}
	return ctx.Err()
}

func (q *queue) leave(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[key]
	if len(l.waiting) == 0 {
		delete(q.lines, key)
		return
	}
	close(l.waiting[0])
	l.waiting = l.waiting[1:]
}

package loop

import (
	"cmp"
	"container/heap"
	"context"
	"iter"
	"sync"
	"time"
)

// A queue holds keys and when each is due. A key is in it at most once.
type queue struct {
	mu       sync.Mutex
	due      map[string]time.Time
	order    entries // of all in due, and of some that have changed since
	failures map[string]int
	wake     chan struct{}
}

// An entry is a key and when it was due when the entry was made.
type entry struct {
	at  time.Time
	key string
}

// entries is a heap: what is due first is on top, and of what is due at the
// same time the first by key.
type entries []entry

func (e entries) Len() int      { return len(e) }
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e entries) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].key, e[j].key)) < 0
}
func (e *entries) Push(x any) { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newQueue(keys iter.Seq[string]) *queue {
	q := &queue{due: map[string]time.Time{}, failures: map[string]int{}, wake: make(chan struct{}, 1)}
	for k := range keys {
		q.add(k, 0)
	}
	return q
}

// add makes a key due after some time, if it is not due earlier.
func (q *queue) add(key string, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(after)
	if was, ok := q.due[key]; ok && !at.Before(was) {
		return
	}
	q.due[key] = at
	heap.Push(&q.order, entry{at, key})
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// done notes that a step succeeded.
func (q *queue) done(key string, again time.Duration) {
	q.forget(key)
	if again > 0 {
		q.add(key, again)
	}
}

// failed notes that a step failed, and makes the key due later and later.
func (q *queue) failed(key string) time.Duration {
	q.mu.Lock()
	n := q.failures[key]
	q.failures[key]++
	q.mu.Unlock()
	wait := min(firstRetry<<min(n, 20), lastRetry)
	q.add(key, wait)
	return wait
}

// forget drops the failures of a key.
func (q *queue) forget(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.failures, key)
}

// next takes the key that is due first, waiting for it until a time or the end
// of ctx.
func (q *queue) next(ctx context.Context, until time.Time) (string, bool) {
	for ctx.Err() == nil {
		key, at, ok := q.take(time.Now())
		if ok {
			return key, true
		}
		if at.IsZero() || until.Before(at) {
			at = until
		}
		wait := time.Until(at)
		if wait <= 0 {
			return "", false
		}
		t := time.NewTimer(wait)
		select {
		case <-q.wake:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return "", false
}

// take takes the key that is due first, if it is due by now; otherwise it says
// when it will be.
func (q *queue) take(now time.Time) (key string, at time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) > 0 {
		first := q.order[0]
		if is, queued := q.due[first.key]; !queued || !is.Equal(first.at) {
			heap.Pop(&q.order) // it was due earlier, and is taken
			continue
		}
		if first.at.After(now) {
			return "", first.at, false
		}
		heap.Pop(&q.order)
		delete(q.due, first.key)
		return first.key, first.at, true
	}
	return "", time.Time{}, false
}

package loop

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestQueue takes keys when they are due, in order, each once.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		never := start.Add(time.Hour)
		q := newQueue(slices.Values([]string{"b", "a"}))
		q.add("c", 3*time.Second)
		q.add("c", 2*time.Second) // earlier counts
		q.add("c", 4*time.Second)
		q.add("a", time.Second) // it is due already
		want := func(key string, after time.Duration) {
			t.Helper()
			got, ok := q.next(t.Context(), never)
			if !ok || got != key || time.Since(start) != after {
				t.Errorf("%q, %t after %s; want %q after %s", got, ok, time.Since(start), key, after)
			}
		}
		want("a", 0)
		want("b", 0)
		want("c", 2*time.Second)

		// A key that is added while somebody waits wakes him.
		go func() {
			time.Sleep(time.Second)
			q.add("d", 0)
		}()
		q.add("e", time.Minute)
		want("d", 3*time.Second)
		// Failures make it due later and later, until it succeeds.
		var waits []time.Duration
		for range 12 {
			waits = append(waits, q.failed("d"))
		}
		if waits[0] != firstRetry || waits[1] != 2*firstRetry || waits[11] != lastRetry {
			t.Errorf("waits %v", waits)
		}
		want("d", 3*time.Second+firstRetry)
		q.done("d", 5*time.Second)
		want("d", 8*time.Second+firstRetry)
		if q.failed("d") != firstRetry {
			t.Error("a success does not forget the failures before")
		}
		want("d", 8*time.Second+2*firstRetry)

		// Waiting ends at its time, and with the context.
		if key, ok := q.next(t.Context(), time.Now().Add(time.Second)); ok {
			t.Errorf("%q was not due", key)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if key, ok := q.next(ctx, never); ok {
			t.Errorf("%q after the end", key)
		}
	})
}

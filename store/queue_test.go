package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestQueueIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{lines: map[string]*line{}}
		first := &hold{q: q}
		if err := first.take(t.Context(), []string{"a", "b"}); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		for i := range 50 {
			keys := [][]string{{"a"}, {"b", "a"}, {"a", "b"}}[i%3]
			ctx, cancel := context.WithCancel(t.Context())
			if i%10 == 9 {
				defer cancel()
			}
			go func() {
				h := &hold{q: q}
				if err := h.take(ctx, keys); err != nil {
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				h.release()
			}()
			synctest.Wait() // it stands in line before the next comes
			if i%10 == 9 {
				cancel()
				synctest.Wait() // and every tenth leaves
			} else {
				defer cancel()
			}
		}
		if busy := (&hold{q: q}).busy([]string{"a", "c"}); fmt.Sprint(busy) != "[a]" {
			t.Errorf("busy: %v", busy)
		}
		first.release()
		synctest.Wait()
		if len(order) != 45 || len(q.lines) != 0 {
			t.Fatalf("order %v, lines %v", order, q.lines)
		}
		// Those who wait for a alone were in line for it in this order.
		var alone []int
		for _, i := range order {
			if i%3 == 0 {
				alone = append(alone, i)
			}
		}
		if !slices.IsSorted(alone) {
			t.Errorf("overtaken: %v", alone)
		}
	})
}

package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestCacheBuildsOnce(t *testing.T) {
	c, err := OpenCache(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var built atomic.Int32
	get := func(input string) string {
		dir, err := c.build(t.Context(), "thing", []string{input}, func(dir string) error {
			built.Add(1)
			return os.WriteFile(filepath.Join(dir, "x"), []byte(input), 0o644)
		})
		if err != nil {
			t.Error(err)
		}
		return dir
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { get("a") })
	}
	wg.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if b, err := os.ReadFile(filepath.Join(get("b"), "x")); err != nil || string(b) != "b" {
		t.Errorf("other inputs give %q, %v", b, err)
	}
}

func TestCacheKeepsNothingHalf(t *testing.T) {
	c, err := OpenCache(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	_, err = c.build(t.Context(), "thing", nil, func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, "thing-*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, ".new-*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestCacheForgetsWhatNobodyUses(t *testing.T) {
	c, err := OpenCache(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func(input string) string {
		dir, err := c.build(t.Context(), "thing", []string{input}, func(string) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old, recent := get("old"), get("recent")
	long := time.Now().Add(-unused - time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	get("new")
	if _, err := os.Stat(old); err == nil {
		t.Error("the unused one is still there")
	}
	if _, err := os.Stat(recent); err != nil {
		t.Error("the recent one is gone")
	}
}

func TestLockWaitsNoLongerThanAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	unlock()
	again, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

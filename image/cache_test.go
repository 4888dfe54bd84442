package image_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
)

func openCache(t *testing.T, dir string, size int64) *image.Cache {
	t.Helper()
	c, err := image.OpenCache(dir, size, quick)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fetch(t *testing.T, c *image.Cache, src image.Source) image.Entry {
	t.Helper()
	e, err := c.Fetch(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestCacheServes(t *testing.T) {
	data := noise(1 << 20)
	o := serve(t, data, nil)
	dir := t.TempDir()
	c := openCache(t, dir, 10<<20)
	src := pinned(data, o)
	src.SHA512 = sha512Of(data)
	e := fetch(t, c, src)
	if e.SHA256 != src.SHA256 || e.Size != src.Size {
		t.Errorf("%+v", e)
	}
	fetch(t, c, src)
	fetch(t, c, image.Source{URLs: src.URLs, SHA512: src.SHA512})
	if o.requests.Load() != 1 {
		t.Errorf("%d requests", o.requests.Load())
	}

	// What one process left, the next one has.
	s := httptest.NewServer(openCache(t, dir, 10<<20))
	defer s.Close()
	for _, name := range []string{"/sha256-" + src.SHA256, "/sha512-" + src.SHA512} {
		got, err := image.Verify(t.Context(), image.Source{URLs: []string{s.URL + name}, SHA256: src.SHA256}, quick)
		if err != nil || got.Size != src.Size {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, c := range []struct {
		method, path, rng string
		status            int
		length            int
	}{
		{"GET", "/sha256-" + src.SHA256, "bytes=1000-1009", 206, 10},
		{"HEAD", "/sha256-" + src.SHA256, "", 200, 0},
		{"GET", "/sha256-" + sha256Of(nil), "", 404, -1},
		{"GET", "/", "", 404, -1},
		{"GET", "/sha256-" + src.SHA256 + "/..", "", 404, -1},
		{"PUT", "/sha256-" + src.SHA256, "", 405, -1},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.rng != "" {
			req.Header.Set("Range", c.rng)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || c.length >= 0 && len(body) != c.length {
			t.Errorf("%s %s: %s, %d bytes, %v", c.method, c.path, resp.Status, len(body), err)
		}
		if c.status == 206 && string(body) != string(data[1000:1010]) {
			t.Error("wrong range")
		}
	}
}

func TestCacheTransfersOnce(t *testing.T) {
	data := noise(1 << 20)
	o := serve(t, data, func(o *origin) { o.hang = make(chan struct{}) })
	c := openCache(t, t.TempDir(), 10<<20)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := c.Fetch(t.Context(), pinned(data, o)); err != nil {
				t.Error(err)
			}
		})
	}
	close(o.hang)
	all.Wait()
	if o.requests.Load() != 1 {
		t.Errorf("%d requests", o.requests.Load())
	}
}

// One that gives up does not take the others with it.
func TestCacheHandsOver(t *testing.T) {
	data := noise(1 << 20)
	o := serve(t, data, func(o *origin) { o.hang = make(chan struct{}) })
	c := openCache(t, t.TempDir(), 10<<20)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	first := make(chan error)
	go func() {
		_, err := c.Fetch(ctx, pinned(data, o))
		first <- err
	}()
	for o.requests.Load() == 0 {
		runtime.Gosched() // until the first is on its way
	}
	all.Go(func() { fetch(t, c, pinned(data, o)) })
	cancel()
	wantError(t, <-first, fault.Unavailable, "interrupted")
	close(o.hang)
	all.Wait()
}

func TestCacheResumes(t *testing.T) {
	data := noise(1 << 20)
	dir := t.TempDir()
	bad := serve(t, data, func(o *origin) { o.cut = 700_000; o.noRange = true })
	_, err := openCache(t, dir, 10<<20).Fetch(t.Context(), pinned(data, bad))
	wantError(t, err, fault.Unavailable)
	parts, _ := filepath.Glob(filepath.Join(dir, "part-*"))
	if len(parts) != 1 {
		t.Fatalf("parts: %v", parts)
	}
	good := serve(t, data, nil)
	fetch(t, openCache(t, dir, 10<<20), pinned(data, good))
	if good.ranges.Load() != 1 {
		t.Error("did not resume")
	}

	// A part that is not the beginning of the file does no harm.
	if err := os.WriteFile(parts[0], noise(2000)[1000:], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "sha256-"+sha256Of(data))); err != nil {
		t.Fatal(err)
	}
	fetch(t, openCache(t, dir, 10<<20), pinned(data, good))
	// Nor does one that is longer.
	long := pinned(data[:1000], serve(t, data[:1000], nil))
	c := openCache(t, dir, 10<<20)
	_, err = c.Fetch(t.Context(), image.Source{URLs: []string{bad.url()}, SHA256: long.SHA256})
	wantError(t, err, fault.Unavailable)
	fetch(t, c, long)
	if parts, _ = filepath.Glob(filepath.Join(dir, "part-*")); len(parts) != 0 {
		t.Errorf("left: %v", parts)
	}
}

func TestCacheEvicts(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 2_500_000)
	var srcs []image.Source
	for i := range 4 {
		data := noise(1_000_000 + i)
		srcs = append(srcs, pinned(data, serve(t, data, nil)))
	}
	fetch(t, c, srcs[0])
	fetch(t, c, srcs[1])
	fetch(t, c, srcs[0])
	fetch(t, c, srcs[2]) // pushes 1 out
	for i, want := range []bool{true, false, true, false} {
		if _, got := c.Lookup(srcs[i]); got != want {
			t.Errorf("%d in the cache: %v", i, got)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 || len(c.Entries()) != 2 {
		t.Errorf("files %v, entries %v, %v", files, c.Entries(), err)
	}
	// Too large, known before and known while it arrives.
	data := noise(3_000_000)
	for _, o := range []*origin{serve(t, data, nil), serve(t, data, func(o *origin) { o.noLength = true })} {
		_, err := c.Fetch(t.Context(), image.Source{URLs: []string{o.url()}, SHA256: sha256Of(data)})
		wantError(t, err, fault.Exhausted, "does not fit into 2500000")
	}
	// A smaller cache next time.
	if n := len(openCache(t, dir, 1_100_000).Entries()); n > 1 {
		t.Errorf("%d entries", n)
	}
}

func TestCacheRefuses(t *testing.T) {
	data := noise(1000)
	o := serve(t, data, nil)
	dir := t.TempDir()
	c := openCache(t, dir, 1<<20)
	src := pinned(data, o)
	src.SHA256 = strings.Repeat("0", 64)
	_, err := c.Fetch(t.Context(), src)
	wantError(t, err, fault.Precondition, "sha256 is")
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
	_, err = c.Fetch(t.Context(), image.Source{URLs: []string{o.url()}})
	wantError(t, err, fault.Invalid, "no digest")
	e, err := c.Fetch(t.Context(), image.Source{URLs: []string{o.url()}, Unpinned: true})
	if err != nil || e.SHA256 != sha256Of(data) {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := image.OpenCache(dir, 0, quick); err == nil {
		t.Error("a cache without size")
	}
	if _, err := image.OpenCache(filepath.Join(e.Path, "under", fmt.Sprint(1)), 1, quick); err == nil {
		t.Error("a cache in a file")
	}
}

package image_test

import (
	"bytes"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
)

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

func TestVerify(t *testing.T) {
	data := noise(3 << 20)
	for _, c := range []struct {
		name    string
		servers func(t *testing.T) []*origin
	}{
		{"one", func(t *testing.T) []*origin { return []*origin{serve(t, data, nil)} }},
		{"no length", func(t *testing.T) []*origin { return []*origin{serve(t, data, func(o *origin) { o.noLength = true })} }},
		{"breaks again and again", func(t *testing.T) []*origin {
			return []*origin{serve(t, data, func(o *origin) { o.cut = 300_000 })}
		}},
		{"not there, then there", func(t *testing.T) []*origin {
			return []*origin{serve(t, data, func(o *origin) { o.failFirst.Store(3) })}
		}},
		{"hangs up, then answers", func(t *testing.T) []*origin {
			return []*origin{serve(t, data, func(o *origin) { o.hangUp.Store(3); o.noLength = true })}
		}},
		{"first is gone", func(t *testing.T) []*origin {
			return []*origin{serve(t, nil, func(o *origin) { o.status = 404 }), serve(t, data, nil)}
		}},
		{"first breaks, second has no ranges", func(t *testing.T) []*origin {
			return []*origin{
				serve(t, data, func(o *origin) { o.cut = 1_000_000 }),
				serve(t, data, func(o *origin) { o.noRange = true }),
			}
		}},
		{"first has another size", func(t *testing.T) []*origin {
			return []*origin{serve(t, data[1:], nil), serve(t, data, nil)}
		}},
		{"first stalls", func(t *testing.T) []*origin {
			return []*origin{serve(t, data, func(o *origin) { o.hang = make(chan struct{}) }), serve(t, data, nil)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := quick
			opt.Stall = 200 * time.Millisecond
			got, err := image.Verify(t.Context(), pinned(data, c.servers(t)...), opt)
			if err != nil {
				t.Fatal(err)
			}
			if got.SHA256 != sha256Of(data) || got.Size != int64(len(data)) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestVerifyResumes(t *testing.T) {
	data := noise(1 << 20)
	o := serve(t, data, func(o *origin) { o.cut = 400_000 })
	if _, err := image.Verify(t.Context(), pinned(data, o), quick); err != nil {
		t.Fatal(err)
	}
	if o.requests.Load() != 3 || o.ranges.Load() != 2 {
		t.Errorf("%d requests, %d for a range", o.requests.Load(), o.ranges.Load())
	}
}

func TestVerifyFails(t *testing.T) {
	data := noise(1 << 20)
	changed := bytes.Clone(data)
	changed[500_000]++
	for _, c := range []struct {
		name  string
		rude  func(*origin)
		kind  error
		parts []string
	}{
		{"gone", func(o *origin) { o.status = 404 }, fault.Precondition, []string{"404 Not Found", "check the image's url"}},
		{"forbidden", func(o *origin) { o.status = 403 }, fault.Precondition, []string{"403"}},
		{"down", func(o *origin) { o.status = 503 }, fault.Unavailable, []string{"after 4 attempts", "503"}},
		{"silent", func(o *origin) { o.hang = make(chan struct{}) }, fault.Unavailable, []string{"nothing came for"}},
		{"changed", func(o *origin) { o.data = changed }, fault.Precondition, []string{"sha256 is"}},
		{"longer", func(o *origin) { o.data = append(bytes.Clone(data), 1) }, fault.Precondition, []string{"has 1048577 bytes there"}},
		{"shorter", func(o *origin) { o.data = data[:1000] }, fault.Precondition, []string{"has 1000 bytes there"}},
		{"shorter than it says", func(o *origin) { o.data = data[:300_000]; o.noLength = true }, fault.Precondition, []string{"416"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := serve(t, data, c.rude)
			opt := quick
			opt.Stall = 50 * time.Millisecond
			_, err := image.Verify(t.Context(), pinned(data, o), opt)
			wantError(t, err, c.kind, c.parts...)
		})
	}
}

func TestVerifyUnpinned(t *testing.T) {
	data := noise(1000)
	// The size is not known before: no answer must not pass for an empty file.
	o := serve(t, data, func(o *origin) { o.hangUp.Store(3); o.noLength = true })
	src := image.Source{URLs: []string{o.url()}, Unpinned: true}
	got, err := image.Verify(t.Context(), src, quick)
	if err != nil || got.SHA256 != sha256Of(data) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestProgress(t *testing.T) {
	data := noise(4 << 20)
	o := serve(t, data, func(o *origin) { o.cut = 1 << 20 })
	var last image.Progress
	var calls, inside atomic.Int32
	opt := quick
	opt.Interval = time.Millisecond
	opt.Progress = func(p image.Progress) {
		if inside.Add(1) != 1 {
			t.Error("called twice at a time")
		}
		if p.Read < last.Read || p.Elapsed < last.Elapsed || p.Percent() > 100 {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
		calls.Add(1)
		inside.Add(-1)
	}
	if _, err := image.Verify(t.Context(), pinned(data, o), opt); err != nil {
		t.Fatal(err)
	}
	if last.Percent() != 100 || last.Total != int64(len(data)) || last.Left != 0 {
		t.Errorf("%d calls, last %+v", calls.Load(), last)
	}
	if got := (image.Progress{Read: 3e9, Total: 4e9, Left: 90 * time.Second}).String(); got != "75 % (3.00 of 4.00 GB), 1m30s left" {
		t.Error(got)
	}
}

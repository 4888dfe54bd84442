package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A stream is a source on its way through its digests. It fetches ahead of its
// reader, in a goroutine that ends with close.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc
	src    Source
	body   *body
	digest digests
	ahead  *ahead
	began  time.Time

	read, total, unpacked, entries atomic.Int64

	progress sync.WaitGroup
	report   func() // the last call of Progress
}

// open starts the transfer of a source. The digests have seen the first have
// bytes of it already.
func open(ctx context.Context, src Source, opt Options, have int64, seen digests) (*stream, error) {
	if err := src.check(); err != nil {
		return nil, err
	}
	opt = opt.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{ctx: ctx, cancel: cancel, src: src, began: time.Now(), digest: seen}
	s.read.Store(have)
	s.body = newBody(ctx, src, opt, have)
	s.ahead = readAhead(reader(s.fetch), 8, 256<<10)
	if opt.Progress != nil {
		s.watch(opt)
	}
	return s, nil
}

// fetch reads from the network and digests. It runs in the goroutine of ahead.
func (s *stream) fetch(p []byte) (int, error) {
	n, err := s.body.Read(p)
	_, _ = s.digest.Write(p[:n]) // never fails
	s.total.Store(s.body.total)
	return n, err
}

// Read implements io.Reader: the file's bytes. Their digests are not yet known
// to be right.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ahead.Read(p)
	s.read.Add(int64(n))
	return n, err
}

// finish reads what is left of the file and checks its size and digests.
func (s *stream) finish() (Result, error) {
	if _, err := io.Copy(io.Discard, s); err != nil {
		return Result{}, err
	}
	r := Result{
		SHA256: s.digest.sha256(), SHA512: s.digest.sha512(), Size: s.read.Load(),
		Unpacked: s.unpacked.Load(), Entries: s.entries.Load(), Took: time.Since(s.began),
	}
	if err := s.src.matches(r); err != nil {
		return Result{}, err
	}
	if s.report != nil {
		s.report()
	}
	return r, nil
}

// matches compares what was found with what is pinned.
func (s Source) matches(r Result) error {
	for _, d := range []struct{ name, want, got string }{{"sha256", s.SHA256, r.SHA256}, {"sha512", s.SHA512, r.SHA512}} {
		if d.want != "" && d.want != d.got {
			return fault.Newf(fault.Precondition, s.object(), "%s is %s and should be %s", d.name, d.got, d.want).Do(
				"nothing of it may be used; find out who changed the file, or pin the digest of the right one")
		}
	}
	if s.Size > 0 && s.Size != r.Size {
		return fault.Newf(fault.Precondition, s.object(), "has %d bytes and should have %d", r.Size, s.Size)
	}
	return nil
}

// close ends the transfer and waits for its goroutines.
func (s *stream) close() {
	s.cancel()
	s.progress.Wait()
	s.ahead.close()
	s.body.Close()
}

// watch reports progress from a goroutine that ends with the transfer.
func (s *stream) watch(opt Options) {
	var mu sync.Mutex
	var last Progress
	rate := 0.0 // bytes per second, smoothed
	report := func() {
		mu.Lock()
		defer mu.Unlock()
		p := Progress{
			Read: s.read.Load(), Total: s.total.Load(), Unpacked: s.unpacked.Load(), Entries: s.entries.Load(),
			Elapsed: time.Since(s.began), Left: -1,
		}
		if dt := (p.Elapsed - last.Elapsed).Seconds(); dt > 0 {
			now := float64(p.Read-last.Read) / dt
			if last.Elapsed == 0 {
				rate = now
			}
			rate += (now - rate) * min(1, dt/10)
		}
		if p.Total > 0 && rate > 0 {
			p.Left = time.Duration(float64(p.Total-p.Read) / rate * float64(time.Second)).Round(time.Millisecond)
		}
		last = p
		opt.Progress(p)
	}
	s.report = report
	s.progress.Go(func() {
		tick := time.NewTicker(opt.Interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-s.ctx.Done():
				return
			}
		}
	})
}

// digests are those of a file: always its sha256, because that is its name in
// caches, and its sha512 if that is pinned.
type digests struct{ h256, h512 hash.Hash }

func newDigests(src Source) digests {
	d := digests{h256: sha256.New()}
	if src.SHA512 != "" {
		d.h512 = sha512.New()
	}
	return d
}

// Write implements io.Writer. It never fails.
func (d digests) Write(p []byte) (int, error) {
	d.h256.Write(p)
	if d.h512 != nil {
		d.h512.Write(p)
	}
	return len(p), nil
}

func (d digests) sha256() string { return hex.EncodeToString(d.h256.Sum(nil)) }

func (d digests) sha512() string {
	if d.h512 == nil {
		return ""
	}
	return hex.EncodeToString(d.h512.Sum(nil))
}

// reader is a function as an io.Reader.
type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// ahead reads from another reader in a goroutine of its own, a few buffers
// before its own reader, so that both work at the same time.
type ahead struct {
	full, free chan []byte
	stop       chan struct{}
	done       sync.WaitGroup
	stopping   sync.Once
	err        error // valid when full is closed

	held, rest []byte // the buffer being read, and what is left of it
}

// readAhead starts to read r into n buffers of size bytes. The goroutine ends
// with r, or with close once r returns.
func readAhead(r io.Reader, n, size int) *ahead {
	a := &ahead{full: make(chan []byte, n), free: make(chan []byte, n), stop: make(chan struct{})}
	for range n {
		a.free <- make([]byte, size)
	}
	a.done.Go(func() {
		defer close(a.full)
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.stop:
				a.err = io.ErrClosedPipe
				return
			}
			n, err := r.Read(buf)
			if n > 0 {
				a.full <- buf[:n] // never blocks: there are as many places as buffers
			} else {
				a.free <- buf
			}
			if err != nil {
				a.err = err
				return
			}
		}
	})
	return a
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.held != nil {
			a.free <- a.held[:cap(a.held)]
			a.held = nil
		}
		buf, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.held, a.rest = buf, buf
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close stops reading ahead and waits for the goroutine. What it reads from
// must not block forever.
func (a *ahead) close() {
	a.stopping.Do(func() { close(a.stop) })
	a.done.Wait()
}

// unpackedBy counts towards progress.
func (s *stream) unpackedBy(entries, bytes int64) {
	s.entries.Add(entries)
	s.unpacked.Add(bytes)
}

var _ fmt.Stringer = Progress{}

// String returns the progress for people: "42 % (1.2 of 2.9 GB), 12s left".
func (p Progress) String() string {
	gb := func(n int64) float64 { return float64(n) / 1e9 }
	if p.Total <= 0 {
		return fmt.Sprintf("%.2f GB", gb(p.Read))
	}
	s := fmt.Sprintf("%.0f %% (%.2f of %.2f GB)", p.Percent(), gb(p.Read), gb(p.Total))
	if p.Left >= 0 {
		s += fmt.Sprintf(", %s left", p.Left.Round(time.Second))
	}
	return s
}

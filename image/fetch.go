package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A body is the file behind a source, read once from its first byte to its
// last. Whatever happens to a connection, it goes on at the same byte, on the
// next mirror.
type body struct {
	ctx context.Context
	src Source
	opt Options

	at    int64 // offset of the next byte
	total int64 // size of the file; 0 while not known

	mirror  int      // of src.URLs, the one in use or to be tried next
	dead    []error  // by mirror: why it can never deliver
	version []string // by mirror: what its first answer said the file's is
	barren  int      // attempts since the last byte
	current *response
}

func newBody(ctx context.Context, src Source, opt Options, at int64) *body {
	return &body{
		ctx: ctx, src: src, opt: opt, at: at, total: src.Size,
		dead: make([]error, len(src.URLs)), version: make([]string, len(src.URLs)),
	}
}

// Read implements io.Reader. An error other than io.EOF is a fault about the
// source and final.
func (b *body) Read(p []byte) (int, error) {
	for {
		if b.total > 0 && b.at == b.total {
			b.Close()
			return 0, io.EOF
		}
		if b.total > 0 && b.at > b.total {
			return 0, fault.Newf(fault.Precondition, b.src.object(), "has %d bytes, and %d are here already", b.total, b.at)
		}
		if b.total > 0 {
			p = p[:min(int64(len(p)), b.total-b.at)]
		}
		n, err := b.try(p)
		if n > 0 {
			b.at += int64(n)
			b.barren = 0
			return n, nil
		}
		if errors.Is(err, io.EOF) && b.total == 0 {
			b.Close()
			return 0, io.EOF // a server that does not tell the length
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the connection ended %d bytes early", b.total-b.at)
		}
		if err := b.retry(err); err != nil {
			return 0, err
		}
	}
}

// try reads from the current answer, or asks for one first.
func (b *body) try(p []byte) (int, error) {
	if b.current == nil {
		r, err := b.request()
		if errors.Is(err, io.EOF) { // only a body's end is the file's
			err = errors.New("no whole answer: " + err.Error())
		}
		if err != nil {
			return 0, err
		}
		b.current = r
	}
	return b.current.Read(p)
}

// retry decides whether to go on after an error without a byte, and waits.
func (b *body) retry(err error) error {
	b.Close()
	if cause := context.Cause(b.ctx); cause != nil {
		return cause
	}
	object := "image " + redact(b.src.URLs[b.mirror])
	var final *permanent
	if errors.As(err, &final) {
		b.dead[b.mirror] = err
	}
	b.barren++
	first := b.mirror
	for {
		b.mirror = (b.mirror + 1) % len(b.src.URLs)
		if b.dead[b.mirror] == nil {
			break
		}
		if b.mirror == first { // no mirror is left
			return fault.Wrap(fault.Precondition, object, "cannot be fetched", err).Do("check the image's url and what the server at it has")
		}
	}
	if b.barren >= b.opt.Attempts {
		return fault.Wrap(fault.Unavailable, object, fmt.Sprintf("gave up after %d attempts without a byte", b.barren), err).Do(
			"check that the server answers from this machine's network")
	}
	round := b.barren / len(b.src.URLs)
	if round == 0 {
		return nil // another mirror is worth a try at once
	}
	wait := time.NewTimer(b.opt.Backoff << min(round-1, 5))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

// permanent is the error of a mirror that will not get better by waiting.
type permanent struct{ why string }

func (p *permanent) Error() string { return p.why }

// request asks the current mirror for the rest of the file.
func (b *body) request() (*response, error) {
	ctx, cancel := context.WithCancelCause(b.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.src.URLs[b.mirror], nil)
	if err != nil {
		cancel(nil)
		return nil, &permanent{"not a url"}
	}
	req.Header.Set("Accept-Encoding", "identity") // the digest is that of the bytes as they lie there
	if b.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	}
	r := newResponse(ctx, cancel, b.opt.Stall)
	resp, err := b.opt.Client.Do(req) //nolint:bodyclose // r.close closes it
	if err != nil {
		err = r.why(err)
		r.close()
		return nil, err
	}
	r.body = resp.Body
	if err := b.accept(resp, r); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// accept checks an answer's header and brings its body to the wanted byte.
func (b *body) accept(resp *http.Response, r *response) error {
	skip := b.at
	var total int64
	switch resp.StatusCode {
	case http.StatusOK:
		total = resp.ContentLength
	case http.StatusPartialContent:
		from, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from != b.at {
			return &permanent{fmt.Sprintf("asked for byte %d on, answered with %q", b.at, resp.Header.Get("Content-Range"))}
		}
		skip, total = 0, size
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return fmt.Errorf("the server answers %s", resp.Status)
	default:
		if resp.StatusCode >= 500 {
			return fmt.Errorf("the server answers %s", resp.Status)
		}
		return &permanent{"the server answers " + resp.Status}
	}
	if total > 0 {
		if b.total > 0 && total != b.total {
			return &permanent{fmt.Sprintf("has %d bytes there and should have %d", total, b.total)}
		}
		b.total = total
	}
	version := resp.Header.Get("ETag") + resp.Header.Get("Last-Modified")
	if was := b.version[b.mirror]; was != "" && version != was {
		return &permanent{"the file was replaced while it was read"}
	}
	b.version[b.mirror] = version
	if skip > 0 { // the server does not do ranges
		if _, err := io.CopyN(io.Discard, r, skip); err != nil {
			return fmt.Errorf("skipping to byte %d: %w", skip, err)
		}
	}
	return nil
}

// contentRange reads "bytes 7-9/10" (RFC 9110, 14.4). An unknown size is 0.
func contentRange(h string) (from, size int64, ok bool) {
	span, of, found := strings.Cut(strings.TrimPrefix(h, "bytes "), "/")
	first, last, dash := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if !strings.HasPrefix(h, "bytes ") || !found || !dash || err != nil || err2 != nil || from < 0 || to < from {
		return 0, 0, false
	}
	if of == "*" {
		return from, 0, true
	}
	size, err = strconv.ParseInt(of, 10, 64)
	return from, size, err == nil && size == to+1
}

// Close ends the current request, if any.
func (b *body) Close() {
	if b.current != nil {
		b.current.close()
		b.current = nil
	}
}

// A response is one answer of a server, cut off when it stalls.
type response struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser // nil until the header came
	after  time.Duration
	stall  *time.Timer
}

func newResponse(ctx context.Context, cancel context.CancelCauseFunc, after time.Duration) *response {
	return &response{ctx: ctx, cancel: cancel, after: after, stall: time.AfterFunc(after, func() {
		cancel(fmt.Errorf("nothing came for %s", after))
	})}
}

// Read implements io.Reader.
func (r *response) Read(p []byte) (int, error) {
	r.stall.Reset(r.after)
	n, err := r.body.Read(p)
	r.stall.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.why(err)
	}
	return n, err
}

// why replaces the client's error by its cause: without the url, which may
// carry a secret and which the fault names anyway.
func (r *response) why(err error) error {
	if cause := context.Cause(r.ctx); cause != nil {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (r *response) close() {
	r.stall.Stop()
	r.cancel(nil)
	if r.body != nil {
		_ = r.body.Close() // only read from
	}
}

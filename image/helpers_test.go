package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/ingot-cloud/ingot/image"
)

var quick = image.Options{Backoff: time.Millisecond, Attempts: 4, Stall: 2 * time.Second}

// when is the time of everything in the tests' archives.
var when = time.Unix(1_700_000_000, 123_456_000)

// An entry is a header and what follows it.
type entry struct {
	tar.Header
	content string
}

func archive(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		h.Format = tar.FormatPAX
		h.Size = int64(len(e.content))
		h.Uid, h.Gid = ids(h)
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, content string) entry { return entry{tar.Header{Name: name}, content} }

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
}

func link(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
}

var packers = map[string]func(io.Writer) io.WriteCloser{
	"plain": func(w io.Writer) io.WriteCloser { return nopWriteCloser{w} },
	"gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"lz4":   func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) },
	"zstd": func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			panic(err)
		}
		return z
	},
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func pack(tb testing.TB, name string, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := packers[name](&buf)
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func sha256Of(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func sha512Of(data []byte) string {
	s := sha512.Sum512(data)
	return hex.EncodeToString(s[:])
}

// pinned is a source of the data at the servers.
func pinned(data []byte, servers ...*origin) image.Source {
	s := image.Source{SHA256: sha256Of(data), Size: int64(len(data))}
	for _, o := range servers {
		s.URLs = append(s.URLs, o.url())
	}
	return s
}

// An origin is a server with one file and, if asked for, bad manners.
type origin struct {
	*httptest.Server
	data      []byte
	cut       int  // breaks every answer after so many bytes; 0 never
	noRange   bool // answers every request from the beginning
	noLength  bool
	status    int          // answers with it; 0 is right
	failFirst atomic.Int32 // so many answers are 503
	requests  atomic.Int32
	ranges    atomic.Int32
	hang      chan struct{} // answers only the header, until closed
	hangUp    atomic.Int32  // so many requests are not answered at all
}

func serve(t testing.TB, data []byte, rude func(*origin)) *origin {
	o := &origin{data: data}
	if rude != nil {
		rude(o)
	}
	o.Server = httptest.NewServer(http.HandlerFunc(o.answer))
	t.Cleanup(func() { o.CloseClientConnections(); o.Close() })
	return o
}

func (o *origin) url() string { return o.URL + "/image.tar?token=hush" }

func (o *origin) answer(w http.ResponseWriter, r *http.Request) {
	o.requests.Add(1)
	if o.hangUp.Add(-1) >= 0 {
		panic(http.ErrAbortHandler)
	}
	if o.failFirst.Add(-1) >= 0 {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	if o.status != 0 {
		http.Error(w, "no", o.status)
		return
	}
	data := o.data
	status := http.StatusOK
	if rg := r.Header.Get("Range"); rg != "" && !o.noRange {
		o.ranges.Add(1)
		var from int
		if _, err := fmt.Sscanf(rg, "bytes=%d-", &from); err != nil || from >= len(data) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		data, status = data[from:], http.StatusPartialContent
	}
	if !o.noLength {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	}
	w.WriteHeader(status)
	if o.hang != nil {
		http.NewResponseController(w).Flush()
		select {
		case <-o.hang:
		case <-r.Context().Done():
			return
		}
	}
	if o.cut > 0 && o.cut < len(data) {
		_, _ = w.Write(data[:o.cut])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(data)
}

func wantError(t *testing.T, err error, kind error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if !isKind(err, kind) {
		t.Errorf("error %q is not %v", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("error %q gives away the url's query", err)
	}
}

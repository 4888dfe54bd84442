// Package image moves OS images: from an HTTP server onto a mounted tree, into
// a directory cache, or through a digest to nowhere, always in one pass and
// with bounded memory, whatever the size of the image.
//
//	fetch (resume, next mirror) -> digest -> decompress -> untar -> tree
//
// The stages run beside each other. Nothing is reported as good before the
// last byte of the file has been through the digest and every pinned digest
// was right; until then what was written must not be trusted, mounted for
// users or booted.
//
// An image is a tar archive (POSIX.1-2001 PAX, ustar or GNU), plain or
// compressed with zstd (RFC 8878), lz4 or gzip (RFC 1952), told apart by
// magic number and not by name.
package image

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A Source says where an image's file is and what it must be.
type Source struct {
	// URLs are mirrors of one and the same file, http or https, best first.
	URLs []string
	// SHA256 and SHA512 are the digests of the file in lower-case hexadecimal.
	// Every one that is given must be right, and one must be given unless the
	// source is Unpinned.
	SHA256, SHA512 string
	// Size of the file in bytes; 0 if not known.
	Size int64
	// Format of the file; unspecified is a tarball.
	Format ingotv1.ImageFormat
	// Unpinned allows that no digest is given. Whoever can answer for a URL
	// then decides what the file is.
	Unpinned bool
}

// SourceOf returns the source that a record describes, at the given urls.
func SourceOf(pin *ingotv1.ImageSource, urls ...string) Source {
	return Source{
		URLs: urls, SHA256: pin.GetSha256(), SHA512: pin.GetSha512(),
		Size: int64(pin.GetSize()), Format: pin.GetFormat(),
	}
}

func (s Source) check() error {
	if len(s.URLs) == 0 {
		return fault.New(fault.Invalid, "image", "no url to fetch it from", "name at least one")
	}
	for _, u := range s.URLs {
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return fault.New(fault.Invalid, s.object(), "not an http or https url", "")
		}
	}
	for _, d := range []struct {
		name, hex string
		bytes     int
	}{{"sha256", s.SHA256, 32}, {"sha512", s.SHA512, 64}} {
		if b, err := hex.DecodeString(d.hex); d.hex != "" && (err != nil || hex.EncodeToString(b) != d.hex || len(b) != d.bytes) {
			return fault.Newf(fault.Invalid, s.object(), "the %s is not %d lower-case hexadecimal digits", d.name, 2*d.bytes)
		}
	}
	switch {
	case s.SHA256 == "" && s.SHA512 == "" && !s.Unpinned:
		return fault.New(fault.Invalid, s.object(), "no digest is pinned", "put the sha256 or sha512 of the file on the image's source")
	case s.Size < 0:
		return fault.New(fault.Invalid, s.object(), "the size is negative", "")
	case s.Format != ingotv1.ImageFormat_IMAGE_FORMAT_UNSPECIFIED && s.Format != ingotv1.ImageFormat_IMAGE_FORMAT_TARBALL:
		return fault.Newf(fault.Unimplemented, s.object(), "the format %s is not known", s.Format)
	}
	return nil
}

// object names the source in errors.
func (s Source) object() string {
	if len(s.URLs) == 0 {
		return "image"
	}
	return "image " + redact(s.URLs[0])
}

// redact returns a url without what may be secret in it.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(unreadable url)"
	}
	if u.RawQuery != "" {
		u.RawQuery = "..."
	}
	return u.Redacted()
}

// Options of a transfer. The zero value is the recommended one.
type Options struct {
	// Client fetches. By default one that gives up connecting after 10 s and
	// waits 30 s for the first byte.
	Client *http.Client
	// Progress, if set, is called every Interval and once more at the end,
	// never twice at a time.
	Progress func(Progress)
	// Interval between calls of Progress; 1 s.
	Interval time.Duration
	// Attempts is how often in a row a request may fail or deliver nothing
	// before the transfer fails; 8. Mirrors take turns.
	Attempts int
	// Backoff is the first wait after all mirrors failed once; it doubles up
	// to 32 times that; 250 ms.
	Backoff time.Duration
	// Stall is how long a connection may deliver nothing before another one is
	// tried; 30 s.
	Stall time.Duration
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Interval, time.Second)
	def(&o.Backoff, 250*time.Millisecond)
	def(&o.Stall, 30*time.Second)
	if o.Attempts <= 0 {
		o.Attempts = 8
	}
	if o.Client == nil {
		o.Client = defaultClient
	}
	return o
}

// defaultClient has no overall timeout: Stall bounds silence, and the caller's
// context bounds the whole.
var defaultClient = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	TLSHandshakeTimeout:   10 * time.Second,
	ResponseHeaderTimeout: 30 * time.Second,
	DisableCompression:    true,
	ReadBufferSize:        64 << 10,
}}

// Progress is how far a transfer is.
type Progress struct {
	Read     int64         // bytes of the file that went through the digest
	Total    int64         // bytes of the file; 0 while not known
	Unpacked int64         // bytes of the files written so far
	Entries  int64         // files, directories and so on written so far
	Elapsed  time.Duration // since the start
	Left     time.Duration // estimated; negative while not known
}

// Percent returns how much of the file was read, 0 to 100; -1 while the size
// is not known.
func (p Progress) Percent() float64 {
	if p.Total <= 0 {
		return -1
	}
	return min(100, 100*float64(p.Read)/float64(p.Total))
}

// A Result is what a successful transfer found.
type Result struct {
	SHA256   string // of the file
	SHA512   string // of the file; empty unless it was pinned
	Size     int64  // of the file in bytes
	Unpacked int64  // bytes of the files that were written
	Entries  int64  // files, directories and so on that were written
	Took     time.Duration
}

// Verify reads the whole file and returns its digests. Every pinned digest and
// the size, if given, were right when the error is nil. Without a pin the
// source must be Unpinned.
func Verify(ctx context.Context, src Source, opt Options) (Result, error) {
	s, err := open(ctx, src, opt, 0, newDigests(src))
	if err != nil {
		return Result{}, err
	}
	defer s.close()
	r, err := s.finish()
	if err != nil && context.Cause(ctx) != nil {
		err = src.interrupted(ctx)
	}
	return r, err
}

func (s Source) interrupted(ctx context.Context) error {
	return fault.Wrap(fault.Unavailable, s.object(), "interrupted", context.Cause(ctx))
}

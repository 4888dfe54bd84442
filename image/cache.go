package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A Cache is a directory of files named by their digests, "sha256-HEX". What
// is in it under such a name is complete and was verified. It is an
// http.Handler that serves them under these names, with ranges.
//
// A file that was pinned by its sha512 only has a link "sha512-HEX" beside it.
// Unfinished transfers are kept as "part-HEX" and resumed, also by the next
// process. One process at a time may use a directory.
type Cache struct {
	dir string
	max int64
	opt Options

	mu      sync.Mutex
	files   map[string]*cached       // by name, links left out
	flights map[string]chan struct{} // names somebody is at work on
}

type cached struct {
	size int64
	used time.Time
}

// An Entry is a file in a cache.
type Entry struct {
	SHA256 string // digest and, with "sha256-" before it, name
	Size   int64  // in bytes
	Path   string // in the file system
	Used   time.Time
}

var cacheName = regexp.MustCompile(`^(sha256-[0-9a-f]{64}|part-[0-9a-f]{64}|sha512-[0-9a-f]{128})$`)

// OpenCache opens or makes the cache in a directory, which shall hold at most
// max bytes. Transfers use the options.
func OpenCache(dir string, maxBytes int64, opt Options) (*Cache, error) {
	object := "image cache " + dir
	if maxBytes <= 0 {
		return nil, fault.New(fault.Invalid, object, "has no size", "give the number of bytes it may use")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Wrap(fault.Precondition, object, "cannot be made", err)
	}
	c := &Cache{dir: dir, max: maxBytes, opt: opt, files: map[string]*cached{}, flights: map[string]chan struct{}{}}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, object, "cannot be read", err)
	}
	for _, n := range names {
		info, err := n.Info()
		if err == nil && cacheName.MatchString(n.Name()) && info.Mode().IsRegular() {
			c.files[n.Name()] = &cached{info.Size(), info.ModTime()}
		}
	}
	for _, n := range names { // links to what was removed
		to, err := os.Readlink(filepath.Join(dir, n.Name()))
		if err == nil && cacheName.MatchString(n.Name()) && c.files[to] == nil {
			if err := c.remove(n.Name()); err != nil {
				return nil, err
			}
		}
	}
	return c, c.makeRoom("", 0)
}

// Fetch returns the file of the source, from the cache if it is there. However
// many ask for one file at a time, it is transferred once; when the one that
// transfers it gives up, the next one goes on.
func (c *Cache) Fetch(ctx context.Context, src Source) (Entry, error) {
	if err := src.check(); err != nil {
		return Entry{}, err
	}
	part := src.part()
	if err := c.board(ctx, part); err != nil {
		return Entry{}, src.interrupted(ctx)
	}
	defer c.leave(part)
	if e, ok := c.Lookup(src); ok {
		return e, nil
	}
	e, resumed, err := c.transfer(ctx, src, part)
	if resumed && errors.Is(err, fault.Precondition) { // the beginning may be that of another file
		if err := c.remove(part); err != nil {
			return Entry{}, err
		}
		e, _, err = c.transfer(ctx, src, part)
	}
	if errors.Is(err, fault.Precondition) {
		err = errors.Join(err, c.remove(part))
	}
	return e, err
}

// part names a source's unfinished transfer.
func (s Source) part() string {
	id := s.SHA256 + s.SHA512
	if id == "" {
		id = strings.Join(s.URLs, "\n")
	}
	h := sha256.Sum256([]byte(id))
	return "part-" + hex.EncodeToString(h[:])
}

// Lookup returns the file of a source if it is in the cache. An unpinned
// source never is: nobody knows what its file is now.
func (c *Cache) Lookup(src Source) (Entry, bool) {
	name := "sha256-" + src.SHA256
	if src.SHA256 == "" {
		link, err := os.Readlink(filepath.Join(c.dir, "sha512-"+src.SHA512))
		if err != nil {
			return Entry{}, false
		}
		name = link
	}
	return c.use(name)
}

// use returns a complete file and notes that it was of use.
func (c *Cache) use(name string) (Entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[name]
	digest, complete := strings.CutPrefix(name, "sha256-")
	if f == nil || !complete {
		return Entry{}, false
	}
	f.used = time.Now()
	path := filepath.Join(c.dir, name)
	if os.Chtimes(path, f.used, f.used) != nil { // somebody removed it
		delete(c.files, name)
		return Entry{}, false
	}
	return Entry{SHA256: digest, Size: f.size, Path: path, Used: f.used}, true
}

// Entries returns what is in the cache, least recently used first.
func (c *Cache) Entries() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Entry
	for name, f := range c.files {
		if digest, ok := strings.CutPrefix(name, "sha256-"); ok {
			all = append(all, Entry{SHA256: digest, Size: f.size, Path: filepath.Join(c.dir, name), Used: f.used})
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return a.Used.Compare(b.Used) })
	return all
}

// transfer brings a file into the cache. It reports whether it went on with an
// earlier part.
func (c *Cache) transfer(ctx context.Context, src Source, part string) (e Entry, resumed bool, err error) {
	path := filepath.Join(c.dir, part)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return e, false, c.broken(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	seen := newDigests(src)
	have, err := io.Copy(seen, f)
	if err != nil {
		return e, false, c.broken(err)
	}
	s, err := open(ctx, src, c.opt, have, seen)
	if err != nil {
		return e, have > 0, err
	}
	defer s.close()
	if err := c.fill(f, s, part); err != nil {
		if context.Cause(ctx) != nil {
			err = src.interrupted(ctx)
		}
		return e, have > 0, err
	}
	r, err := s.finish()
	if err != nil {
		return e, have > 0, err
	}
	e, err = c.adopt(f, r, part)
	return e, have > 0, err
}

// fill writes a transfer to its part and makes room as it grows.
func (c *Cache) fill(f *os.File, s *stream, part string) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			size := s.read.Load()
			if err := c.makeRoom(part, max(size, s.total.Load())); err != nil {
				return err
			}
			if _, err := f.Write(buf[:n]); err != nil {
				return c.broken(err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// adopt gives a verified part its name.
func (c *Cache) adopt(f *os.File, r Result, part string) (Entry, error) {
	name := "sha256-" + r.SHA256
	path := filepath.Join(c.dir, name)
	err := errors.Join(f.Sync(), os.Rename(f.Name(), path))
	if err == nil && r.SHA512 != "" {
		link := filepath.Join(c.dir, "sha512-"+r.SHA512)
		if err = os.Remove(link); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		err = errors.Join(err, os.Symlink(name, link))
	}
	if err != nil {
		return Entry{}, c.broken(err)
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return Entry{}, c.broken(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return Entry{}, c.broken(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.files, part)
	now := time.Now()
	c.files[name] = &cached{r.Size, now}
	return Entry{SHA256: r.SHA256, Size: r.Size, Path: path, Used: now}, nil
}

// makeRoom removes what was not used for the longest time until a file of this
// size fits. A file that is being transferred stays, and so does one that is
// served: it lives on without its name.
func (c *Cache) makeRoom(name string, size int64) error {
	if size > c.max {
		return fault.Newf(fault.Exhausted, "image cache "+c.dir, "a file of %d bytes does not fit into %d", size, c.max).Do("give the cache more room")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != "" {
		c.files[name] = &cached{size, time.Now()}
	}
	for {
		total, oldest := int64(0), ""
		for n, f := range c.files {
			total += f.size
			if c.flights[n] == nil && n != name && (oldest == "" || f.used.Before(c.files[oldest].used)) {
				oldest = n
			}
		}
		if total <= c.max {
			return nil
		}
		if oldest == "" {
			return fault.Newf(fault.Exhausted, "image cache "+c.dir, "transfers of %d bytes do not fit into %d at a time", total, c.max).Do("give the cache more room")
		}
		if err := os.Remove(filepath.Join(c.dir, oldest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c.broken(err)
		}
		delete(c.files, oldest)
	}
}

func (c *Cache) remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.files, name)
	if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c.broken(err)
	}
	return nil
}

// board waits until nobody else is at work on the name.
func (c *Cache) board(ctx context.Context, name string) error {
	for {
		c.mu.Lock()
		flight := c.flights[name]
		if flight == nil {
			c.flights[name] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Cache) leave(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.flights[name])
	delete(c.flights, name)
}

func (c *Cache) broken(err error) error {
	return fault.Wrap(fault.Internal, "image cache "+c.dir, "cannot be written", err).Do("check the disk")
}

// ServeHTTP serves GET and HEAD of /sha256-HEX and /sha512-HEX. What is not
// there complete is not found; the client then asks the image's origin.
func (c *Cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	if !cacheName.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	var src Source
	if digest, ok := strings.CutPrefix(name, "sha512-"); ok {
		src.SHA512 = digest
	} else {
		src.SHA256 = strings.TrimPrefix(name, "sha256-")
	}
	e, ok := c.Lookup(src)
	if !ok {
		http.NotFound(w, r)
		return
	}
	f, err := os.Open(e.Path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("ETag", fmt.Sprintf("%q", "sha256-"+e.SHA256))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, f)
}

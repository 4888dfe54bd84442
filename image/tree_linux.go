package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

const (
	small   = 128 << 10 // files up to this size are written by the workers
	writers = 2         // workers
	openMax = 256       // directories kept open
	block   = 4 << 10   // granularity of holes
)

// A tree is a directory that archives are unpacked into. No name in an archive
// reaches outside of it: directories are resolved by the kernel as if the tree
// were the root of everything (openat2(2), RESOLVE_IN_ROOT), and the last
// element of a name is never followed.
//
// Everything that has to do with names happens in the archive's order, in the
// goroutine that reads it. The content and the attributes of small files are
// written by a few workers, who know them only by descriptor. Directories stay
// open while they are in use; their owner, mode and times are set when they
// are closed, because everything made in them changes those.
type tree struct {
	root   int // O_PATH
	count  func(entries, bytes int64)
	limit  int64 // of bytes in files, holes included
	byName map[string]*directory
	byNode map[node]*directory

	jobs    chan job
	flying  sync.WaitGroup // jobs
	workers sync.WaitGroup
	buffers sync.Pool
	mu      sync.Mutex
	err     error // the workers' first
}

// A directory is open for entries to be made in it.
type directory struct {
	fd    int
	want  *tar.Header // its own entry, if it had one
	times []unix.Timespec
}

type node struct{ dev, ino uint64 }

// A job is the rest of the work on a small file.
type job struct {
	fd   int
	hdr  *tar.Header
	data *[]byte
}

// openTree opens a directory to unpack into. count hears what was written.
func openTree(dir string, count func(entries, bytes int64)) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, "directory "+dir, "cannot be opened", err).Do("mount the new system's file systems first")
	}
	t := &tree{
		root: fd, count: count, limit: 1<<63 - 1,
		byName: map[string]*directory{}, byNode: map[node]*directory{}, jobs: make(chan job, 8*writers),
	}
	t.buffers.New = func() any { b := make([]byte, small); return &b }
	for range writers {
		t.workers.Go(t.work)
	}
	return t, nil
}

// close ends the workers and closes what is open.
func (t *tree) close() {
	close(t.jobs)
	t.workers.Wait()
	for _, d := range t.byNode {
		_ = unix.Close(d.fd) // flush has reported what matters
	}
	_ = unix.Close(t.root)
}

// unpack writes an archive. Errors that the archive's bytes cause wrap
// errFormat.
func (t *tree) unpack(ctx context.Context, r io.Reader) error {
	err := t.entries(ctx, tar.NewReader(r))
	t.flying.Wait()
	if err == nil {
		err = t.failed()
	}
	if err == nil {
		err = t.flush()
	}
	return err
}

func (t *tree) entries(ctx context.Context, archive *tar.Reader) error {
	buf := make([]byte, 2*small)
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return badFormat("tar", err)
		}
		if err := firstOf(context.Cause(ctx), t.failed()); err != nil {
			return err
		}
		if len(t.byNode) >= openMax {
			if err := t.flush(); err != nil {
				return err
			}
		}
		if err := t.entry(hdr, archive, buf); err != nil {
			return fmt.Errorf("%q: %w", hdr.Name, err)
		}
		t.count(1, 0)
	}
}

// firstOf returns the first error.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

func (t *tree) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// entry writes one entry of an archive.
func (t *tree) entry(hdr *tar.Header, content io.Reader, buf []byte) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := within(hdr.Name)
	if err != nil {
		return err
	}
	if t.limit -= hdr.Size; t.limit < 0 {
		return fmt.Errorf("%w: more bytes than allowed", errFormat)
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the root is not a directory", errFormat)
		}
		return t.describe(name, hdr)
	}
	dir, err := t.open(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch hdr.Typeflag {
	case tar.TypeDir:
		return t.mkdir(dir, name, hdr)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return t.file(dir, base, hdr, content, buf)
	case tar.TypeLink:
		return t.link(dir, base, hdr.Linkname)
	case tar.TypeSymlink:
		return t.special(dir, base, hdr, func() error { return unix.Symlinkat(hdr.Linkname, dir.fd, base) })
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[hdr.Typeflag]
		dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		return t.special(dir, base, hdr, func() error { return unix.Mknodat(dir.fd, base, mode|0o600, int(dev)) })
	}
	return fmt.Errorf("%w: an entry of type %q is not known", errFormat, hdr.Typeflag)
}

// within returns an archive's name as a clean relative one.
func within(name string) (string, error) {
	clean := strings.TrimLeft(name, "/")
	if slices.Contains(strings.Split(clean, "/"), "..") {
		return "", fmt.Errorf("%w: a name with .. in it", errFormat)
	}
	return path.Clean(clean), nil // of "" it is "."
}

// open returns a directory by clean name. It is made, with what is above it,
// if it does not exist.
func (t *tree) open(name string) (*directory, error) {
	if d := t.byName[name]; d != nil {
		return d, nil
	}
	fd, err := t.openat2(name)
	if errors.Is(err, unix.ENOENT) && name != "." {
		above, errAbove := t.open(path.Dir(name))
		if errAbove != nil {
			return nil, errAbove
		}
		if err := unix.Mkdirat(above.fd, path.Base(name), 0o755); err != nil {
			return nil, fmt.Errorf("directory %s, which is missing or a link to nowhere: %w", name, err)
		}
		fd, err = t.openat2(name)
	}
	if err != nil {
		return nil, fmt.Errorf("opening directory %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("directory %s: %w", name, err), unix.Close(fd))
	}
	n := node{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits on some platforms
	d := t.byNode[n]
	if d != nil { // under another name
		_ = unix.Close(fd)
	} else {
		d = &directory{fd: fd, times: []unix.Timespec{st.Atim, st.Mtim}}
		t.byNode[n] = d
	}
	t.byName[name] = d
	return d, nil
}

func (t *tree) openat2(name string) (int, error) {
	for {
		fd, err := unix.Openat2(t.root, name, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// flush sets the attributes of the open directories and closes them.
func (t *tree) flush() error {
	var first error
	for n, d := range t.byNode {
		err := t.finish(d.fd, d.want, d.times)
		if first == nil {
			first = err
		}
		delete(t.byNode, n)
	}
	clear(t.byName)
	return first
}

// mkdir makes a directory, or takes the one that is there.
func (t *tree) mkdir(dir *directory, name string, hdr *tar.Header) error {
	base := path.Base(name)
	err := unix.Mkdirat(dir.fd, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return t.describe(name, hdr)
		}
		err = t.fresh(dir, base, func() error { return unix.Mkdirat(dir.fd, base, 0o700) })
	}
	if err != nil {
		return err
	}
	return t.describe(name, hdr)
}

// describe notes a directory's entry for when it is closed.
func (t *tree) describe(name string, hdr *tar.Header) error {
	d, err := t.open(name)
	if err != nil {
		return err
	}
	d.want, d.times = hdr, times(hdr)
	return nil
}

// fresh makes an entry, in the place of another if there is one.
func (t *tree) fresh(dir *directory, base string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	err = unix.Unlinkat(dir.fd, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir.fd, base, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return fmt.Errorf("cannot replace what is there: %w", err)
	}
	clear(t.byName) // names that led through it lead elsewhere now
	return create()
}

func (t *tree) link(dir *directory, base, target string) error {
	name, err := within(target)
	if err != nil {
		return err
	}
	from, err := t.open(path.Dir(name))
	if err != nil {
		return err
	}
	if from == dir && path.Base(name) == base {
		return fmt.Errorf("%w: a hard link to itself", errFormat)
	}
	if err := t.fresh(dir, base, func() error { return unix.Linkat(from.fd, path.Base(name), dir.fd, base, 0) }); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// special makes a symbolic link, a device or a fifo.
func (t *tree) special(dir *directory, base string, hdr *tar.Header, create func() error) error {
	if err := t.fresh(dir, base, create); err != nil {
		return err
	}
	if err := unix.Fchownat(dir.fd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting the owner: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir.fd, base, mode(hdr), 0); err != nil {
			return fmt.Errorf("setting the mode: %w", err)
		}
	}
	for name, value := range xattrs(hdr) {
		if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir.fd, base), name, value, 0); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return unix.UtimesNanoAt(dir.fd, base, times(hdr), unix.AT_SYMLINK_NOFOLLOW)
}

// xattrs yields the extended attributes in a header, in order.
func xattrs(hdr *tar.Header) func(func(string, []byte) bool) {
	return func(yield func(string, []byte) bool) {
		if len(hdr.PAXRecords) == 0 {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && !yield(name, []byte(hdr.PAXRecords[k])) {
				return
			}
		}
	}
}

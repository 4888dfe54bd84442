package lab

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// A tree is a file system that is written straight into an archive: it holds
// devices and root's files although an ordinary user makes it.
type tree struct {
	nodes map[string]node // by path without leading slash
}

// A node is one name in a tree. Its type is that of mode.
type node struct {
	mode         fs.FileMode
	data         []byte // content of a file, target of a link
	from         string // file on the host that has the content instead
	major, minor uint64 // of a device
}

// newTree returns a tree with the folders every system has and the two
// devices the kernel opens before there is a /dev.
func newTree() *tree {
	t := &tree{nodes: map[string]node{}}
	for _, d := range []string{"dev", "proc", "sys", "run", "mnt", "etc", "var/log"} {
		t.dir(d, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o777|fs.ModeSticky)
	t.nodes["dev/console"] = node{mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, major: 5, minor: 1}
	t.nodes["dev/null"] = node{mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, major: 1, minor: 3}
	return t
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

func (t *tree) put(p string, n node) {
	p = clean(p)
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if _, here := t.nodes[d]; !here {
			t.nodes[d] = node{mode: fs.ModeDir | 0o755}
		}
	}
	t.nodes[p] = n
}

func (t *tree) dir(p string, mode fs.FileMode) { t.put(p, node{mode: fs.ModeDir | mode}) }
func (t *tree) file(p, content string, mode fs.FileMode) {
	t.put(p, node{mode: mode, data: []byte(content)})
}
func (t *tree) copyOf(p, from string, mode fs.FileMode) { t.put(p, node{mode: mode, from: from}) }
func (t *tree) link(p, target string) {
	t.put(p, node{mode: fs.ModeSymlink | 0o777, data: []byte(target)})
}
func (t *tree) names() []string {
	var names []string
	for n := range t.nodes {
		names = append(names, n)
	}
	slices.Sort(names) // a folder sorts before what is in it
	return names
}

// add puts the file, folder or link at p of the tree below root at the same
// place in t; folders with all they hold.
func (t *tree) add(root, p string) error {
	return filepath.WalkDir(filepath.Join(root, p), func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(at, root)
		info, err := e.Info()
		switch {
		case err != nil:
			return err
		case e.IsDir():
			t.dir(rel, info.Mode().Perm())
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			t.link(rel, target)
		case info.Mode().IsRegular():
			t.copyOf(rel, at, info.Mode().Perm())
		}
		return nil
	})
}

// libraryPath is where the dynamic loader of Debian amd64 looks by itself.
var libraryPath = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/lib"}

// program puts the program at p of the tree below root into t, with its loader
// and the libraries it needs.
func (t *tree) program(root, p string) error {
	from, err := follow(root, p)
	if err != nil {
		return err
	}
	t.copyOf(p, from, 0o755)
	f, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			b, err := io.ReadAll(prog.Open())
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			if err := t.library(root, strings.TrimRight(string(b), "\x00")); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	return t.libraries(root, p, f)
}

// libraries puts what the object f at p needs into t.
func (t *tree) libraries(root, p string, f *elf.File) error {
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	dirs := slices.Clone(libraryPath)
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		for _, list := range paths {
			dirs = append(strings.Split(list, ":"), dirs...)
		}
	}
next:
	for _, name := range needed {
		for _, d := range dirs {
			err := t.library(root, path.Join(d, name))
			if err == nil {
				continue next
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return fmt.Errorf("%s: needs %s, which is not in %s", p, name, root)
	}
	return nil
}

// library puts one library and what it needs into t, once.
func (t *tree) library(root, p string) error {
	if _, here := t.nodes[clean(p)]; here {
		return nil
	}
	from, err := follow(root, p)
	if err != nil {
		return err
	}
	t.copyOf(p, from, 0o755)
	f, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	defer f.Close()
	return t.libraries(root, p, f)
}

// follow returns the host's path of p below root, following links as a
// process whose root that is would.
func follow(root, p string) (string, error) {
	for range 16 {
		at := filepath.Join(root, p)
		target, err := os.Readlink(at)
		if err != nil {
			_, err := os.Stat(at)
			return at, err
		}
		if path.IsAbs(target) {
			p = target
		} else {
			p = path.Join(path.Dir(p), target)
		}
	}
	return "", fmt.Errorf("%s: too many links", p)
}

// busybox puts busybox into t, and a link for each of its programs that t does
// not have yet, in whatever folder.
func (t *tree) busybox(root string, programs []string) {
	t.copyOf("/bin/busybox", filepath.Join(root, "bin/busybox"), 0o755)
	for _, p := range programs {
		taken := false
		for _, d := range []string{"bin/", "sbin/", "usr/bin/", "usr/sbin/"} {
			_, here := t.nodes[d+path.Base(p)]
			taken = taken || here
		}
		if !taken {
			t.link(p, "/bin/busybox")
		}
	}
}

// modules puts the named kernel modules, what they need and their index into t.
func (t *tree) modules(s *moduleSet, names []string) error {
	all, err := s.closure(names)
	if err != nil {
		return err
	}
	for _, m := range all {
		t.copyOf(m.path, filepath.Join(s.root, m.path), 0o644)
	}
	dep, alias := s.index(all)
	t.file(s.dir+"/modules.dep", dep, 0o644)
	t.file(s.dir+"/modules.alias", alias, 0o644)
	for _, f := range []string{"/modules.builtin", "/modules.order"} {
		t.copyOf(s.dir+f, filepath.Join(s.root, s.dir+f), 0o644)
	}
	return nil
}

// content returns the bytes of a file or the target of a link.
func (n node) content() ([]byte, error) {
	if n.from != "" {
		return os.ReadFile(n.from)
	}
	return n.data, nil
}

// unixMode returns the mode as the kernel has it.
func (n node) unixMode() uint64 {
	m := uint64(n.mode.Perm())
	if n.mode&fs.ModeSticky != 0 {
		m |= 0o1000
	}
	switch {
	case n.mode&fs.ModeDir != 0:
		m |= cpio.S_IFDIR
	case n.mode&fs.ModeSymlink != 0:
		m |= cpio.S_IFLNK
	case n.mode&fs.ModeCharDevice != 0:
		m |= cpio.S_IFCHR
	default:
		m |= cpio.S_IFREG
	}
	return m
}

// cpio writes t as the kernel's initramfs wants it: newc, root's, no times.
func (t *tree) cpio(w io.Writer) error {
	rw := cpio.Newc.Writer(w)
	root := cpio.Directory(".", 0o755)
	if err := rw.WriteRecord(root); err != nil {
		return err
	}
	for i, name := range t.names() {
		n := t.nodes[name]
		b, err := n.content()
		if err != nil {
			return err
		}
		info := cpio.Info{Ino: uint64(i + 1), NLink: 1, Name: name, Mode: n.unixMode(), Rmajor: n.major, Rminor: n.minor, FileSize: uint64(len(b))}
		r := cpio.Record{Info: info}
		if len(b) > 0 {
			r.ReaderAt = bytes.NewReader(b)
		}
		if err := rw.WriteRecord(r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return cpio.WriteTrailer(rw)
}

// tar writes t as an OS image: root's, no times.
func (t *tree) tar(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, name := range t.names() {
		n := t.nodes[name]
		b, err := n.content()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: int64(n.unixMode() & 0o7777), Format: tar.FormatPAX}
		switch {
		case n.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case n.mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname, b = tar.TypeSymlink, string(b), nil
		case n.mode&fs.ModeCharDevice != 0:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.major), int64(n.minor)
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(b))
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := tw.Write(b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return tw.Close()
}

// compressed writes what write writes to a file, as zstd.
func compressed(file string, level zstd.EncoderLevel, write func(io.Writer) error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(level), zstd.WithWindowSize(8<<20))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(write(z), z.Close(), f.Close())
}

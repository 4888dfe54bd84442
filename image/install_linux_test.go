package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
)

func isKind(err, kind error) bool { return errors.Is(err, kind) }

// ids keeps the owners of a header where the tests may set them.
func ids(h tar.Header) (uid, gid int) {
	if os.Getuid() != 0 {
		return os.Getuid(), os.Getgid()
	}
	return h.Uid, h.Gid
}

// everything has one entry of every kind and every pitfall that real images
// have: names through links, entries in the place of others, directories that
// are listed after their content or not at all.
func everything(tb testing.TB) []byte {
	big := strings.Repeat("0123456789abcdef", 40_000)
	own := func(e entry, uid, gid int) entry { e.Uid, e.Gid = uid, gid; return e }
	withMode := func(e entry, mode int64) entry { e.Mode = mode; return e }
	at := func(e entry, t time.Time) entry { e.ModTime = t; return e }
	xattr := func(e entry, kv ...string) entry {
		e.PAXRecords = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
		}
		return e
	}
	return archive(tb,
		at(dir("./", 0o755), when.Add(time.Hour)),
		dir("usr/", 0o755), dir("usr/bin/", 0o755), symlink("bin", "usr/bin"), symlink("var-run", "/run"),
		dir("run", 0o1777),
		withMode(own(file("usr/bin/su", "setuid"), 0, 0), 0o4755),
		own(file("bin/through-link", "x"), 1234, 5678),
		file("var-run/absolute", "in root"),
		link("usr/bin/su2", "usr/bin/su"), link("usr/bin/su3", "bin/su"),
		file("deep/without/directories/file", "deep"),
		at(dir("deep/without", 0o711), when.Add(2*time.Hour)),
		file("big", big),
		file("empty", ""),
		xattr(own(file("attributes", "a"), 1, 1), "user.one", "1", "user.two", "zwei\x00zwei"),
		xattr(dir("attributed", 0o700), "user.dir", "d"),
		file("twice", "first"), file("twice", "second"),
		symlink("link-then-file", "big"), file("link-then-file", "plain"),
		dir("dir-then-link", 0o755), symlink("dir-then-link", "usr"), file("dir-then-link/via", "usr via link"),
		file("file-then-dir", "x"), dir("file-then-dir", 0o750), file("file-then-dir/in", "in"),
		entry{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o620}},
		entry{Header: tar.Header{Name: "whiteout", Typeflag: tar.TypeChar, Mode: 0o600}},
		file("/leading/slash", "s"),
		file("ünïcode "+strings.Repeat("long", 40), "u"),
		own(symlink("dangling", "nowhere/at/all"), 7, 8),
	)
}

const listing = `
. d 0755 0:0 +1h
attributed d 0700 0:0 +0s user.dir="d"
attributes - 0644 1:1 +0s user.one="1" user.two="zwei\x00zwei" "a"
big - 0644 0:0 +0s 640000 bytes
bin l 0:0 +0s -> usr/bin
dangling l 7:8 +0s -> nowhere/at/all
deep d 0755 0:0 now
deep/without d 0711 0:0 +2h
deep/without/directories d 0755 0:0 now
deep/without/directories/file - 0644 0:0 +0s "deep"
dir-then-link l 0:0 +0s -> usr
empty - 0644 0:0 +0s ""
fifo p 0620 0:0 +0s
file-then-dir d 0750 0:0 +0s
file-then-dir/in - 0644 0:0 +0s "in"
leading d 0755 0:0 now
leading/slash - 0644 0:0 +0s "s"
link-then-file - 0644 0:0 +0s "plain"
run d 1777 0:0 +0s
run/absolute - 0644 0:0 +0s "in root"
twice - 0644 0:0 +0s "second"
usr d 0755 0:0 +0s
usr/bin d 0755 0:0 +0s
usr/bin/su - 4755 0:0 +0s links=3 "setuid"
usr/bin/su2 - 4755 0:0 +0s links=3 "setuid"
usr/bin/su3 - 4755 0:0 +0s links=3 "setuid"
usr/bin/through-link - 0644 1234:5678 +0s "x"
usr/via - 0644 0:0 +0s "usr via link"
var-run l 0:0 +0s -> /run
whiteout c 0600 0:0 +0s 0,0
ünïcode LONG - 0644 0:0 +0s "u"
`

func TestInstall(t *testing.T) {
	data := everything(t)
	for name := range packers {
		t.Run(name, func(t *testing.T) {
			packed := pack(t, name, data)
			src := pinned(packed, serve(t, packed, nil))
			src.SHA512 = sha512Of(packed)
			root := t.TempDir()
			got, err := image.Install(t.Context(), src, root, quick)
			if err != nil {
				t.Fatal(err)
			}
			if got.SHA256 != src.SHA256 || got.SHA512 != src.SHA512 || got.Size != src.Size || got.Entries != 32 || got.Unpacked < 640_000 {
				t.Errorf("result %+v", got)
			}
			if got, want := list(t, root), strings.TrimSpace(listing); got != forUser(want) {
				t.Errorf("tree:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// forUser is a listing as it is where the tests may not set owners.
func forUser(want string) string {
	if os.Getuid() == 0 {
		return want
	}
	me := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	for _, o := range []string{" 0:0 ", " 1:1 ", " 7:8 ", " 1234:5678 "} {
		want = strings.ReplaceAll(want, o, " "+me+" ")
	}
	return want
}

// list describes a tree, one line for each name.
func list(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		lines = append(lines, strings.Replace(rel, strings.Repeat("long", 40), "LONG", 1)+describe(t, path, info))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func describe(t *testing.T, path string, info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	kind := map[uint32]string{unix.S_IFREG: "-", unix.S_IFDIR: "d", unix.S_IFLNK: "l", unix.S_IFIFO: "p", unix.S_IFCHR: "c"}[st.Mode&unix.S_IFMT]
	s := " " + kind
	if kind != "l" {
		s += fmt.Sprintf(" %04o", st.Mode&0o7777)
	}
	s += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
	if d := info.ModTime().Sub(when); d < 24*time.Hour {
		s += " +" + strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
		if d == 0 {
			s += "0s"
		}
	} else {
		s += " now"
	}
	s += attributes(t, path)
	switch kind {
	case "l":
		to, _ := os.Readlink(path)
		s += " -> " + to
	case "c":
		s += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case "-":
		if st.Nlink > 1 {
			s += fmt.Sprintf(" links=%d", st.Nlink)
		}
		if info.Size() > 100 {
			return s + fmt.Sprintf(" %d bytes", info.Size())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %q", b)
	}
	return s
}

func attributes(t *testing.T, path string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	s := ""
	for _, name := range names {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %s=%q", name, buf[:n])
	}
	return s
}

// An archive must not reach what is beside the tree, whatever it says.
func TestInstallStaysInside(t *testing.T) {
	evil := map[string][]entry{
		"dot dot":           {file("../outside", "evil")},
		"dot dot in":        {file("a/../../outside", "evil")},
		"absolute link":     {symlink("esc", "OUTER"), file("esc/outside", "evil")},
		"relative link":     {symlink("esc", ".."), file("esc/outside", "evil")},
		"many up":           {symlink("esc", "../../../../../../../../../../OUTER"), file("esc/outside", "evil")},
		"link to file":      {symlink("esc", "OUTER/outside"), file("esc", "fine")},
		"hard link":         {link("esc", "../outside"), file("esc", "evil")},
		"hard link in link": {symlink("d", "OUTER"), link("esc", "d/outside")},
		"directory on link": {symlink("esc", "OUTER"), dir("esc", 0o777), file("esc/outside", "evil")},
		"proc":              {symlink("esc", "/proc/self/cwd"), file("esc/outside", "evil")},
		"swap":              {dir("d", 0o755), file("d/x", "x"), symlink("d/up", ".."), symlink("d/up/d2", "OUTER"), file("d2/outside", "evil")},
	}
	for name, entries := range evil {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			root := filepath.Join(outer, "root")
			for i := range entries {
				entries[i].Linkname = strings.Replace(entries[i].Linkname, "OUTER", outer, 1)
			}
			if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(outer, "outside"), []byte("good"), 0o600)); err != nil {
				t.Fatal(err)
			}
			data := archive(t, entries...)
			_, err := image.Install(t.Context(), pinned(data, serve(t, data, nil)), root, quick)
			t.Logf("error: %v", err)
			untouched(t, outer)
		})
	}
}

// untouched checks that a directory has the file "outside" as it was, the
// directory "root", and nothing else.
func untouched(t *testing.T, outer string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(outer, "outside")); err != nil || string(b) != "good" {
		t.Errorf("outside is now %q, %v", b, err)
	}
	names, err := os.ReadDir(outer)
	if err != nil || len(names) != 2 {
		t.Errorf("beside the tree: %v, %v", names, err)
	}
}

func TestInstallKeepsHoles(t *testing.T) {
	// A PAX 1.0 sparse file as GNU tar writes it: 4 KiB of data at 8 MiB, then
	// a hole up to 16 MiB.
	const mib = 1 << 20
	var buf bytes.Buffer
	content := make([]byte, 512+4096)
	copy(content, fmt.Sprintf("2\n%d\n4096\n%d\n0\n", 8*mib, 16*mib))
	copy(content[512:], bytes.Repeat([]byte{'x'}, 4096))
	pax := ""
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=holes", fmt.Sprintf("GNU.sparse.realsize=%d", 16*mib)} {
		rec := " " + kv + "\n"
		n := len(rec) + 2
		pax += fmt.Sprintf("%02d%s", n, rec)
	}
	raw := func(name string, kind byte, body []byte) {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(body)), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		h.Uid, h.Gid = ids(h)
		var one bytes.Buffer
		w := tar.NewWriter(&one)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		block := one.Bytes()[:512]
		sum := 0
		block[156] = kind
		copy(block[148:156], "        ")
		for _, b := range block {
			sum += int(b)
		}
		copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
		buf.Write(block)
		buf.Write(body)
		buf.Write(make([]byte, (512-len(body)%512)%512))
	}
	raw("PaxHeaders/holes", 'x', []byte(pax))
	raw("GNUSparseFile.0/holes", '0', content)
	buf.Write(make([]byte, 1024))

	root := t.TempDir()
	if _, err := image.Install(t.Context(), pinned(buf.Bytes(), serve(t, buf.Bytes(), nil)), root, quick); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 16*mib)
	copy(want[8*mib:], bytes.Repeat([]byte{'x'}, 4096))
	if !bytes.Equal(b, want) {
		t.Error("content differs")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "holes"), &st); err != nil || st.Blocks > 64 {
		t.Errorf("takes %d blocks, %v", st.Blocks, err)
	}
}

// More directories than stay open, entered again after they were closed.
func TestInstallManyDirectories(t *testing.T) {
	var entries []entry
	const n = 700
	for i := range n {
		entries = append(entries, dir(fmt.Sprintf("d%d", i), 0o755))
	}
	for i := range n {
		entries = append(entries, file(fmt.Sprintf("d%d/sub%d/file", i*7%n, i), fmt.Sprint(i)))
	}
	data := archive(t, entries...)
	root := t.TempDir()
	if _, err := image.Install(t.Context(), pinned(data, serve(t, data, nil)), root, quick); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := filepath.Join(root, fmt.Sprintf("d%d", i))
		if info, err := os.Stat(name); err != nil || !info.ModTime().Equal(when) {
			t.Fatalf("%s: %v, %v", name, info.ModTime(), err)
		}
		if b, err := os.ReadFile(filepath.Join(root, fmt.Sprintf("d%d/sub%d/file", i*7%n, i))); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file %d: %q, %v", i, b, err)
		}
	}
}

func TestInstallFails(t *testing.T) {
	good := archive(t, file("a", "a"), file("b", strings.Repeat("b", 300_000)))
	other := sha256Of([]byte("other"))
	for _, c := range []struct {
		name  string
		data  []byte
		src   func(*image.Source)
		kind  error
		parts []string
	}{
		{"digest", good, func(s *image.Source) { s.SHA256 = other }, fault.Precondition, []string{"sha256 is " + sha256Of(good) + " and should be " + other}},
		{"second digest", good, func(s *image.Source) { s.SHA512 = strings.Repeat("0", 128) }, fault.Precondition, []string{"sha512 is"}},
		{"size", good, func(s *image.Source) { s.Size++ }, fault.Precondition, []string{"has 304640 bytes there and should have 304641"}},
		{"garbage", []byte(strings.Repeat("no tar at all", 100)), nil, fault.Invalid, []string{"is no image", "tar"}},
		{"garbage with another digest", []byte(strings.Repeat("no tar at all", 100)), func(s *image.Source) { s.SHA256 = other }, fault.Precondition, []string{"should be " + other}},
		{"xz", append([]byte("\xfd7zXZ\x00"), good...), nil, fault.Invalid, []string{"xz file; make it a tar archive, compressed with zstd"}},
		{"broken zstd", pack(t, "zstd", good)[:100], nil, fault.Invalid, []string{"zstd"}},
		{"broken gzip", pack(t, "gzip", good)[:100], nil, fault.Invalid, []string{"gzip"}},
		{"broken lz4", pack(t, "lz4", good)[:100], nil, fault.Invalid, []string{"lz4"}},
		{"truncated tar", good[:5000], nil, fault.Invalid, []string{"tar"}},
		{"unpinned", good, func(s *image.Source) { s.SHA256 = "" }, fault.Invalid, []string{"no digest is pinned"}},
		{"odd digest", good, func(s *image.Source) { s.SHA256 = strings.ToUpper(s.SHA256) }, fault.Invalid, []string{"64 lower-case"}},
		{"format", good, func(s *image.Source) { s.Format = 99 }, fault.Unimplemented, nil},
		{"url", good, func(s *image.Source) { s.URLs = []string{"file:///etc/passwd"} }, fault.Invalid, []string{"not an http"}},
		{"no url", good, func(s *image.Source) { s.URLs = nil }, fault.Invalid, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := pinned(c.data, serve(t, c.data, nil))
			if c.src != nil {
				c.src(&src)
			}
			_, err := image.Install(t.Context(), src, t.TempDir(), quick)
			wantError(t, err, c.kind, c.parts...)
		})
	}
	t.Run("no directory", func(t *testing.T) {
		_, err := image.Install(t.Context(), pinned(good, serve(t, good, nil)), filepath.Join(t.TempDir(), "none"), quick)
		wantError(t, err, fault.Precondition, "cannot be opened", "mount")
	})
}

func TestInstallCancelled(t *testing.T) {
	for name := range packers {
		t.Run(name, func(t *testing.T) {
			data := pack(t, name, everything(t))
			o := serve(t, data, func(o *origin) { o.hang = make(chan struct{}) })
			ctx, cancel := context.WithCancel(t.Context())
			var once sync.Once
			opt := quick
			opt.Interval = time.Millisecond
			opt.Progress = func(image.Progress) { once.Do(cancel) }
			_, err := image.Install(ctx, pinned(data, o), t.TempDir(), opt)
			wantError(t, err, fault.Unavailable, "interrupted")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v does not wrap context.Canceled", err)
			}
		})
	}
}

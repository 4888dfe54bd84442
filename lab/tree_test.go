package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func sample(t *testing.T) *tree {
	t.Helper()
	host := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(host, []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	tr.file("/etc/deep/er/file", "content", 0o640)
	tr.copyOf("usr/bin/tool", host, 0o755)
	tr.link("/bin/sh", "busybox")
	return tr
}

func TestTreeAsInitrd(t *testing.T) {
	var b bytes.Buffer
	if err := sample(t).cpio(&b); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]cpio.Record{}
	for i, r := range records {
		at[r.Name] = r
		if dir := filepath.Dir(r.Name); i > 0 && at[dir].Mode&cpio.S_IFMT != cpio.S_IFDIR {
			t.Errorf("%s comes before its folder", r.Name)
		}
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: belongs to %d:%d, written at %d", r.Name, r.UID, r.GID, r.MTime)
		}
	}
	for name, want := range map[string]struct {
		mode    uint64
		content string
	}{
		".":                {cpio.S_IFDIR | 0o755, ""},
		"etc/deep/er":      {cpio.S_IFDIR | 0o755, ""},
		"etc/deep/er/file": {cpio.S_IFREG | 0o640, "content"},
		"usr/bin/tool":     {cpio.S_IFREG | 0o755, "from the host"},
		"bin/sh":           {cpio.S_IFLNK | 0o777, "busybox"},
		"dev/console":      {cpio.S_IFCHR | 0o600, ""},
		"tmp":              {cpio.S_IFDIR | 0o1777, ""},
	} {
		r, ok := at[name]
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		content := make([]byte, r.FileSize)
		if len(content) > 0 {
			if _, err := r.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if r.Mode != want.mode || string(content) != want.content {
			t.Errorf("%s: mode %o content %q, want %o %q", name, r.Mode, content, want.mode, want.content)
		}
	}
	if c := at["dev/console"]; c.Rmajor != 5 || c.Rminor != 1 {
		t.Errorf("dev/console is device %d:%d", c.Rmajor, c.Rminor)
	}
	var again bytes.Buffer
	if err := sample(t).cpio(&again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same tree gives another archive (error %v)", err)
	}
}

func TestTreeAsImage(t *testing.T) {
	var b bytes.Buffer
	if err := sample(t).tar(&b); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "etc/deep") || strings.HasPrefix(h.Name, "bin/") || h.Name == "dev/null" {
			got = append(got, strings.TrimSpace(string(h.Typeflag)+" "+h.Name+" "+h.Linkname+string(content)))
		}
	}
	want := []string{"5 bin/", "2 bin/sh busybox", "3 dev/null", "5 etc/deep/", "5 etc/deep/er/", "0 etc/deep/er/file content"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestFollowStaysBelowRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(root, "usr/lib/libx.so.1.2")
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"usr/lib/rel": "libx.so.1.2", "usr/lib/abs": "/usr/lib/rel", "usr/lib/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/usr/lib/rel", "/usr/lib/abs"} {
		if got, err := follow(root, p); err != nil || got != want {
			t.Errorf("%s: got %s, %v", p, got, err)
		}
	}
	if _, err := follow(root, "/usr/lib/loop"); err == nil {
		t.Error("a loop of links was followed to its end")
	}
}

func TestModuleIndex(t *testing.T) {
	s := &moduleSet{dir: "/lib/modules/6"}
	dep, alias := s.index([]module{
		{name: "base", path: "/lib/modules/6/k/base.ko"},
		{name: "mid_dle", path: "/lib/modules/6/k/mid-dle.ko", needs: []string{"base", "builtin"}},
		{name: "top", path: "/lib/modules/6/k/top.ko", needs: []string{"base", "mid-dle"}, aliases: []string{"rtnl-link-top"}},
	})
	// modprobe loads a line from its end.
	wantDep := "k/base.ko:\nk/mid-dle.ko: k/base.ko\nk/top.ko: k/mid-dle.ko k/base.ko\n"
	if dep != wantDep {
		t.Errorf("modules.dep is\n%swant\n%s", dep, wantDep)
	}
	if alias != "alias rtnl-link-top top\n" {
		t.Errorf("modules.alias is %q", alias)
	}
}

package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestInstallProgress(t *testing.T) {
	for _, c := range []struct {
		console             string
		unpacked, installed int
		done                float64
	}{
		{"", 0, 0, 0},
		{"2026-01-02 03:04:05 startup archives unpack\r\n2026-01-02 03:04:05 status half-installed dash:amd64 0.5.12-2\r\n", 0, 0, 0},
		{"2026-01-02 03:04:05 status unpacked dash:amd64 0.5.12-2\r\n2026-01-02 03:04:06 status unpacked sed:amd64 4.9\r\n", 2, 0, 2 / 4.8},
		// A package is unpacked once more when it is configured.
		{"t status unpacked dash:amd64 0.5.12-2\r\nt status unpacked dash:amd64 0.5.12-2\r\nt status installed dash:amd64 0.5.12-2\r\n", 1, 1, 2 / 4.8},
		{"t status unpacked dash:amd64 0.5.12-2\r\nt status instal", 1, 0, 1 / 4.8},
	} {
		unpacked, installed, done := installProgress([]byte(c.console), 2)
		if unpacked != c.unpacked || installed != c.installed || done != c.done {
			t.Errorf("%q: %d unpacked, %d installed, %v done; want %d, %d, %v", c.console, unpacked, installed, done, c.unpacked, c.installed, c.done)
		}
	}
}

// debianPackage builds a package of one file in /bin, one in /usr/share/man
// and a hard link.
func debianPackage(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("this machine is no Debian: no dpkg-deb")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for file, content := range map[string]string{
		"DEBIAN/control":        "Package: probe\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example>\nDescription: a probe\n",
		"bin/probe":             "odd",
		"usr/share/man/probe.1": "page",
	} {
		at := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "bin/probe"), filepath.Join(root, "bin/same")); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(dir, "probe_1_all.deb")
	if err := run(t.Context(), "dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, deb); err != nil {
		t.Fatal(err)
	}
	return deb
}

// entries lists an archive: type, name, link.
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(h.Typeflag)+" "+h.Name+" "+h.Linkname))
	}
}

func TestStoredPackageIsTheSame(t *testing.T) {
	deb := debianPackage(t)
	stored, err := storedPackage(t.Context(), deb)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "stored.deb")
	if err := os.WriteFile(copied, stored, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, option := range []string{"--ctrl-tarfile", "--fsys-tarfile", "--field"} {
		want, err := dpkgDeb(t.Context(), option, deb)
		if err != nil {
			t.Fatal(err)
		}
		got, err := dpkgDeb(t.Context(), option, copied)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("dpkg-deb %s tells the two apart", option)
		}
	}
}

func TestUnpackIntoMergedFolders(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(unpackInto(t.Context(), w, debianPackage(t)), w.Close()); err != nil {
		t.Fatal(err)
	}
	want := []string{"5 usr/bin/", "0 usr/bin/probe", "1 usr/bin/same usr/bin/probe", "5 usr/", "5 usr/share/", "5 usr/share/man/"}
	if diff := cmp.Diff(want, entries(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
}

// TestCopyArchive has an entry as the guest writes it: with a capability and
// times that are of no use to anybody.
func TestCopyArchive(t *testing.T) {
	var in, out bytes.Buffer
	when := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	w := tar.NewWriter(&in)
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "./usr/bin/ping", Mode: 0o4755, Uid: 1, Gid: 101, Format: tar.FormatPAX, Size: 3,
		ModTime: when, AccessTime: when, ChangeTime: when, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"},
	})
	if _, e := w.Write([]byte("elf")); errors.Join(err, e, w.Close()) != nil {
		t.Fatal(err, e)
	}
	// The guest's disk goes on after the archive.
	in.Write(make([]byte, 1<<20))
	to := tar.NewWriter(&out)
	if err := errors.Join(copyArchive(to, &in), archiveFile(to, "./etc/kernel/cmdline", []byte("quiet")), to.Close()); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if h.Mode != 0o4755 || h.Uid != 1 || h.Gid != 101 || !h.ModTime.Equal(when.Truncate(time.Second)) || !h.AccessTime.IsZero() ||
		h.PAXRecords["SCHILY.xattr.security.capability"] != "\x01\x00" || string(content) != "elf" {
		t.Errorf("got %+v with %q", h, content)
	}
	if h, err = r.Next(); err != nil || h.Name != "./etc/kernel/cmdline" || h.Size != 5 {
		t.Errorf("got %+v, %v", h, err)
	}
}

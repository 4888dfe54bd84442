//go:build lab

package lab_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ingot-cloud/ingot/lab"
)

// TestLabBusyboxImage starts the OS image from a disk, with its own kernel and
// initrd, as a server does after an installation.
func TestLabBusyboxImage(t *testing.T) {
	ctx, c := within(t, 5*time.Minute), cache(t)
	image, err := c.BusyboxImage(ctx, filepath.Join(programs(t), "lldpsender"), "")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := c.Parts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Longer than a socket's name may be.
	root, dir := t.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unpackImage(t, image, root)
	disk := filepath.Join(dir, "disk0.raw")
	if out, err := parts.Command(ctx, "/sbin/mke2fs", "-q", "-t", "ext4", "-U", "5f1c1f0e-6d0b-4f6e-8a53-2f1f3a3b1c01", "-d", root, disk, "256M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	vm, err := lab.NewVM(dir, lab.Spec{
		Name: "os", Memory: 256, Disks: []lab.Disk{{Size: 256 << 20}},
		Kernel: filepath.Join(root, "boot/vmlinuz-"+parts.Version), Initrds: []string{filepath.Join(root, "boot/initrd.img-"+parts.Version)},
		Cmdline: "root=UUID=5f1c1f0e-6d0b-4f6e-8a53-2f1f3a3b1c01 rw",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if err := vm.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(`guest: ready at (\S+) s`))
	if err != nil {
		t.Fatal(err)
	}
	// What is typed before the shell listens is lost.
	if _, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(`/ # `)); err != nil {
		t.Fatal(err)
	}
	console, err := vm.Console(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if _, err := io.WriteString(console, "echo typed=$((6*7)) on $(sed -n 's,^\\(/dev/[^ ]*\\) / .*,\\1,p' /proc/mounts)\r"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(`typed=42 on /dev/vda`)); err != nil {
		t.Fatal(err)
	}
	t.Logf("the system on the disk is up after %s s", m[1])
}

// unpackImage unpacks an OS image as far as an ordinary user can: without its
// devices.
func unpackImage(t *testing.T, image, to string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(to, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(at, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, at)
		case tar.TypeReg:
			var out *os.File
			if out, err = os.OpenFile(at, os.O_CREATE|os.O_WRONLY, h.FileInfo().Mode().Perm()|0o600); err == nil {
				_, err = io.Copy(out, r)
				err = errors.Join(err, out.Close())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

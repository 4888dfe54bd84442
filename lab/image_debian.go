package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// debian12 holds the scripts that install Debian in a guest, and below root
// the files that are ours in the image.
//
//go:embed debian12
var debian12 embed.FS

// debianBase are the packages without which dpkg cannot run: Debian's essential
// ones. "?essential" is apt's pattern for them.
var debianBase = []string{"?essential", "usr-is-merged"}

// debianPackages are the others of the Debian image.
var debianPackages = []string{
	"apt", "e2fsprogs",
	"linux-image-cloud-amd64", "initramfs-tools", "zstd",
	"systemd-sysv", "udev", "dbus", "systemd-timesyncd",
	"openssh-server", "sudo", "frr", "lldpd",
	"iproute2", "iputils-ping", "nftables", "netbase",
}

// DebianImage returns an OS image of Debian 12, a .tar.zst: kernel, initramfs,
// systemd, FRR, lldpd and an SSH server, as docs/images.md wants it.
//
// Packages and what they do when they are installed are Debian's own: dpkg
// installs them in a guest, as root there, which takes some minutes without
// KVM. The host only fetches and packs. Progress is reported meanwhile.
func (c *Cache) DebianImage(ctx context.Context) (string, error) {
	system, err := c.debianSystem(ctx)
	if err != nil {
		return "", err
	}
	// What the kernel should know of this computer is no reason to install
	// everything again.
	cmdline := KernelArguments() + "\n"
	dir, err := c.build(ctx, "debian-12", []string{"1", filepath.Base(filepath.Dir(system)), cmdline}, func(dir string) error {
		c.say("debian-12: compressing")
		in, err := os.Open(system)
		if err != nil {
			return err
		}
		defer in.Close()
		return compressed(filepath.Join(dir, "image.tar.zst"), zstd.SpeedBetterCompression, func(w io.Writer) error {
			out := tar.NewWriter(w)
			if err := copyArchive(out, in); err != nil {
				return err
			}
			return errors.Join(archiveFile(out, "./etc/kernel/cmdline", []byte(cmdline)), out.Close())
		})
	})
	return filepath.Join(dir, "image.tar.zst"), err
}

// copyArchive copies an archive without its end, and of each entry's times
// only that of its last change, in seconds.
func copyArchive(to *tar.Writer, from io.Reader) error {
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.ModTime, h.AccessTime, h.ChangeTime = h.ModTime.Truncate(time.Second), time.Time{}, time.Time{}
		if err := to.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := io.Copy(to, r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// archiveFile adds a file of root's.
func archiveFile(to *tar.Writer, name string, content []byte) error {
	err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatGNU})
	if err == nil {
		_, err = to.Write(content)
	}
	return err
}

// debianSystem returns the installed root file system, an archive as the guest
// wrote it.
func (c *Cache) debianSystem(ctx context.Context) (string, error) {
	inputs := append(append([]string{"1", guestRoot.suite}, debianBase...), debianPackages...)
	err := fs.WalkDir(debian12, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			b, _ := debian12.ReadFile(name) // never fails
			inputs = append(inputs, name, string(b))
		}
		return err
	})
	if err != nil {
		return "", err
	}
	dir, err := c.build(ctx, "debian-12-system", inputs, func(dir string) error {
		g, err := c.newInstaller(ctx, filepath.Join(dir, "guest"))
		if err != nil {
			return err
		}
		if err := g.run(ctx, c.say); err != nil {
			return err
		}
		if err := os.Rename(diskFile(g.dir, 2), filepath.Join(dir, "system.tar")); err != nil {
			return err
		}
		return os.RemoveAll(g.dir)
	})
	return filepath.Join(dir, "system.tar"), err
}

// An installer is a guest that installs Debian.
type installer struct {
	dir      string
	initrd   string
	kernel   string
	seed     int64 // bytes
	packages int
}

// newInstaller fetches the packages and prepares the guest's disk of them.
func (c *Cache) newInstaller(ctx context.Context, dir string) (*installer, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return nil, err
	}
	script, err := debian12.ReadFile("debian12/init.sh")
	if err != nil {
		return nil, err
	}
	initrd, err := c.Initrd(ctx, Initrd{
		Name: "debian-12-installer", Busybox: true, Programs: []string{"/sbin/mkfs.ext4"}, Trees: []string{"/etc/mke2fs.conf"},
		Modules: []string{"virtio_pci", "virtio_blk", "virtio_rng", "ext4"},
		Files:   map[string]File{"/init": Script(string(script))},
	})
	if err != nil {
		return nil, err
	}
	a, err := newApt(ctx, guestRoot.suite)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(a.dir)
	c.say("debian-12: fetching %s", strings.Join(debianPackages, " "))
	base, err := a.fetch(ctx, debianBase)
	if err != nil {
		return nil, err
	}
	all, err := a.fetch(ctx, append(debianBase, debianPackages...))
	if err != nil {
		return nil, err
	}
	g := &installer{dir: dir, kernel: p.Kernel, initrd: initrd, packages: len(all)}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c.say("debian-12: unpacking %d packages", len(all))
	disk, err := os.Create(diskFile(dir, 1))
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	if err := writeSeed(ctx, disk, base, all); err != nil {
		return nil, err
	}
	if g.seed, err = disk.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	g.seed = (g.seed + 1<<20 - 1) &^ (1<<20 - 1) // a disk has whole sectors
	return g, disk.Close()
}

// writeSeed writes what the guest begins with: the files of the base packages,
// so that dpkg can run, our own, and all packages.
func writeSeed(ctx context.Context, to io.Writer, base, all []string) error {
	w := tar.NewWriter(to)
	for _, d := range mergedFolders {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: d, Linkname: "usr/" + d, Mode: 0o777}); err != nil {
			return err
		}
	}
	for _, deb := range base {
		if err := unpackInto(ctx, w, deb); err != nil {
			return err
		}
	}
	for _, deb := range all {
		b, err := storedPackage(ctx, deb)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		if err := archiveFile(w, "build/"+name+".deb", b); err != nil {
			return err
		}
	}
	err := fs.WalkDir(debian12, "debian12", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := debian12.ReadFile(name)
		if err != nil {
			return err
		}
		to := "build/" + path.Base(name)
		if rest, ok := strings.CutPrefix(name, "debian12/root/"); ok {
			to = rest
		}
		return archiveFile(w, to, b)
	})
	return errors.Join(err, w.Close())
}

// mergedFolders are links to folders of the same name below /usr, which
// Debian's packages still treat as folders.
var mergedFolders = []string{"bin", "lib", "lib64", "sbin"}

// merged returns where a package's file is in a system with merged folders.
func merged(name string) string {
	for _, d := range mergedFolders {
		if name == d || strings.HasPrefix(name, d+"/") {
			return "usr/" + name
		}
	}
	return name
}

// unread matches what dpkg leaves out of the image, too.
var unread = regexp.MustCompile(`^usr/share/(doc|info|lintian|locale|man)/.`)

// unpackInto copies the files of a package into an archive.
func unpackInto(ctx context.Context, to *tar.Writer, deb string) error {
	b, err := dpkgDeb(ctx, "--fsys-tarfile", deb)
	if err != nil {
		return err
	}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", deb, err)
		}
		name := merged(clean(h.Name))
		if name == "" || unread.MatchString(name) {
			continue
		}
		h.Name, h.Format = name, tar.FormatGNU
		switch h.Typeflag {
		case tar.TypeDir:
			h.Name += "/"
		case tar.TypeLink:
			h.Linkname = merged(clean(h.Linkname))
		}
		if err := to.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", deb, err)
		}
		if _, err := io.Copy(to, r); err != nil {
			return fmt.Errorf("%s: %w", deb, err)
		}
	}
}

// storedPackage returns a package with the same content, not compressed
// (deb(5)): the host decompresses many times faster than the guest.
func storedPackage(ctx context.Context, deb string) ([]byte, error) {
	b := []byte("!<arch>\n")
	for _, m := range []struct{ name, option string }{{"debian-binary", ""}, {"control.tar", "--ctrl-tarfile"}, {"data.tar", "--fsys-tarfile"}} {
		content := []byte("2.0\n")
		if m.option != "" {
			var err error
			if content, err = dpkgDeb(ctx, m.option, deb); err != nil {
				return nil, err
			}
		}
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(content))
		b = append(b, content...)
		if len(content)%2 != 0 {
			b = append(b, '\n')
		}
	}
	return b, nil
}

// dpkgDeb returns what dpkg-deb prints of a package.
func dpkgDeb(ctx context.Context, option, deb string) ([]byte, error) {
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-deb", option, deb)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("dpkg-deb %s %s: %w\n%s", option, deb, err, tail(complaints.Bytes(), 2000))
	}
	return out.Bytes(), nil
}

// run runs the guest until it switches itself off. The result is its third
// disk.
func (g *installer) run(ctx context.Context, say func(string, ...any)) error {
	vm, err := NewVM(g.dir, Spec{
		Name: "debian-12-installer", Memory: 640, Kernel: g.kernel, Initrds: []string{g.initrd},
		Disks: []Disk{{Size: 4 << 30}, {Size: g.seed}, {Size: 4 << 30}},
	})
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := vm.PowerOn(ctx); err != nil {
		return err
	}
	began, last := time.Now(), time.Now()
	for tick := time.Tick(time.Second); vm.On(); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("installing Debian in a guest: %w", ctx.Err())
		case <-tick:
		}
		if time.Since(last) < 10*time.Second {
			continue
		}
		last = time.Now()
		log, err := os.ReadFile(vm.SerialLog())
		if err != nil {
			return err
		}
		unpacked, installed, done := installProgress(log, g.packages)
		left := "no estimate yet"
		if done > 0.1 {
			left = fmt.Sprintf("about %.0f s left", time.Since(began).Seconds()*(1-done)/done)
		}
		say("debian-12: of %d packages %d unpacked, %d installed; %s", g.packages, unpacked, installed, left)
	}
	log, err := os.ReadFile(vm.SerialLog())
	if err != nil {
		return err
	}
	if !bytes.Contains(log, []byte("build: complete")) {
		return fmt.Errorf("installing Debian in a guest: its last words are:\n%s", tail(log, 3000))
	}
	return nil
}

// dpkgState matches a line of dpkg's log about a package.
var dpkgState = regexp.MustCompile(`(?m) status (unpacked|installed) (\S+) `)

// installProgress reads from the guest's console, which dpkg logs to, how many
// packages are unpacked and how many are installed, and which part of the
// whole work that is.
func installProgress(console []byte, packages int) (unpacked, installed int, done float64) {
	seen := map[string]bool{}
	for _, m := range dpkgState.FindAllSubmatch(console, -1) {
		if state := string(m[1]); !seen[string(m[0])] {
			seen[string(m[0])] = true
			if state == "unpacked" {
				unpacked++
			} else {
				installed++
			}
		}
	}
	// The rest, as long as a fifth of that, is packing.
	return unpacked, installed, float64(unpacked+installed) / (2.4 * float64(packages))
}

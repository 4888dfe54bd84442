package lab

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Firmware is UEFI for a VM: the code, which all share, and the pristine
// variable store, of which each VM keeps a copy.
type Firmware struct{ Code, Vars, Version string }

// Firmware returns the UEFI firmware.
func (c *Cache) Firmware(ctx context.Context) (Firmware, error) {
	dir, err := c.unpack(ctx, firmwareRoot)
	if err != nil {
		return Firmware{}, err
	}
	version, err := packageVersion(dir, "ovmf")
	if err != nil {
		return Firmware{}, err
	}
	at := filepath.Join(dir, "root/usr/share/OVMF")
	return Firmware{Code: filepath.Join(at, "OVMF_CODE_4M.fd"), Vars: filepath.Join(at, "OVMF_VARS_4M.fd"), Version: version}, nil
}

// IPXE returns the file of iPXE as an EFI program.
func (c *Cache) IPXE(ctx context.Context) (string, error) {
	dir, err := c.unpack(ctx, ipxeRoot)
	return filepath.Join(dir, "root/usr/lib/ipxe/ipxe-amd64.efi"), err
}

// Parts are the files boot images and guests are made of, in one unpacked
// Debian tree.
type Parts struct {
	// Root is the tree.
	Root string
	// Kernel is the kernel's image, Version its release.
	Kernel, Version string
	// Stub is systemd's EFI stub, which makes a kernel and an initrd one EFI
	// program; Loader is systemd-boot.
	Stub, Loader string

	id      string
	modules *moduleSet
}

// Parts returns the parts of guests.
func (c *Cache) Parts(ctx context.Context) (*Parts, error) {
	dir, err := c.unpack(ctx, guestRoot)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "root")
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("%s: holds %d kernels, want one", root, len(kernels))
	}
	efi := filepath.Join(root, "usr/lib/systemd/boot/efi")
	p := &Parts{
		Root: root, Kernel: kernels[0], Version: strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"),
		Stub: filepath.Join(efi, "linuxx64.efi.stub"), Loader: filepath.Join(efi, "systemd-bootx64.efi"),
	}
	if p.id, err = hashFile(filepath.Join(dir, "manifest")); err != nil {
		return nil, err
	}
	p.modules, err = findModules(root, p.Version)
	return p, err
}

// Command runs a program of the tree on this machine, with the tree's loader
// and libraries: what FRR's or nftables' own parser says about a configuration
// does not take a guest, nor root.
func (p *Parts) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	var libraries []string
	for _, d := range append(slices.Clone(libraryPath), "/usr/lib/x86_64-linux-gnu/frr") {
		libraries = append(libraries, p.Root+d)
	}
	loader := filepath.Join(p.Root, "lib64/ld-linux-x86-64.so.2")
	return exec.CommandContext(ctx, loader, append([]string{"--library-path", strings.Join(libraries, ":"), p.Root + program}, args...)...)
}

// An Initrd describes what a kernel unpacks into memory and starts.
type Initrd struct {
	// Name is what the artefact is called in the cache.
	Name string
	// Init is a static program on the host that becomes /init.
	Init string
	// Modules are kernel modules; what they need comes along.
	Modules []string
	// Programs are paths in the parts' tree; their libraries come along.
	Programs []string
	// Trees are files or folders in the parts' tree.
	Trees []string
	// Files are further files by path in the guest.
	Files map[string]File
	// Busybox adds busybox under all its names that Programs leave free.
	Busybox bool
	// Fast trades size for the time it takes to build.
	Fast bool
}

// A File is a file in a guest: content, or the host's file that has it.
type File struct {
	Data []byte
	From string
	Mode fs.FileMode
}

// Text returns a plain file of the given content.
func Text(content string) File { return File{Data: []byte(content), Mode: 0o644} }

// Program returns an executable file with the content of a file of the host.
func Program(from string) File { return File{From: from, Mode: 0o755} }

// Script returns an executable file of the given content.
func Script(content string) File { return File{Data: []byte(content), Mode: 0o755} }

// initrdFormat changes whenever the same Initrd is packed differently.
const initrdFormat = "2"

// Initrd returns the packed file of i.
func (c *Cache) Initrd(ctx context.Context, i Initrd) (string, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return "", err
	}
	files := make(map[string]File, len(i.Files)+1)
	for path, f := range i.Files {
		files[path] = f
	}
	if i.Init != "" {
		files["/init"] = Program(i.Init)
	}
	i.Files = files
	inputs, err := i.inputs(p)
	if err != nil {
		return "", err
	}
	dir, err := c.build(ctx, i.Name, inputs, func(dir string) error {
		t := newTree()
		if err := i.fill(ctx, t, p); err != nil {
			return err
		}
		level := zstd.SpeedBestCompression
		if i.Fast {
			level = zstd.SpeedFastest
		}
		return compressed(filepath.Join(dir, "initrd"), level, t.cpio)
	})
	return filepath.Join(dir, "initrd"), err
}

// inputs are what the packed file depends on.
func (i Initrd) inputs(p *Parts) ([]string, error) {
	inputs := []string{initrdFormat, p.id, fmt.Sprint(i.Modules, i.Programs, i.Trees, i.Busybox, i.Fast)}
	for _, path := range sortedKeys(i.Files) {
		f := i.Files[path]
		content := string(f.Data)
		if f.From != "" {
			var err error
			if content, err = hashFile(f.From); err != nil {
				return nil, fmt.Errorf("%s: %w", i.Name, err)
			}
		}
		inputs = append(inputs, path, f.Mode.String(), content)
	}
	return inputs, nil
}

// fill puts all of i into t.
func (i Initrd) fill(ctx context.Context, t *tree, p *Parts) error {
	for _, prog := range i.Programs {
		if err := t.program(p.Root, prog); err != nil {
			return err
		}
	}
	for _, at := range i.Trees {
		if err := t.add(p.Root, at); err != nil {
			return err
		}
	}
	if len(i.Modules) > 0 {
		if err := t.modules(p.modules, i.Modules); err != nil {
			return err
		}
	}
	if i.Busybox {
		names, err := busyboxNames(ctx, p.Root)
		if err != nil {
			return err
		}
		t.busybox(p.Root, names)
	}
	for path, f := range i.Files {
		t.put(path, node{mode: f.Mode, data: f.Data, from: f.From})
	}
	return nil
}

// busyboxNames lists the programs in busybox, with the folders they belong to.
func busyboxNames(ctx context.Context, root string) ([]string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(root, "bin/busybox"), "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(n string) bool { return n == "bin/busybox" }), nil
}

// A BootImage is what a server boots from the network: Ingot's agent on a
// Debian kernel.
type BootImage struct{ Kernel, Initrd string }

// bootModules are the drivers and file systems of the boot image.
var bootModules = []string{
	"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "virtio_scsi", "sr_mod", "sd_mod", "ata_piix", "nvme",
	"ext4", "vfat", "nls_ascii", "nls_cp437", "efivarfs", "xfs", "raid0", "raid1", "raid10", "dm_mod",
}

// BootImage returns the boot image around a static agent program.
func (c *Cache) BootImage(ctx context.Context, agent string) (BootImage, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return BootImage{}, err
	}
	initrd, err := c.Initrd(ctx, Initrd{
		Name: "boot-image", Init: agent, Modules: bootModules,
		Programs: []string{"/sbin/mkfs.ext4", "/sbin/mkfs.ext3", "/sbin/mkfs.vfat", "/sbin/mkswap"},
		Trees:    []string{"/etc/mke2fs.conf", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"},
		Files:    map[string]File{"/etc/passwd": Text("root:x:0:0:root:/root:/bin/sh\n"), "/etc/group": Text("root:x:0:\n")},
	})
	return BootImage{Kernel: p.Kernel, Initrd: initrd}, err
}

// diskModules are what the busybox image needs to find its root file system.
var diskModules = []string{"virtio_pci", "virtio_blk", "nvme", "ext4"}

// BusyboxImage returns a small OS image, a .tar.zst: busybox, FRR, an ssh
// server, a program that sends LLDP frames (a static program of this machine)
// and a kernel with an initrd that mounts the root file system named on the
// command line. It is the guests' system on a disk, starts /etc/service as they
// do, and takes the names of its ports from /etc/ingot/ports. One with a release
// says so on the console when it starts.
func (c *Cache) BusyboxImage(ctx context.Context, lldp, release string) (string, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return "", err
	}
	initrd, err := c.Initrd(ctx, Initrd{
		Name: "busybox-os-initrd", Modules: diskModules, Busybox: true,
		Files: map[string]File{"/init": Script(mountRoot)},
	})
	if err != nil {
		return "", err
	}
	system := guestSystem()
	system.Name = "busybox-os"
	system.Modules = append(system.Modules, "vfat", "nls_ascii", "nls_cp437", "efivarfs")
	files := system.Files
	files["/boot/vmlinuz-"+p.Version] = File{From: p.Kernel, Mode: 0o644}
	files["/boot/initrd.img-"+p.Version] = File{From: initrd, Mode: 0o644}
	files["/usr/sbin/lldpsender"] = Program(lldp)
	files["/etc/kernel/cmdline"] = Text("quiet " + KernelArguments() + "\n")
	// It speaks before FRR does, which takes seconds to start.
	say := ""
	if release != "" {
		say = "echo guest: release " + release + "\n"
	}
	files["/etc/rc.local"] = Script("#!/bin/sh\n" + say + "(while :; do /usr/sbin/lldpsender; sleep 1; done) &\n")
	files["/etc/service/ssh"] = Script("#!/bin/sh\n" + sshd + "\n")
	inputs, err := system.inputs(p)
	if err != nil {
		return "", err
	}
	dir, err := c.build(ctx, "busybox-os", inputs, func(dir string) error {
		t := newTree()
		if err := system.fill(ctx, t, p); err != nil {
			return err
		}
		return compressed(filepath.Join(dir, "image.tar.zst"), zstd.SpeedBestCompression, t.tar)
	})
	return filepath.Join(dir, "image.tar.zst"), err
}

func sortedKeys(m map[string]File) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// appendInitrd concatenates initrds and one uncompressed archive of files, as
// the kernel allows, into a file for one VM.
func appendInitrd(to string, initrds []string, files map[string]File) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, from := range initrds {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		// The kernel wants an uncompressed archive to start at a multiple of 4
		// and skips zeros in between.
		b = append(b, make([]byte, (4-len(b)%4)%4)...)
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	t := &tree{nodes: map[string]node{}}
	for path, f := range files {
		t.put(path, node{mode: f.Mode, data: f.Data, from: f.From})
	}
	if err := t.cpio(out); err != nil {
		return err
	}
	return out.Close()
}

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/boot/kexec"

	"github.com/ingot-cloud/ingot/fault"
)

// load puts the installed system's kernel in memory, to be started by Start.
func (s *System) load() error {
	kernel, initrd, err := s.open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	if initrd != nil {
		defer initrd.Close()
	}
	if err := kexec.FileLoad(kernel, initrd, s.CommandLine); err != nil {
		return fault.Wrap(fault.Unavailable, "kernel "+s.Kernel, "cannot be loaded", err).
			Do("if the boot image enforces signatures, use an image with a signed kernel")
	}
	return nil
}

func kexecReboot() error { return kexec.Reboot() }

// findKernel returns the newest kernel of the image and its initrd, as paths
// below root. The initrd is "" if the kernel has none.
func findKernel(root string) (kernel, initrd string, err error) {
	found, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil {
		return "", "", err
	}
	if len(found) == 0 {
		return "", "", fault.New(fault.Invalid, "image", "has no kernel in /boot/vmlinuz-*", "install a kernel package in the image")
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return compareVersions(filepath.Base(a), filepath.Base(b)) })
	version := strings.TrimPrefix(filepath.Base(newest), "vmlinuz-")
	kernel = "boot/vmlinuz-" + version
	for _, name := range []string{"boot/initrd.img-" + version, "boot/initramfs-" + version + ".img"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			return kernel, name, nil
		}
	}
	return kernel, "", nil
}

// compareVersions compares runs of digits as numbers, so that 6.10 is newer
// than 6.9.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// commandLine is what the installed kernel is started with. The image may add
// to it with the file /etc/kernel/cmdline.
func commandLine(root, rootID string) string {
	args := []string{"root=UUID=" + rootID, "rw", "console=tty0", "console=ttyS0,115200n8"}
	if b, err := os.ReadFile(filepath.Join(root, "etc/kernel/cmdline")); err == nil {
		for _, f := range strings.Fields(string(b)) {
			if !strings.HasPrefix(f, "root=") {
				args = append(args, f)
			}
		}
	}
	return strings.Join(args, " ")
}

// bootloaderSource is systemd-boot in the boot image.
const bootloaderSource = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"

// writeBootloader makes the disk bootable by firmware that knows nothing of
// it: the loader lies at the path every UEFI tries (UEFI 2.10, 3.5.1.1), and
// no variable is written.
func writeBootloader(root, esp string, s *System) error {
	dir := filepath.Join(root, esp)
	for _, d := range []string{"EFI/BOOT", "EFI/systemd", "loader/entries", "ingot"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	entry := fmt.Sprintf("title Installed by Ingot\nlinux /ingot/vmlinuz\noptions %s\n", s.CommandLine)
	copies := [][2]string{
		{bootloaderSource, "EFI/BOOT/BOOTX64.EFI"},
		{filepath.Join(root, s.Kernel), "ingot/vmlinuz"},
	}
	if s.Initrd != "" {
		entry += "initrd /ingot/initrd\n"
		copies = append(copies, [2]string{filepath.Join(root, s.Initrd), "ingot/initrd"})
	}
	for _, c := range copies {
		if err := copyFile(filepath.Join(dir, c[1]), c[0]); err != nil {
			return fault.Wrap(fault.Unavailable, "EFI system partition", "cannot be written", err).Do("make it at least 256 MiB")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "loader/entries/ingot.conf"), []byte(entry), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "loader/loader.conf"), []byte("default ingot.conf\ntimeout 0\neditor no\n"), 0o644)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := out.ReadFrom(in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

package agent

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ingot-cloud/ingot/fault"
)

func TestCompareVersions(t *testing.T) {
	sorted := []string{"vmlinuz-5.10.0-1", "vmlinuz-6.1.0-9-cloud", "vmlinuz-6.1.0-10", "vmlinuz-6.1.0-10-cloud", "vmlinuz-6.1.0-010-dev", "vmlinuz-6.12.0-1"}
	got := slices.Clone(sorted)
	slices.Reverse(got)
	slices.SortFunc(got, compareVersions)
	if d := cmp.Diff(sorted, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindKernel(t *testing.T) {
	root := t.TempDir()
	if _, _, err := findKernel(root); !errors.Is(err, fault.Invalid) {
		t.Errorf("without a kernel: %v", err)
	}
	write(t, root, map[string]string{"boot/vmlinuz-6.9.1": "", "boot/vmlinuz-6.10.1": "", "boot/initrd.img-6.9.1": ""})
	kernel, initrd, err := findKernel(root)
	if err != nil || kernel != "boot/vmlinuz-6.10.1" || initrd != "" {
		t.Errorf("got %q %q %v", kernel, initrd, err)
	}
	write(t, root, map[string]string{"boot/initramfs-6.10.1.img": "", "etc/kernel/cmdline": "root=/dev/sda quiet\nconsole=ttyS1\n"})
	if _, initrd, _ = findKernel(root); initrd != "boot/initramfs-6.10.1.img" {
		t.Errorf("initrd %q", initrd)
	}
	if got := commandLine(root, "abc"); got != "root=UUID=abc rw console=tty0 console=ttyS0,115200n8 quiet console=ttyS1" {
		t.Errorf("command line %q", got)
	}
}

func TestMatchAliases(t *testing.T) {
	aliases := "# Aliases\nalias pci:v00001AF4d00001000sv*sd*bc*sc*i* virtio_pci\nalias virtio:d00000001v* virtio_net\n" +
		"alias virtio:d00000002v* virtio_blk\nalias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias broken\nalias pci:[ bad\n"
	devices := []string{"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", "virtio:d00000001v00001AF4"}
	got := matchAliases(bufio.NewScanner(strings.NewReader(aliases)), devices)
	if d := cmp.Diff([]string{"virtio_pci", "virtio_net"}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestFromMedium(t *testing.T) {
	dir := t.TempDir()
	if _, err := FromMedium(dir, ""); err == nil || !strings.Contains(err.Error(), "no certificate authority") {
		t.Errorf("without a CA: %v", err)
	}
	write(t, dir, map[string]string{"ca.crt": "nonsense"})
	if _, err := FromMedium(dir, ""); err == nil || !strings.Contains(err.Error(), "not PEM") {
		t.Errorf("with a broken CA: %v", err)
	}
	srv, _ := testServer(t, &fakeAPI{})
	write(t, dir, map[string]string{"ca.crt": string(srv.pem)})
	for _, args := range []string{"", "quiet", "ingot.boot=http://boot", "ingot.boot=https://", "ingot.boot=%"} {
		if c, err := FromMedium(dir, args); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %+v, %v", args, c, err)
		}
	}
	c, err := FromMedium(dir, "quiet ingot.boot=https://[fd00::1] ro")
	if err != nil || c.Boot.Hostname() != "fd00::1" {
		t.Errorf("got %+v, %v", c, err)
	}
}

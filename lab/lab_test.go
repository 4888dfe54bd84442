//go:build lab

package lab_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/lab"
)

// cache opens the artefact cache of the user who runs the tests.
func cache(t *testing.T) *lab.Cache {
	t.Helper()
	c, err := lab.OpenCache("", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// within returns a context that ends when something has plainly gone wrong.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// program builds a static program of this module.
func program(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
	return out
}

// medium builds a boot medium around a program that becomes /init.
func medium(t *testing.T, ctx context.Context, c *lab.Cache, init, cmdline string) []byte {
	t.Helper()
	parts, err := c.Parts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.BootImage(ctx, init)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	uki, err := boot.UKI{
		Stub: read(parts.Stub), Kernel: read(image.Kernel), Initrd: read(image.Initrd),
		Cmdline: cmdline, OSRelease: "ID=ingot\nNAME=Ingot\n",
	}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	iso, err := boot.ISO("INGOT", uki)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("unified kernel image %.1f MB, medium %.1f MB", float64(len(uki))/1e6, float64(len(iso))/1e6)
	return iso
}

// server returns a server with firmware, powered off, that is switched off
// with the test.
func server(t *testing.T, ctx context.Context, c *lab.Cache, nics ...lab.NIC) *lab.VM {
	t.Helper()
	fw, err := c.Firmware(ctx)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := lab.NewVM(t.TempDir(), lab.Spec{
		Name: "s1", UUID: "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", Serial: "SN1", Manufacturer: "Ingot", Product: "Lab, small",
		Memory: 512, Firmware: &fw, CDROM: true, Disks: []lab.Disk{{Size: 1 << 30, Serial: "D1"}}, NICs: nics,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	return vm
}

func TestLabFirmwareBootsMedium(t *testing.T) {
	ctx, c := within(t, 5*time.Minute), cache(t)
	iso := filepath.Join(t.TempDir(), "boot.iso")
	if err := os.WriteFile(iso, medium(t, ctx, c, program(t, "./testdata/marker"), "console=ttyS0,115200 quiet ingot.test=1"), 0o644); err != nil {
		t.Fatal(err)
	}
	vm := server(t, ctx, c)
	if err := vm.Insert(iso); err != nil {
		t.Fatal(err)
	}
	if err := vm.SetOverride(lab.Override{Target: lab.FromCD, Once: true}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := vm.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(`marker: up=(\S+) cmdline=(.*) mount=<nil>`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("power-on to /init: %.1f s, of which kernel %s s", time.Since(start).Seconds(), m[1])
	if want := "console=ttyS0,115200 quiet ingot.test=1"; m[2] != want {
		t.Errorf("command line is %q, want %q", m[2], want)
	}
	if err := vm.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if vm.On() {
		t.Error("the guest has powered off, but the server says that it is on")
	}
	if o := vm.Override(); o != (lab.Override{}) {
		t.Errorf("override is %+v after a start, want none: it was for once", o)
	}
}

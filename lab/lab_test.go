//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/lab"
	"github.com/ingot-cloud/ingot/secret"
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
func medium(t *testing.T, c *lab.Cache, init, cmdline string) []byte {
	t.Helper()
	ctx := t.Context()
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

// board describes the server of a test.
func board(nics ...lab.NIC) lab.Spec {
	return lab.Spec{
		Name: "s1", UUID: "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", Serial: "SN1", Manufacturer: "Ingot", Product: "Lab, small",
		Disks: []lab.Disk{{Size: 1 << 30, Serial: "D1"}}, NICs: nics,
	}
}

// TestLabRedfish does with the product's own client what a site does to a new
// server: it finds it off, inserts the medium, overrides the boot order for
// once and switches it on.
func TestLabRedfish(t *testing.T) {
	ctx, c := within(t, 5*time.Minute), cache(t)
	iso := medium(t, c, program(t, "./testdata/marker"), "console=ttyS0,115200 quiet ingot.test=2 "+lab.KernelArguments())
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "boot.iso", time.Time{}, bytes.NewReader(iso))
	}))
	defer site.Close()

	s, err := c.NewServer(ctx, t.TempDir(), lab.ServerSpec{Spec: board(lab.NIC{MAC: "02:00:00:00:01:01"}, lab.NIC{MAC: "02:00:00:00:01:02"}), User: "root", Password: "calvin", BMCMAC: "02:00:00:00:01:ff"})
	if err != nil {
		t.Fatal(err)
	}
	vm, spec := s.VM, s.VM.Spec()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(serving, l); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer stop()

	r, err := bmc.Open(ctx, bmc.Endpoint{Address: "https://" + l.Addr().String(), User: "root", Password: secret.New("calvin"), CA: s.BMC.CA()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(context.Background())
	inv, err := r.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Power != bmc.Off || inv.UUID != spec.UUID || inv.BIOS == "" || !inv.HasMedia {
		t.Fatalf("inventory %+v", inv)
	}
	for _, do := range []func() error{
		func() error { return r.Insert(ctx, site.URL+"/boot.iso") },
		func() error { return r.SetBoot(ctx, bmc.CD, bmc.Once) },
		func() error { return r.SetPower(ctx, bmc.PowerOn) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.State(ctx); err != nil || got.Power != bmc.On || got.BootDuration != bmc.Disabled {
		t.Errorf("after power on: %+v, %v; want on, and the override used up", got, err)
	}
	marker := regexp.MustCompile(`marker: up=(\S+) cmdline=.*ingot\.test=2 .*mount=<nil>`)
	if _, err := vm.WaitSerial(ctx, 0, marker); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := r.State(ctx); err != nil || got.Power != bmc.Off {
		t.Errorf("after the system switched itself off: %+v, %v", got, err)
	}

	// The override is used up, and the disk is empty: nothing boots, until a
	// running server is told to boot from the CD and reset.
	before := size(t, vm.SerialLog())
	if err := r.SetPower(ctx, bmc.PowerOn); err != nil {
		t.Fatal(err)
	}
	if err := r.SetBoot(ctx, bmc.CD, bmc.Continuous); err != nil {
		t.Fatal(err)
	}
	if err := r.SetPower(ctx, bmc.Reset); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.WaitSerial(ctx, before, marker); err != nil {
		t.Fatal(err)
	}
	if got, err := r.State(ctx); err != nil || got.Boot != bmc.CD || got.BootDuration != bmc.Continuous {
		t.Errorf("a continuous override after a start: %+v, %v", got, err)
	}
	if err := r.Eject(ctx); err != nil {
		t.Error(err)
	}
}

func TestLabFirmwareBootsMedium(t *testing.T) {
	ctx, c := within(t, 5*time.Minute), cache(t)
	iso, cmdline := filepath.Join(t.TempDir(), "boot.iso"), "console=ttyS0,115200 quiet "+lab.KernelArguments()
	if err := os.WriteFile(iso, medium(t, c, program(t, "./testdata/marker"), cmdline), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := c.NewServer(ctx, t.TempDir(), lab.ServerSpec{Spec: board()})
	if err != nil {
		t.Fatal(err)
	}
	vm := s.VM
	defer vm.Close()
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
	if m[2] != cmdline {
		t.Errorf("command line is %q, want %q", m[2], cmdline)
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

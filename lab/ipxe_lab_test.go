//go:build lab

package lab_test

import (
	"encoding/pem"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A server whose medium is iPXE loads everything else over IPv6 HTTPS, from a
// site and a metal-boot that its firmware was told to trust through its BMC.
func TestLabIPXE(t *testing.T) {
	ctx := within(t, 6*time.Minute)
	dir := t.TempDir()
	d, err := cache(t).NewDataCenter(ctx, lab.Plan{Dir: dir, Bin: programs(t), Servers: 1, Boot: lab.IPXE, Capture: true, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	start := time.Now()
	var seen []string
	see := func(s lab.Sighting) {
		seen = append(seen, s.Text())
		t.Logf("%5.1f s  %s", time.Since(start).Seconds(), s.Text())
	}
	reach := func(p ingotv1.MachinePhase) {
		t.Helper()
		if err := d.Reach(ctx, see, lab.Goal{Server: 1, Phase: p}); err != nil {
			t.Fatal(err)
		}
	}
	ingot := func(args ...string) string {
		t.Helper()
		out, err := d.Ingot(ctx, args...)
		if err != nil {
			t.Fatalf("ingot %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	vm := d.Servers[0].VM
	// again boots the medium once more and returns where its console begins.
	again := func() int64 {
		t.Helper()
		was, err := os.Stat(vm.SerialLog())
		if err != nil {
			t.Fatal(err)
		}
		ingot("machine", "boot-medium", lab.UUID(1))
		return was.Size()
	}
	prints := func(from int64, pattern string) {
		t.Helper()
		if _, err := vm.WaitSerial(ctx, from, regexp.MustCompile(pattern)); err != nil {
			t.Fatal(err)
		}
	}

	reach(ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	if !strings.Contains(strings.Join(seen, "\n"), "boot script: fetched by iPXE through swp1 of leaf") {
		t.Errorf("the story does not tell of the boot script:\n%s", strings.Join(seen, "\n"))
	}
	if out := ingot("bmc", "describe", "bmc-m1", "--partition", lab.Partition, "-o", "yaml"); !strings.Contains(out, "kind: BOOT_MEDIUM_IPXE") || !strings.Contains(out, "trusted: true") {
		t.Errorf("the BMC's status does not tell of the medium:\n%s", out)
	}
	checkCaptures(t, dir, 2)

	// A changed command line is in effect at the next boot. Nothing is
	// restarted, and the medium stays the same.
	files := strings.Fields(ingot("partition", "describe", lab.Partition, "-o", "template", "--template", "{{.bootConfiguration.kernelUrl}} {{.bootConfiguration.imageUrl}}"))
	if len(files) != 2 {
		t.Fatalf("the partition boots %q", files)
	}
	ingot("partition", "update", lab.Partition, "--boot-configuration.kernel-url", files[0], "--boot-configuration.image-url", files[1], "--boot-configuration.commandline", "console=ttyS0,115200 ingot.changed=yes "+lab.KernelArguments())
	from := again()
	prints(from, `Command line:.* ingot\.changed=yes .*ingot\.boot=https://boot\.lab\.internal`)
	prints(from, `msg="Ingot boot image"`)
	reach(ingotv1.MachinePhase_MACHINE_PHASE_WAITING)

	// A firmware that trusts somebody else: iPXE refuses metal-boot on both
	// cards, and the story says what is missing.
	block, _ := pem.Decode(d.Servers[0].BMC.CA())
	if err := vm.SetAuthorities([][]byte{block.Bytes}); err != nil {
		t.Fatal(err)
	}
	from = again()
	prints(from, `Ingot: no boot through net0(.|\n)*Ingot: no boot through net1(.|\n)*Ingot: again in 2 seconds`)
	out := ingot("machine", "timeline", lab.UUID(1), "--admin")
	if !strings.Contains(out, "a request for the boot script") {
		t.Errorf("the story does not say that the boot script is missing:\n%s", out)
	}
	console, err := os.ReadFile(vm.SerialLog())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(console[from:]), "Ingot boot image") {
		t.Error("the server booted what it does not trust")
	}
}

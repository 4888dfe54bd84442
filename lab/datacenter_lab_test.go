//go:build lab

package lab_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// programs builds Ingot's programs the way `make build` does.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "./cmd/...", "./lab/lldpsender")
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// Two servers that nobody has seen before: real firmware boots the medium that
// their BMCs present, over a routed network, and Ingot takes them to waiting.
// Each is then allocated for a project of its own, installed, and reached
// through its network.
func TestLabDataCenter(t *testing.T) {
	ctx := within(t, 15*time.Minute)
	dir, bin := t.TempDir(), programs(t)
	d, err := cache(t).NewDataCenter(ctx, lab.Plan{Dir: dir, Bin: bin, Servers: 2, Debian: true, Capture: true, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	start := time.Now()
	reach := func(t *testing.T, phase ingotv1.MachinePhase) {
		see := func(s lab.Sighting) { t.Logf("%5.1f s  %s", time.Since(start).Seconds(), s.Text()) }
		if err := d.Reach(ctx, see, lab.Goal{Server: 1, Phase: phase}, lab.Goal{Server: 2, Phase: phase}); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"waiting", func(t *testing.T) {
			reach(t, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
			list, err := d.Ingot(ctx, "machine", "list", "--admin", "-o", "template", "--template", "{{.uuid}} {{.size.id}}")
			if err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 2; n++ {
				if !strings.Contains(list, lab.UUID(n)+" lab-small") {
					t.Errorf("machine %d is not listed with its size:\n%s", n, list)
				}
				wipes, err := d.Ingot(ctx, "machine", "wipes", lab.UUID(n), "--verify", "--template", "{{.disk.name}} {{.result}} {{.method}}")
				if err != nil || !strings.Contains(wipes, "vda WIPE_RESULT_DONE WIPE_METHOD_DISCARD") {
					t.Errorf("the disk of machine %d is not proven to be wiped: %v\n%s", n, err, wipes)
				}
			}
		}},
		{"unprovisioned servers are alone", func(t *testing.T) { checkIsolation(t, d, dir) }},
		{"installed", func(t *testing.T) {
			for n := 1; n <= 2; n++ {
				p, err := d.NewProject(ctx, fmt.Sprintf("project-%d", n))
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Allocate(ctx, n, p, []string{lab.Debian, lab.Busybox}[n-1]); err != nil {
					t.Fatal(err)
				}
			}
			reach(t, ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME)
			checkCaptures(t, dir, 4)
		}},
		{"reached through its VRF", func(t *testing.T) { checkReach(ctx, t, d) }},
		{"a bug report", func(t *testing.T) { checkReport(ctx, t, d) }},
		{"used at its console", func(t *testing.T) { checkConsole(ctx, t, d, bin, 2) }},
		{"no secret is left behind", func(t *testing.T) { checkSecrets(ctx, t, d) }},
	}
	for _, s := range steps {
		if !t.Run(s.name, s.run) {
			t.FailNow()
		}
	}
}

// checkReport has a bug report written, which the search for secrets then sees.
func checkReport(ctx context.Context, t *testing.T, d *lab.DataCenter) {
	t.Helper()
	var file string
	if err := d.Entrance.Play(ctx, []byte("report"), func(said string) { _, file, _ = strings.Cut(said, "s: ") }); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, "tar", "tzf", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", file, err, out)
	}
	for _, want := range []string{"versions.txt", "machine-list.yaml", "timeline-m1.txt", "m1/serial.log", "control/ingotd.log", "m1-leaf1.pcap"} {
		if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
			t.Errorf("%s has no %s:\n%s", file, want, out)
		}
	}
	if strings.Contains(string(out), "missing.txt") {
		t.Errorf("%s misses something:\n%s", file, out)
	}
}

// checkCaptures looks at everything that passed between servers and leaves:
// no DHCP, DHCPv6 or TFTP, and no IPv4 from a server.
func checkCaptures(t *testing.T, dir string, wires int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(files) != wires {
		t.Fatalf("%d captures, want one for each of %d wires (%v)", len(files), wires, err)
	}
	https := 0
	for _, file := range files {
		frames, err := lab.ReadCapture(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			switch kind := f.Kind(); {
			case strings.HasPrefix(kind, "ipv4"), kind == "arp":
				if f.Data[6] == 0x52 { // from a server
					t.Errorf("%s: %s from a server", filepath.Base(file), kind)
				}
			case kind == "ipv6 udp 546", kind == "ipv6 udp 547", strings.HasSuffix(kind, "udp 67"), strings.HasSuffix(kind, "udp 68"), strings.HasSuffix(kind, "udp 69"):
				t.Errorf("%s: %s", filepath.Base(file), kind)
			case kind == "ipv6 tcp 443":
				https++
			}
		}
	}
	if https == 0 {
		t.Error("no wire shows a server that speaks HTTPS: the captures are not of this boot")
	}
}

//go:build lab

package lab_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A patient is the one server of a data centre, with a system on its first disk
// and something that must not be lost on its second.
type patient struct {
	*lab.DataCenter
	t       *testing.T
	ctx     context.Context
	server  *lab.Server
	dir     string
	project lab.Project
	start   time.Time
	data    string // digest of the second disk
	offset  int64  // of the console, from which on is listened
}

const (
	phonedHome = ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME
	waiting    = ingotv1.MachinePhase_MACHINE_PHASE_WAITING
)

// Another system on a server with two disks: nothing of the allocation changes,
// and nothing on the second disk, whatever happens on the way.
func TestLabReinstall(t *testing.T) {
	ctx, dir := within(t, 12*time.Minute), t.TempDir()
	d, err := cache(t).NewDataCenter(ctx, lab.Plan{Dir: dir, Bin: programs(t), Servers: 1, DataDisk: true, Releases: true, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &patient{DataCenter: d, t: t, ctx: ctx, server: d.Servers[0], dir: filepath.Join(dir, "m1"), start: time.Now()}
	p.reaches(waiting)
	p.project, err = d.NewProject(ctx, "reinstall")
	p.check(err)
	p.check(d.Allocate(ctx, 1, p.project, lab.Busybox))
	p.reaches(phonedHome)
	p.writeData()
	was := p.allocation()

	for _, s := range []struct {
		name string
		run  func(*patient)
	}{
		{"another release", func(p *patient) {
			p.reinstalled(lab.Busybox2, func() { p.reaches(phonedHome) })
			p.says("guest: release 2")
		}},
		{"an image that cannot be had", missingImage},
		{"power losses", powerLosses},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			q := *p
			q.t = t
			s.run(&q)
			now := q.allocation()
			for _, a := range []map[string]any{was, now} {
				delete(a, "image")
				delete(a, "meta")
			}
			if fmt.Sprint(now) != fmt.Sprint(was) {
				t.Errorf("the allocation was\n%v\nand is\n%v", was, now)
			}
		}) {
			t.FailNow()
		}
	}
}

// missingImage wants a system whose image is not where it should be: the one
// that is there comes back.
func missingImage(p *patient) {
	const gone = "busybox-3.0.0"
	where := fmt.Sprint(p.ask("image", "describe", lab.Busybox2)["url"], ".gone")
	_, err := p.Ingot(p.ctx, "image", "create", "--id", gone, "--url", where, "--features", "machine", "--classification", "supported", "--expires-at", "90d")
	p.check(err)
	_, err = p.Ingot(p.ctx, "image", "pin", gone, "--sha256", strings.Repeat("0", 64))
	p.check(err)
	p.reinstalled(gone, func() { p.reaches(phonedHome) })
	p.says("guest: release 2")
	if i := p.allocation()["image"].(map[string]any); i["id"] != lab.Busybox2 {
		p.t.Errorf("the allocation's image is %v", i["id"])
	}
	told, err := p.Ingot(p.ctx, "machine", "timeline", lab.UUID(1), "--admin")
	p.check(err)
	if !strings.Contains(told, where+": gave up after 8 attempts without a byte") || !strings.Contains(told, "no disk was written: the machine goes back to "+lab.Busybox2) {
		p.t.Errorf("the timeline does not tell why:\n%s", told)
	}
}

// powerLosses takes the power away at six points of one installation, each
// further on its way than the one before.
func powerLosses(p *patient) {
	step := func(name string) func() { return func() { p.says(`step done" step=` + name + " ") } }
	p.reinstalled(lab.Busybox, func() {
		for i, loss := range []struct {
			name  string
			at    func()
			phase string
		}{
			{"before it registers", step("token"), "PREPARING"},
			{"after it registered", func() { p.says("msg=registered ") }, "REGISTERING|WAITING|INSTALLING"},
			{"while the image is verified", step("wait"), "WAITING|INSTALLING"},
			{"while the image is written", func() {
				step("filesystem")()
				p.written(8 << 20)
			}, "INSTALLING"},
			{"before it reports", step("bootloader"), "INSTALLING"},
			{"after it reported", step("kexec"), "BOOTING_NEW_KERNEL"},
		} {
			if i > 0 {
				p.listen()
				p.check(p.server.VM.PowerOn(p.ctx)) // by hand
			}
			loss.at()
			p.check(p.server.VM.PowerOff())
			p.t.Logf("%5.1f s  power is lost %s", time.Since(p.start).Seconds(), loss.name)
			if phase := p.phase(); !regexp.MustCompile("^MACHINE_PHASE_(" + loss.phase + ")$").MatchString(phase) {
				p.t.Errorf("power was lost %s, but the machine is in %s", loss.name, phase)
			}
			p.sameData()
		}
		p.listen()
		p.check(p.server.VM.PowerOn(p.ctx))
		p.reaches(phonedHome)
		p.says("guest: ready at")
		if shown := p.shown(); strings.Contains(shown, "guest: release 2") {
			p.t.Errorf("the old system runs:\n%s", shown)
		}
	})
}

func (p *patient) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) reaches(phase ingotv1.MachinePhase) {
	p.t.Helper()
	p.check(p.Reach(p.ctx, func(s lab.Sighting) { p.t.Logf("%5.1f s  %s", time.Since(p.start).Seconds(), s.Text()) }, lab.Goal{Server: 1, Phase: phase}))
}

// reinstalled puts another image on the server and looks at what must be so
// whatever happens meanwhile: one power cycle, and the data.
func (p *patient) reinstalled(image string, meanwhile func()) {
	p.t.Helper()
	p.listen()
	before := len(p.server.BMC.Resets())
	p.check(p.Reinstall(p.ctx, 1, p.project.ID, image))
	meanwhile()
	if asked := p.server.BMC.Resets()[before:]; !slices.Equal(asked, []lab.ResetType{lab.ForceOff, lab.On}) {
		p.t.Errorf("the BMC was asked for %v, want one power cycle", asked)
	}
	p.sameData()
}

// writeData writes to the second disk, as the system that runs.
func (p *patient) writeData() {
	p.t.Helper()
	c, err := p.server.VM.Console(p.ctx)
	p.check(err)
	defer c.Close()
	go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
	p.says("/ # ")
	_, err = io.WriteString(c, "dd if=/dev/urandom of=/dev/vdb bs=1M count=32 && sync && echo data $((40+2))\n")
	p.check(err)
	p.says("data 42")
	p.data = p.digest()
}

func (p *patient) digest() string {
	p.t.Helper()
	f, err := os.Open(filepath.Join(p.dir, "disk1.raw"))
	p.check(err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	p.check(err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (p *patient) sameData() {
	p.t.Helper()
	if now := p.digest(); now != p.data {
		p.t.Fatal("the second disk was written to")
	}
}

// written waits until the first disk has grown by so many bytes.
func (p *patient) written(more int64) {
	p.t.Helper()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(p.dir, "disk0.raw"))
		p.check(err)
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	for from := size(); size() < from+more; {
		select {
		case <-p.ctx.Done():
			p.t.Fatal(p.ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listen has says look only at what the console shows from now on.
func (p *patient) listen() {
	p.t.Helper()
	info, err := os.Stat(p.server.VM.SerialLog())
	p.check(err)
	p.offset = info.Size()
}

// says waits until the console has shown a text.
func (p *patient) says(text string) {
	p.t.Helper()
	_, err := p.server.VM.WaitSerial(p.ctx, p.offset, regexp.MustCompile(regexp.QuoteMeta(text)))
	p.check(err)
}

// shown returns what the console has shown since listen.
func (p *patient) shown() string {
	p.t.Helper()
	all, err := os.ReadFile(p.server.VM.SerialLog())
	p.check(err)
	return string(all[p.offset:])
}

// ask returns what the command line prints as JSON.
func (p *patient) ask(args ...string) map[string]any {
	p.t.Helper()
	out, err := p.Ingot(p.ctx, append(args, "-o", "json")...)
	p.check(err)
	var m map[string]any
	p.check(json.Unmarshal([]byte(out), &m))
	return m
}

func (p *patient) allocation() map[string]any {
	p.t.Helper()
	a, ok := p.ask("machine", "describe", lab.UUID(1), "--project", p.project.ID)["allocation"].(map[string]any)
	if !ok || a["uuid"] == "" || len(a["networks"].([]any)) != 1 {
		p.t.Fatalf("the server has the allocation %v", a)
	}
	return a
}

func (p *patient) phase() string {
	p.t.Helper()
	return fmt.Sprint(p.ask("machine", "timeline", lab.UUID(1), "--admin")["phase"])
}

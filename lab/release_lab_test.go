//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// life is a data centre with one server, which is allocated and deleted.
type life struct {
	*testing.T
	*lab.DataCenter
	dir   string
	start time.Time
	admin *client.Client
}

// live runs a data centre until its server waits.
func live(ctx context.Context, t *testing.T) *life {
	t.Helper()
	l := &life{T: t, dir: t.TempDir(), start: time.Now()}
	var err error
	if l.DataCenter, err = cache(t).NewDataCenter(ctx, lab.Plan{Dir: l.dir, Bin: programs(t), Servers: 1, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if l.admin, err = l.API(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.admin.Close)
	l.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	return l
}

// reach waits for the server to be in a phase.
func (l *life) reach(ctx context.Context, phase ingotv1.MachinePhase) {
	l.Helper()
	see := func(s lab.Sighting) { l.Logf("%5.1f s  %s", time.Since(l.start).Seconds(), s.Text()) }
	if err := l.Reach(ctx, see, lab.Goal{Server: 1, Phase: phase}); err != nil {
		l.Fatal(err)
	}
}

// ingot runs the command line.
func (l *life) ingot(ctx context.Context, args ...string) string {
	l.Helper()
	out, err := l.Ingot(ctx, args...)
	if err != nil {
		l.Fatal(err)
	}
	return out
}

// install allocates the server for a new project, waits until its system runs,
// and returns the allocation and the address.
func (l *life) install(ctx context.Context, project string) (lab.Project, *apiv2.MachineAllocation, string) {
	l.Helper()
	p, err := l.NewProject(ctx, project)
	if err != nil {
		l.Fatal(err)
	}
	if err := l.Allocate(ctx, 1, p, lab.Busybox); err != nil {
		l.Fatal(err)
	}
	l.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME)
	got, err := client.Of(l.admin, adminv2connect.NewMachineServiceClient).Get(ctx, &adminv2.MachineServiceGetRequest{Uuid: lab.UUID(1)})
	if err != nil {
		l.Fatal(err)
	}
	a := got.GetMachine().GetAllocation()
	return p, a, a.GetNetworks()[0].GetIps()[0]
}

// timeline returns the server's.
func (l *life) timeline(ctx context.Context) *ingotv1.Timeline {
	l.Helper()
	t, err := client.Of(l.admin, ingotv1connect.NewTimelineServiceClient).GetAny(ctx, connect.NewRequest(&ingotv1.TimelineServiceGetAnyRequest{Uuid: lab.UUID(1)}))
	if err != nil {
		l.Fatal(err)
	}
	return t.Msg.GetTimeline()
}

// trouble returns the details of the issue with the server's reclaim; empty if
// there is none.
func (l *life) trouble(ctx context.Context) string {
	l.Helper()
	list, err := client.Of(l.admin, adminv2connect.NewMachineServiceClient).Issues(ctx, &adminv2.MachineServiceIssuesRequest{})
	if err != nil {
		l.Fatal(err)
	}
	for _, m := range list.GetIssues() {
		for _, i := range m.GetIssues() {
			if i.GetType() == apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_FAILED_MACHINE_RECLAIM {
				return i.GetDetails()
			}
		}
	}
	return ""
}

// until waits for something to hold.
func (l *life) until(ctx context.Context, what string, holds func() bool) {
	l.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			l.Fatalf("waited in vain for %s; the server %v", what, l.timeline(ctx).GetWaiting())
		case <-time.After(500 * time.Millisecond):
		}
	}
	l.Logf("%5.1f s  %s", time.Since(l.start).Seconds(), what)
}

// refuses checks that nobody gets the server.
func (l *life) refuses(ctx context.Context, p lab.Project) {
	l.Helper()
	if err := l.Allocate(ctx, 1, p, lab.Busybox); err == nil || !strings.Contains(err.Error(), "is not waiting") {
		l.Errorf("allocating it: %v", err)
	}
}

// A machine that is deleted is wiped and waits again; the next tenant finds
// nothing of the one before, and neither does who looks into the store.
func TestLabRelease(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	l := live(ctx, t)
	p, old, address := l.install(ctx, "first")
	disk, marker := filepath.Join(l.dir, "m1", "disk0.raw"), rand.Text()+rand.Text()
	if out, err := l.SSH(ctx, "m1", "yes "+marker+" | head -c 4000000 > marker && sync"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !onDisk(t, disk, marker) {
		t.Fatal("the marker is not on the disk: the test shows nothing")
	}
	hello(ctx, t, l.DataCenter, 1, l.Entrance.Leaves...)

	deleted := time.Now()
	l.ingot(ctx, "machine", "delete", lab.UUID(1), "--project", p.ID, "--yes")
	l.refuses(ctx, p)
	l.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	t.Logf("deleted and waiting again in %.1f s", time.Since(deleted).Seconds())
	if onDisk(t, disk, marker) {
		t.Error("the marker is still on the disk")
	}
	for _, leaf := range []string{"leaf1", "leaf2"} {
		if out, err := l.SSH(ctx, leaf, "/bin/ip", "-o", "link", "show", "swp1"); err != nil || !strings.Contains(out, "master vrf1000 ") {
			t.Errorf("%s: its port is not in the boot VRF: %v: %s", leaf, err, out)
		}
		if out, err := l.SSH(ctx, leaf, "for v in $(/bin/ip -o link show type vrf | cut -d: -f2); do /bin/ip vrf exec $v nc -w 2 "+address+" 22 </dev/null && echo reached through $v; done"); strings.Contains(out, "reached") {
			t.Errorf("%s: the old address answers: %v: %s", leaf, err, out)
		}
	}
	l.checkSteps(ctx)
	if details := l.trouble(ctx); details != "" {
		t.Errorf("it has an issue: %s", details)
	}

	_, a, fresh := l.install(ctx, "second")
	if fresh == address || a.GetUuid() == old.GetUuid() {
		t.Errorf("the second allocation is %v, the first was %v", a, old)
	}
	hello(ctx, t, l.DataCenter, 1, l.Entrance.Leaves...)
	l.checkStore(ctx, old, a, address)
}

// checkSteps looks for every step from the deletion to waiting, in order, and
// for how long those took that take time.
func (l *life) checkSteps(ctx context.Context) {
	l.Helper()
	var steps []string
	took := map[string]time.Duration{}
	for _, e := range l.timeline(ctx).GetEntries() {
		if e.GetStep() == "reclaiming" {
			steps = nil
		}
		steps = append(steps, e.GetStep())
		took[e.GetStep()] = e.GetTook().AsDuration()
		if e.GetFailed() {
			l.Errorf("step %s failed: %s", e.GetStep(), e.GetMessage())
		}
	}
	rest := steps
	for _, want := range []string{"reclaiming", "off", "power off", "ports", "release", "boot medium", "booting", "preparing", "token", "register", "wipe", "waiting"} {
		for len(rest) > 0 && rest[0] != want {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			l.Fatalf("step %s is missing or out of order in %q", want, steps)
		}
	}
	for _, s := range []string{"off", "power off", "ports", "release", "boot medium", "token", "register", "wipe"} {
		if took[s] == 0 {
			l.Errorf("step %s does not say how long it took", s)
		}
	}
}

// checkStore ends the control plane and looks for what the first allocation
// left behind.
func (l *life) checkStore(ctx context.Context, old, current *apiv2.MachineAllocation, address string) {
	l.Helper()
	kv, raw := rawKeys(ctx, l.T, l.DataCenter, l.dir)
	defer kv.Close()
	db, err := store.Open(ctx, kv, store.Options{Tables: records.Tables()})
	if err != nil {
		l.Fatal(err)
	}
	defer db.Close()
	r := db.Snapshot()
	found := false
	for _, e := range raw {
		text := append([]byte(e.Key+" "), e.Value...)
		if bytes.Contains(text, []byte(old.GetUuid())) {
			l.Errorf("%s still knows the old allocation", e.Key)
		}
		found = found || bytes.Contains(text, []byte(current.GetUuid()))
	}
	if !found {
		l.Errorf("none of %d keys knows the current allocation: the search is blind", len(raw))
	}
	for ip := range records.IPs.All(r) {
		if ip.GetIp() == address || ip.GetProject() == "" {
			l.Errorf("address %s is still taken: %v", ip.GetIp(), ip)
		}
	}
	for what, n := range map[string]int{
		"reclaims":                           records.Reclaims.Count(r, "", ""),
		"open operations":                    records.Operations.Count(r, "open", lab.Partition),
		"AS numbers of the old allocation":   records.ASNs.Count(r, "owner", "allocation "+old.GetUuid()),
		"allocations besides the second":     records.Allocations.Count(r, "", "") - 1,
		"userdata besides the second's":      count(r, "userdata/") - 1,
		"console passwords besides its":      count(r, "console/") - 1,
		"AS numbers besides the second's":    records.ASNs.Count(r, "owner", "allocation "+current.GetUuid()) - 1,
		"tokens of boots besides the newest": stale(r),
	} {
		if n != 0 {
			l.Errorf("%d %s", n, what)
		}
	}
	for w := range records.BootWindows.All(r) {
		if w.GetUsed() == nil {
			l.Errorf("a boot window is open: %v", w)
		}
	}
}

// rawKeys kills the control plane and returns its store, and all that is in it.
func rawKeys(ctx context.Context, t *testing.T, d *lab.DataCenter, dir string) (*store.Etcd, []store.Entry) {
	t.Helper()
	if err := d.Break(ctx, "api", ""); err != nil {
		t.Fatal(err)
	}
	kv, err := store.OpenEtcd(ctx, store.EtcdConfig{Dir: filepath.Join(dir, "control", "data")})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := kv.Range(ctx, "ingot/")
	if err != nil {
		t.Fatal(err)
	}
	return kv, raw
}

// count returns how many secrets there are below a key.
func count(r store.Reader, prefix string) int {
	n := 0
	for range records.Secrets.Prefix(r, prefix) {
		n++
	}
	return n
}

// stale returns how many tokens of servers belong to a boot that is over.
func stale(r store.Reader) int {
	n := 0
	for t := range records.Tokens.By(r, "user", "machine/"+lab.UUID(1)) {
		if m, _ := records.Machines.Peek(r, lab.UUID(1)); t.GetBootId() != m.GetBootId() {
			n++
		}
	}
	return n
}

// The power of a deleted machine cannot be taken away, and then its firmware
// ignores the boot order. The tenant's system keeps running in both cases: it
// reaches nothing, gets no token, and nobody gets the machine. An issue says
// what a person can do, and that helps.
func TestLabReleaseStuck(t *testing.T) {
	ctx := within(t, 6*time.Minute)
	l := live(ctx, t)
	p, _, address := l.install(ctx, "first")
	server := l.Servers[0]
	quirk := func(q lab.Quirk, on bool) {
		t.Helper()
		if err := server.BMC.SetQuirk(q, on); err != nil {
			t.Fatal(err)
		}
	}
	offset := l.leaveBehind(ctx)
	prints := func(what, pattern string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := server.VM.WaitSerial(ctx, offset, regexp.MustCompile(pattern)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%5.1f s  %s", time.Since(l.start).Seconds(), what)
	}
	prints("no metal-boot answers in the tenant's network", `former: round=\d+ reached= begin=silence token=silence`)

	quirk(lab.IgnoresPower, true)
	deleted := time.Now()
	offset = size(t, server.VM.SerialLog())
	l.ingot(ctx, "machine", "delete", lab.UUID(1), "--project", p.ID, "--yes")
	prints("after the deletion it reaches metal-boot, and is refused", `former: round=\d+ reached=\[fd00:b007::1\]:443 begin=permission_denied token=permission_denied`)
	l.until(ctx, "the issue says that the power does not go off", func() bool {
		return strings.Contains(l.trouble(ctx), "for the BMC to report power off")
	})
	t.Logf("after %.0f s: %s", time.Since(deleted).Seconds(), l.trouble(ctx))
	l.refuses(ctx, p)
	confirm := func() error {
		_, err := l.Ingot(ctx, "machine", "confirm-off", lab.UUID(1), "--reason", "pulled the plug")
		return err
	}
	if err := confirm(); err == nil || !strings.Contains(err.Error(), "its BMC reports power") {
		t.Errorf("confirming against the BMC's word: %v", err)
	}

	quirk(lab.Silent, true)
	if err := server.VM.PowerOff(); err != nil {
		t.Fatal(err)
	}
	var refused error
	l.until(ctx, "a person's word counts when the BMC says nothing", func() bool {
		refused = confirm()
		return refused == nil || !strings.Contains(refused.Error(), "its BMC reports power")
	})
	if refused != nil {
		t.Fatal(refused)
	}
	l.until(ctx, "the address is free", func() bool { return !strings.Contains(l.ingot(ctx, "ip", "list", "--admin"), address+" ") })
	l.refuses(ctx, p)

	quirk(lab.IgnoresPower, false)
	quirk(lab.IgnoresOverride, true)
	quirk(lab.Silent, false)
	l.until(ctx, "the issue says that the old system runs again", func() bool {
		return strings.Contains(l.trouble(ctx), "the system of a former allocation runs instead of the boot medium")
	})
	t.Log(l.trouble(ctx))
	l.refuses(ctx, p)

	quirk(lab.IgnoresOverride, false)
	l.ingot(ctx, "machine", "boot-medium", lab.UUID(1))
	l.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_POWERING_ON)
	l.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	if details := l.trouble(ctx); details != "" {
		t.Errorf("it still has an issue: %s", details)
	}
}

// leaveBehind starts a program on the server that goes on when the machine is
// deleted, and returns where on the console it begins to tell what it reaches.
func (l *life) leaveBehind(ctx context.Context) int64 {
	l.Helper()
	f, err := os.Open(program(l.T, "./testdata/former"))
	if err != nil {
		l.Fatal(err)
	}
	defer f.Close()
	cmd, err := l.Entrance.SSH(ctx, "m1", "cat > /tmp/former && chmod +x /tmp/former")
	if err != nil {
		l.Fatal(err)
	}
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("%v: %s", err, out)
	}
	console, err := l.Servers[0].VM.Console(ctx) // root's, as the image's owner left it
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { console.Close() })
	go func() { _, _ = io.Copy(io.Discard, console) }() // ends with the console
	offset := size(l.T, l.Servers[0].VM.SerialLog())
	if _, err := io.WriteString(console, "\n/tmp/former [fd00:b007::1]:443 [fd00:b007::1]:22 10.255.0.1:179 10.255.0.2:179 10.0.2.2:22 &\n"); err != nil {
		l.Fatal(err)
	}
	return offset
}

// onDisk reports whether a text is anywhere in what a file holds; its holes
// are zeroes.
func onDisk(t *testing.T, file, text string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := int64(0); ; {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		if to-from > 256<<20 {
			to = from + 256<<20
		}
		b := make([]byte, to-from)
		if _, err := f.ReadAt(b, from); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return true
		}
		if at = to; len(b) == 256<<20 {
			at -= int64(len(text)) // it may lie across
		}
	}
}

//go:build lab && cycles

package lab_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// strikes are the faults that a machine has to survive without anybody's help
// once they are over. on names what they strike, given a server.
var strikes = []struct {
	fault string
	on    func(server string, leaf int) string
}{
	{"wire", onWire}, {"ra", onWire}, {"dns", onWire}, {"https", onWire}, {"link", onWire}, {"lldp", onWire},
	{"leaf-agent", onLeaf}, {"frr", onLeaf},
	{"api", onNothing}, {"origin", onNothing}, {"site", onNothing},
	{"ignores-power", onServer},
}

func onWire(server string, leaf int) string { return fmt.Sprintf("%s-leaf%d", server, leaf) }
func onLeaf(_ string, leaf int) string      { return fmt.Sprintf("leaf%d", leaf) }
func onServer(server string, _ int) string  { return server }
func onNothing(string, int) string          { return "" }

// Servers are allocated, installed, released and clean again, while at a random
// moment of each cycle something breaks for a while. INGOT_LAB_ROUNDS is how
// many cycles each of three servers makes (1), INGOT_LAB_SEED repeats a run.
func TestCycles(t *testing.T) {
	rounds, seed := number(t, "INGOT_LAB_ROUNDS", 1), uint64(number(t, "INGOT_LAB_SEED", int(time.Now().Unix())))
	t.Logf("INGOT_LAB_ROUNDS=%d INGOT_LAB_SEED=%d", rounds, seed)
	ctx := within(t, time.Duration(rounds+1)*12*time.Minute)
	const servers = 3
	dir := t.TempDir()
	d, err := cache(t).NewDataCenter(ctx, lab.Plan{Dir: dir, Bin: programs(t), Servers: servers, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cycles{t: t, d: d, dir: dir, servers: servers, random: rand.New(rand.NewPCG(seed, 0)), start: time.Now()}
	c.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	p, err := d.NewProject(ctx, "cycles")
	if err != nil {
		t.Fatal(err)
	}
	before := c.census(ctx)
	for n := range rounds {
		c.round(ctx, n, p)
	}
	c.leave(ctx, p)
	if diff := cmp.Diff(before, c.census(ctx)); diff != "" {
		t.Errorf("something is left of %d rounds (-before +after):\n%s", rounds, diff)
	}
}

func number(t *testing.T, name string, unset int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return unset
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

type cycles struct {
	t       *testing.T
	d       *lab.DataCenter
	dir     string
	servers int
	random  *rand.Rand
	start   time.Time
}

func (c *cycles) say(format string, args ...any) {
	c.t.Logf("%6.1f s  %s", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

// reach waits until all servers have got somewhere.
func (c *cycles) reach(ctx context.Context, phase ingotv1.MachinePhase) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 6*time.Minute)
	defer cancel()
	var goals []lab.Goal
	for n := 1; n <= c.servers; n++ {
		goals = append(goals, lab.Goal{Server: n, Phase: phase})
	}
	if err := c.d.Reach(ctx, func(s lab.Sighting) { c.say("%s", s.Text()) }, goals...); err != nil {
		c.t.Fatal(err)
	}
}

// round takes every server through one cycle.
func (c *cycles) round(ctx context.Context, round int, p lab.Project) {
	c.t.Helper()
	struck := c.strike(ctx, 25*time.Second)
	for n := 1; n <= c.servers; n++ {
		c.insist(ctx, "allocate", func() error { return c.d.Allocate(ctx, n, p, lab.Busybox) })
	}
	c.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME)
	struck.Wait()
	var markers []string
	for n := 1; n <= c.servers; n++ {
		marker := fmt.Sprintf("marker-%d-%d-%d", round, n, c.random.Uint64())
		markers = append(markers, marker)
		name := "m" + strconv.Itoa(n)
		c.insist(ctx, "marker", func() error {
			out, err := c.d.SSH(ctx, name, "echo "+marker+" > /tmp/marker && sync && cat /tmp/marker")
			if err == nil && !strings.Contains(out, marker) {
				err = fmt.Errorf("%s says %q", name, out)
			}
			return err
		})
	}
	struck = c.strike(ctx, 30*time.Second)
	for n := 1; n <= c.servers; n++ {
		c.insist(ctx, "free", func() error { return c.d.Free(ctx, n, p.ID) })
	}
	struck.Wait() // before it may have made no difference yet that a machine waits
	c.reach(ctx, ingotv1.MachinePhase_MACHINE_PHASE_WAITING)
	c.clean(markers)
}

// strike breaks something for each server at a random moment within a time,
// and mends it after another.
func (c *cycles) strike(ctx context.Context, within time.Duration) *sync.WaitGroup {
	var all sync.WaitGroup
	for n := 1; n <= c.servers; n++ {
		s := strikes[c.random.IntN(len(strikes))]
		on := s.on("m"+strconv.Itoa(n), 1+c.random.IntN(2))
		after, lasts := time.Duration(c.random.Int64N(int64(within))), time.Duration(c.random.Int64N(int64(15*time.Second)))
		all.Go(func() {
			time.Sleep(after)
			c.say("BREAK %s %s for %.1f s", s.fault, on, lasts.Seconds())
			if err := c.d.Break(ctx, s.fault, on); err != nil {
				c.t.Errorf("break %s %s: %v", s.fault, on, err)
			}
			time.Sleep(lasts)
			c.say("MEND %s %s", s.fault, on)
			if err := c.d.Mend(ctx, s.fault, on); err != nil {
				c.t.Errorf("mend %s %s: %v", s.fault, on, err)
			}
		})
	}
	return &all
}

// insist repeats what a user repeats while the control plane is away.
func (c *cycles) insist(ctx context.Context, what string, do func() error) {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
		c.say("%s: %v", what, err)
		time.Sleep(time.Second)
	}
}

// clean looks for the markers on every disk, as the host sees them.
func (c *cycles) clean(markers []string) {
	c.t.Helper()
	for n := 1; n <= c.servers; n++ {
		for _, marker := range markers {
			if onDisk(c.t, filepath.Join(c.dir, "m"+strconv.Itoa(n), "disk0.raw"), marker) {
				c.t.Errorf("the wiped disk of m%d still holds %s", n, marker)
			}
		}
	}
}

// leave gives back the addresses from which the lab logged in to the servers.
func (c *cycles) leave(ctx context.Context, p lab.Project) {
	c.t.Helper()
	list, err := c.d.Ingot(ctx, "ip", "list", "--project", p.ID, "-o", "template", "--template", "{{.ip}} {{.name}}")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(list) {
		if address, name, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, "lab-leaf") {
			if _, err := c.d.Ingot(ctx, "ip", "delete", address, "--project", p.ID, "--yes"); err != nil {
				c.t.Error(err)
			}
		}
	}
}

// counted are the tables in which an allocation leaves something, and from
// which all of it has to go.
var counted = []string{"allocation", "reclaim", "ip", "asn", "vni", "secret", "childprefix", "leafport", "connection", "machine"}

// census counts the raw keys of these tables, while the control plane is dead.
func (c *cycles) census(ctx context.Context) map[string]int {
	c.t.Helper()
	kv, entries := rawKeys(ctx, c.t, c.d, c.dir)
	if err := kv.Close(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.d.Mend(ctx, "api", ""); err != nil {
		c.t.Fatal(err)
	}
	all, found := map[string]int{}, map[string]int{}
	for _, e := range entries {
		table, _, _ := strings.Cut(strings.TrimPrefix(e.Key, "ingot/"), "/")
		all[table]++
	}
	for _, table := range counted {
		found[table] = all[table]
	}
	if found["machine"] != c.servers {
		c.t.Fatalf("%d machines in the raw keys, of %d: the census is blind; tables: %v", found["machine"], c.servers, all)
	}
	return found
}

//go:build lab

package web_test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// hostile is a name that would do harm if it became markup.
const hostile = `<img src=x onerror="document.body.id='pwned'">&lt;b&gt;"'</td>`

const (
	discovered = ingotv1.MachinePhase_MACHINE_PHASE_DISCOVERED
	booting    = ingotv1.MachinePhase_MACHINE_PHASE_BOOTING
	waiting    = ingotv1.MachinePhase_MACHINE_PHASE_WAITING
	installing = ingotv1.MachinePhase_MACHINE_PHASE_INSTALLING
	phonedHome = ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME
	crashed    = ingotv1.MachinePhase_MACHINE_PHASE_CRASHED
)

// settle gives the world machines in many states.
func settle(w *world) map[string]*server {
	w.rack("r01", 32, "leaf01", "leaf02")
	w.rack("r02", 32, "leaf03", "leaf04")
	all := map[string]*server{
		"home":      w.machine(1, phonedHome, 3*time.Hour, "web1", "swp2", "leaf01", "leaf02"),
		"hostile":   w.machine(2, phonedHome, 26*time.Hour, hostile, "swp3", "leaf01", "leaf02"),
		"waiting":   w.machine(3, waiting, 8*time.Minute, "", "swp4", "leaf01", "leaf02"),
		"writing":   w.machine(4, installing, 41*time.Second, "db1", "swp5", "leaf01", "leaf02"),
		"booting":   w.machine(5, booting, 4*time.Second, "", "swp6", "leaf01", "leaf02"),
		"overdue":   w.machine(6, booting, 14*time.Minute, "", "swp2", "leaf03", "leaf04"),
		"crashed":   w.machine(7, crashed, 2*time.Minute, "", "swp3", "leaf03"),
		"unplugged": w.machine(8, discovered, time.Minute, "", ""),
	}
	w.up("leaf03", "swp2")
	all["writing"].past(
		`12 4 filesystem 2345 "vfat on nvme0n1p1, ext4 on nvme0n1p2"`, `14 4 partition 812 "nvme0n1: 2 partitions"`, `41 1 allocated 0 "for project 0a0a0a0a"`,
		`120 4 wipe 3120 "nvme0n1: crypto erase"`, `124 4 register 210 "size c1-large-x86"`, `125 4 inventory 640 "16 cores, 64 GB, 1 disk"`,
		`126 4 token 90 ""`, `127 4 time 35 ""`, `128 4 address 402 "fd00:10:0:105::5"`, `140 3 boot 0 "medium started"`, `152 2 boot-medium 5400 "inserted, power cycled"`)
	w.update(func(tx *store.Tx) error {
		_, err := records.Machines.Change(tx, all["crashed"].Uuid, func(m *machineRecord) error {
			m.LastError = &apiv2.MachineProvisioningEvent{Time: m.GetPhaseSince(), Message: "wipe: " + hostile}
			m.CrashLoop = true
			return nil
		})
		return err
	})
	all["crashed"].past(`120 4 wipe 950 "failed: nvme0n1: device does not answer"`, `121 4 register 190 ""`)
	return all
}

// write has the agent write an image, so far.
func (s *server) write(percent uint32) {
	s.w.t.Helper()
	s.reports(&ingotv1.AgentServiceReportRequest{
		Step: ingotv1.AgentStep_AGENT_STEP_IMAGE, State: ingotv1.StepState_STEP_STATE_PROGRESS, Message: "writing debian-12", Percent: percent, TimeLeft: durationpb.New(12 * time.Second),
	})
}

// A person looks at a partition: what the page shows, how it changes, and what
// it says when it cannot.
func TestLabPage(t *testing.T) {
	w := newWorld(t, nil)
	m := settle(w)
	m["writing"].write(37)
	b := newBrowser(t, w.spki())
	page := "https://" + w.addr + "/ui/"
	step := func(name string, fn func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, func(t *testing.T) { b.t, w.t = t, t; fn(t) }) {
			t.FailNow() // what follows builds on it
		}
		b.t, w.t = t, t
	}
	row := func(s *server) string { return `#rows tr[data-uuid="` + s.Uuid + `"]` }

	step("asks for a token", func(t *testing.T) {
		b.open("https://" + w.addr) // leads to the page
		b.says("#door label", "Token")
		b.shoot("door")
		b.write("#token", "nonsense")
		b.click("#door-form button")
		b.says("#door-why", "Make another with: ingot web")
		if n := eval[int](b, "document.querySelectorAll('#rows tr').length"); n != 0 {
			t.Errorf("%d machines are shown to nobody", n)
		}
	})

	step("shows machines, leaves and links", func(t *testing.T) {
		b.open("about:blank")
		b.open(w.ingot("web"))
		b.says("#rows", "web1")
		b.says("#pulse", "live")
		if at := eval[string](b, "location.href"); at != page {
			t.Errorf("the address is still %q", at)
		}
		for s, want := range map[string][]string{
			"home":      {"phoned home", "debian-12.0.20251220", "leaf01 swp2\nleaf02 swp2"},
			"waiting":   {"waiting", "can be allocated", "for 8 min"},
			"booting":   {"booting", "waits for the agent to get its token", "more"},
			"overdue":   {"overdue by", "look at the console"},
			"crashed":   {"crashed", "crashloop: wipe: <img"},
			"unplugged": {"discovered", "waits for the site"},
		} {
			for _, text := range want {
				b.says(row(m[s]), text)
			}
		}
		b.says("#states .care", "2") // overdue, crashed
		if links := eval[[]string](b, `[...document.querySelectorAll(".link")].map((l) => l.classList[1]).sort()`); strings.Join(links, " ") !=
			"boot boot boot boot boot boot boot boot boot machine machine machine machine service service" {
			t.Errorf("links %v", links)
		}
		b.says("svg .leaf .name", "leaf03")
		b.says("#racks h3", "On no leaf yet")
		b.says("#facts", "fd00:10::/44")
		b.says("#facts", "1 answer")
	})

	step("takes text for text", func(t *testing.T) {
		b.says(row(m["hostile"])+" th button", hostile)
		b.until("it is text in the picture", fmt.Sprintf("[...document.querySelectorAll('#racks .server title')].some((e) => e.textContent.includes(%q))", hostile))
		if id := eval[string](b, "document.body.id"); id != "" || eval[int](b, "document.querySelectorAll('main img').length") != 0 {
			t.Errorf("a name became markup: %q", id)
		}
	})

	step("follows progress and events", func(t *testing.T) {
		eval[any](b, "window.mark = document.querySelector('"+row(m["writing"])+"')")
		b.says(row(m["writing"]), "image: writing debian-12, 37 %, 12 s left")
		m["writing"].write(52)
		b.says(row(m["writing"]), "52 %")
		b.until("the bar", "document.querySelector('"+row(m["writing"])+" progress').value === 52")
		b.says("#racks .server .note", "image 52 %")
		m["booting"].sends(apiv2.MachineProvisioningEventType_MACHINE_PROVISIONING_EVENT_TYPE_PREPARING, "")
		b.says(row(m["booting"])+" .badge", "preparing")
		b.says("#racks .server .phase", "preparing")
		b.until("it is said aloud", "document.querySelector('#said').textContent.includes('preparing')")
		if !eval[bool](b, "window.mark === document.querySelector('"+row(m["writing"])+"')") {
			t.Error("the page was loaded or built anew")
		}
		late := w.machine(9, discovered, 0, "", "swp7", "leaf01", "leaf02")
		b.says(row(late), "discovered")
		b.until("the new server is in the picture", "document.querySelectorAll('#racks .server').length === 9")
		b.look(1440, 1000, "light")
		b.shoot("light")
		b.look(1440, 1000, "dark")
		b.shoot("dark")
		b.look(390, 844, "light")
		b.shoot("narrow")
		b.look(1440, 1000, "light")
	})

	step("tells the story of a machine", func(t *testing.T) {
		b.click(row(m["writing"]) + " button")
		b.says("#detail h2", "db1")
		b.says("#detail .now", "If it takes too long: look at the failed step")
		b.says("#detail .signs .missing", "in the partition's cache")
		b.says("#detail .story", "crypto erase")
		b.says("#detail .story td", "2.3 s")
		b.says("#detail dd", "10.0.16.4")
		b.until("the focus is on it", "document.activeElement.id === 'detail-title'")
		m["writing"].write(81)
		b.says("#detail .story", "81 %")
		b.shoot("detail")
		b.look(1440, 1000, "dark")
		b.shoot("detail-dark")
		b.look(390, 844, "light")
		b.shoot("detail-narrow")
		b.look(1440, 1000, "light")
		eval[any](b, "document.querySelector('#racks .server[aria-label*=crashed]').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
		b.says("#detail .now.bad .remedy", "Do: look at the last error")
		b.says("#detail .failed", "device does not answer")
		b.shoot("crashed")
		b.click("#detail .close")
		b.until("the story is closed", "document.querySelector('#detail').hidden")
	})

	step("finds machines", func(t *testing.T) {
		b.write("#search", "leaf03:swp2")
		b.says("#shown", "1 of 9 machines")
		b.until("the picture shows only the rack", "[...document.querySelectorAll('.rack')].filter((r) => r.checkVisibility()).length === 1")
		eval[any](b, "(() => { const s = document.querySelector('#search'); s.value = ''; s.dispatchEvent(new Event('input')) })()")
		b.says("#shown", "9 machines")
		b.click("#states .care")
		b.says("#shown", "2 of 9 machines")
		b.click("#states .care")
	})

	step("says when it cannot tell", func(t *testing.T) {
		check(t, w.down())
		b.says("#stale-why", "the API does not answer")
		b.until("how old the news is", "/Last update \\d+ s ago/.test(document.querySelector('#stale').textContent)")
		b.shoot("stale")
		m["waiting"].happened(func(m *machineRecord) { m.Phase = crashed })
		w.serve(w.listen(w.addr))
		b.says("#pulse", "live")
		b.says(row(m["waiting"])+" .badge", "crashed")
		b.until("the warning is gone", "document.querySelector('#stale').hidden")
	})

	for _, line := range b.log() {
		if strings.Contains(line, "Content Security Policy") || strings.Contains(line, "Error:") {
			t.Errorf("console: %s", line)
		}
	}

	step("says that the token has expired", func(t *testing.T) {
		w.clock.Advance(13 * time.Hour)
		b.says("#door-why", "Token has expired. Make another with: ingot web")
		b.shoot("expired")
		if eval[int](b, "sessionStorage.length") != 0 {
			t.Error("the token is kept")
		}
	})
}

// Where a proxy lets no stream through, the page asks again and again.
func TestLabPageWithoutStreams(t *testing.T) {
	w := newWorld(t, map[string]http.Handler{"/ingot.v1.WatchService/All": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no streams here", http.StatusBadGateway)
	})})
	w.rack("r01", 8, "leaf01", "leaf02")
	m := w.machine(1, waiting, time.Minute, "", "swp2", "leaf01", "leaf02")
	b := newBrowser(t, w.spki())
	b.open(w.ingot("web"))
	b.says("#rows .badge", "waiting")
	b.says("#pulse", "polling")
	m.happened(func(m *machineRecord) { m.Phase = crashed })
	b.says("#rows .badge", "crashed")
	if eval[bool](b, "document.querySelector('#stale').checkVisibility()") {
		t.Error("a page that polls says that it is stale")
	}
}

// A page does not hold more rows than fit, however many machines there are.
func TestLabManyMachines(t *testing.T) {
	w := newWorld(t, nil)
	racks, perRack := 30, 40
	if n, err := strconv.Atoi(os.Getenv("INGOT_WEB_RACKS")); err == nil {
		racks = n // 250 are a large partition
	}
	for r := range racks {
		a, c := fmt.Sprintf("leaf%03d", 2*r+1), fmt.Sprintf("leaf%03d", 2*r+2)
		w.rack(fmt.Sprintf("r%03d", r+1), 48, a, c)
		for i := range perRack {
			w.machine(r*perRack+i+1, waiting, time.Hour, "", fmt.Sprintf("swp%d", i+2), a, c)
		}
	}
	b := newBrowser(t, w.spki())
	began := time.Now()
	b.open(w.ingot("web"))
	b.says("#shown", fmt.Sprint(racks*perRack)+" machines")
	t.Logf("%d machines are shown after %v", racks*perRack, time.Since(began).Round(10*time.Millisecond))
	if n := eval[int](b, "document.querySelectorAll('#rows tr').length"); n != 50 {
		t.Errorf("%d rows", n)
	}
	b.until("racks in view are drawn", "document.querySelector('.rack svg')")
	if n := eval[int](b, "document.querySelectorAll('.rack svg').length"); n == racks {
		t.Error("racks that nobody sees are drawn")
	}
	b.shoot("many")
	last := fmt.Sprintf("%012d", racks*perRack)
	b.write("#search", last)
	b.says("#shown", fmt.Sprintf("1 of %d machines", racks*perRack))
	b.says("#racks h3", fmt.Sprintf("Rack r%03d", racks))
	b.says("#racks .server .name", "…"+last[4:])
	b.until("it is scrolled to", `(() => {
		const at = document.querySelector("#racks .server:not(.dim)").getBoundingClientRect();
		return at.left >= 0 && at.right <= innerWidth;
	})()`)
	b.shoot("many-found")
}

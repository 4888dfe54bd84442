package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lab"
	"github.com/ingot-cloud/ingot/secret"
)

// board is a lab BMC in front of a server without iron, with the server's and
// the image's addresses.
type board struct {
	*lab.BMC
	shell    *lab.Shell
	serial   string // file of what the server prints
	endpoint bmc.Endpoint
	image    string
}

var lists = lab.Board{
	UUID: "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", Serial: "SN1", Manufacturer: "Ingot", Model: "Lab", BIOS: "2025.02", Firmware: "1.0",
	MAC: "02:00:00:00:00:0A", NICs: []string{"02:00:00:00:00:01", "02:00:00:00:00:02"},
}

func newBoard(t *testing.T) board {
	t.Helper()
	media := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".iso") {
			fmt.Fprint(w, "medium of ", r.URL.Path)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(media.Close)
	shell := &lab.Shell{}
	serial := filepath.Join(t.TempDir(), "serial.log")
	b, err := lab.NewBMC(lab.BMCConfig{Board: lists, Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: t.TempDir(), Serial: serial, Setup: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return board{b, shell, serial, bmc.Endpoint{Address: "https://" + l.Addr().String(), User: "admin", Password: secret.New("s3cret-word"), CA: b.CA()}, media.URL + "/boot.iso"}
}

func (b board) open(t *testing.T) *bmc.Redfish {
	t.Helper()
	r, err := bmc.Open(t.Context(), b.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(context.Background()) })
	return r
}

func TestInventory(t *testing.T) {
	b := newBoard(t)
	r := b.open(t)
	got, err := r.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := bmc.Inventory{
		State: bmc.State{Power: bmc.Off, Boot: bmc.None, BootDuration: bmc.Disabled, HasMedia: true},
		UUID:  lists.UUID, Serial: "SN1", Manufacturer: "Ingot", Model: "Lab", BIOS: "2025.02", Firmware: "1.0",
		BMCMACs: []string{"02:00:00:00:00:0a"}, MACs: lists.NICs, Complete: true,
		Parts: bmc.PartNumbers{Product: "P-Lab", Chassis: "C-Lab", ChassisSerial: "SN1"}, LED: bmc.LEDOff,
		Consumed: &bmc.Consumption{Average: 12, Min: 12, Max: 12, Minutes: 1},
		Supplies: []bmc.Part{{Name: "power supply PSU 1", State: "Enabled", Health: "OK"}, {Name: "power supply PSU 2", State: "Enabled", Health: "OK"}},
		Sensors: []bmc.Sensor{
			{Part: bmc.Part{Name: "temperature CPU", State: "Enabled", Health: "OK"}, Reading: 21, Unit: "°C"},
			{Part: bmc.Part{Name: "fan FAN1", State: "Enabled", Health: "OK"}, Unit: "RPM"},
		},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(bmc.Inventory{}, "ReadAt")); d != "" {
		t.Errorf("inventory (-want +got):\n%s", d)
	}
	before := b.Requests()
	if _, err := r.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.Requests() - before; n > 2 {
		t.Errorf("a state took %d requests, more than 2", n)
	}
}

// However many documents there are, no scan asks for more than it may.
func TestScanIsShort(t *testing.T) {
	b := newBoard(t)
	r := b.open(t)
	whole := 0
	for n, before := 1, 0; n <= 20; n++ { // the login is part of the first scan
		inv, err := r.Scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if took := b.Requests() - before; took > bmc.MaxRequests {
			t.Errorf("scan %d took %d requests", n, took)
		}
		if before = b.Requests(); inv.Complete && whole == 0 {
			whole = n
		}
		if inv.UUID != lists.UUID || inv.Power != bmc.Off {
			t.Errorf("scan %d: uuid %q, power %q", n, inv.UUID, inv.Power)
		}
	}
	if whole == 0 || whole > 4 {
		t.Errorf("everything was known after %d scans", whole)
	}
	before := b.Requests()
	if _, err := r.Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := b.Requests() - before; took != 3 {
		t.Errorf("a scan of a BMC that is known took %d requests", took)
	}
}

func TestSetup(t *testing.T) {
	b := newBoard(t)
	r, ctx := b.open(t), t.Context()
	for _, do := range []func() error{
		func() error { return r.SetBoot(ctx, bmc.Setup, bmc.Once) },
		func() error { return r.SetPower(ctx, bmc.PowerOn) },
		func() error { return r.SetPower(ctx, bmc.NMI) },
		func() error { return r.SetLED(ctx, true) },
		func() error { return r.SetPower(ctx, bmc.Shutdown) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	inv, err := r.Inventory(ctx)
	if err != nil || inv.LED != bmc.LEDOn || inv.Power != bmc.Off || b.shell.Interrupts() != 1 {
		t.Errorf("LED %q, power %q, %d interrupts, %v", inv.LED, inv.Power, b.shell.Interrupts(), err)
	}
	if starts := b.shell.Starts(); len(starts) != 1 || starts[0] != "setup" {
		t.Errorf("started from %v", starts)
	}
	before := b.Requests()
	if err := r.SetLED(ctx, true); err != nil || b.Requests() != before+1 {
		t.Errorf("an LED that is on: %v, %d requests", err, b.Requests()-before)
	}
}

func TestSessionsAreClosed(t *testing.T) {
	b := newBoard(t)
	for range 3 {
		r, err := bmc.Open(t.Context(), b.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if n := b.Sessions(); n != 1 {
			t.Errorf("%d sessions while one is in use", n)
		}
		r.Close(t.Context())
	}
	if n := b.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestBootFromMedium(t *testing.T) {
	b := newBoard(t)
	r, ctx := b.open(t), t.Context()
	step := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	state := func(want bmc.State) {
		t.Helper()
		want.HasMedia = true
		got, err := r.State(ctx)
		step("state", err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("state (-want +got):\n%s", d)
		}
	}
	step("insert", r.Insert(ctx, b.image))
	step("set boot", r.SetBoot(ctx, bmc.CD, bmc.Once))
	state(bmc.State{Power: bmc.Off, Boot: bmc.CD, BootDuration: bmc.Once, Inserted: true, Media: b.image})
	step("power on", r.SetPower(ctx, bmc.PowerOn))
	state(bmc.State{Power: bmc.On, Boot: bmc.None, BootDuration: bmc.Disabled, Inserted: true, Media: b.image})
	step("set boot", r.SetBoot(ctx, bmc.CD, bmc.Continuous))
	step("cycle", r.SetPower(ctx, bmc.Cycle))
	state(bmc.State{Power: bmc.On, Boot: bmc.CD, BootDuration: bmc.Continuous, Inserted: true, Media: b.image})
	step("disable", r.SetBoot(ctx, bmc.CD, bmc.Disabled))
	step("reset", r.SetPower(ctx, bmc.Reset))
	step("eject", r.Eject(ctx))
	step("power off", r.SetPower(ctx, bmc.PowerOff))
	state(bmc.State{Power: bmc.Off, Boot: bmc.None, BootDuration: bmc.Disabled})

	starts := b.shell.Starts()
	if len(starts) != 3 || filepath.Ext(starts[0]) != ".iso" || starts[1] != starts[0] || starts[2] != "disk" {
		t.Errorf("the server started from %q, want the medium twice and then the disk", starts)
	}
}

// A server is booted from the medium behind BMCs with each of the quirks that
// can be lived with.
func TestQuirks(t *testing.T) {
	for _, q := range []lab.Quirk{lab.Busy, lab.DeniesMedium, lab.Drops, lab.MediaAsTask, lab.MediaOnSystem, lab.OnlyOnce, lab.WantsProtocol, lab.WantsTag} {
		t.Run(string(q), func(t *testing.T) {
			b := newBoard(t)
			r, ctx := b.open(t), t.Context()
			if err := b.SetQuirk(q, true); err != nil {
				t.Fatal(err)
			}
			// What drops is asked again, as a site does.
			again := func(what string, do func() error) {
				t.Helper()
				var err error
				for range 3 {
					if err = do(); !errors.Is(err, fault.Unavailable) {
						break
					}
				}
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			again("insert", func() error { return r.Insert(ctx, b.image) })
			if q == lab.OnlyOnce {
				if err := r.SetBoot(ctx, bmc.CD, bmc.Continuous); !errors.Is(err, fault.Invalid) {
					t.Errorf("boot from CD for good: %v", err)
				}
			}
			again("set boot", func() error { return r.SetBoot(ctx, bmc.CD, bmc.Once) })
			again("power on", func() error { return r.SetPower(ctx, bmc.PowerOn) })
			var s bmc.State
			again("state", func() (err error) { s, err = r.State(ctx); return err })
			if starts := b.shell.Starts(); s.Power != bmc.On || !s.Inserted || s.Media != b.image || len(starts) != 1 || filepath.Ext(starts[0]) != ".iso" {
				t.Errorf("state %+v, started from %v", s, starts)
			}
			asked := b.Requests()
			again("insert", func() error { return r.Insert(ctx, b.image) })
			if n := b.Requests() - asked; n > 2 {
				t.Errorf("inserting what is in took %d requests", n)
			}
			again("eject", func() error { return r.Eject(ctx) })
			again("state", func() (err error) { s, err = r.State(ctx); return err })
			if s.Inserted || s.Media != "" {
				t.Errorf("after eject: %+v", s)
			}
		})
	}
}

func TestSlowBMC(t *testing.T) {
	b := newBoard(t)
	r := b.open(t)
	if err := b.SetQuirk(lab.Slow, true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.State(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow BMC: %v", err)
	}
	if err := b.SetQuirk(lab.Slow, false); err != nil {
		t.Fatal(err)
	}
	if s, err := r.State(t.Context()); err != nil || s.Power != bmc.Off {
		t.Errorf("when it is fast again: %+v, %v", s, err)
	}
}

func TestReadsBeforeItWrites(t *testing.T) {
	b := newBoard(t)
	r, ctx := b.open(t), t.Context()
	for _, do := range []func() error{
		func() error { return r.Insert(ctx, b.image) },
		func() error { return r.SetBoot(ctx, bmc.CD, bmc.Continuous) },
		func() error { return r.SetPower(ctx, bmc.PowerOn) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		before := b.Requests()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if n := b.Requests() - before; n != 1 {
			t.Errorf("doing what is done already took %d requests, want the one that reads", n)
		}
	}
	if n := len(b.shell.Starts()); n != 1 {
		t.Errorf("the server started %d times", n)
	}
	other := strings.Replace(b.image, "boot", "other", 1)
	if err := r.Insert(ctx, other); err != nil {
		t.Fatalf("another medium: %v", err)
	}
	if s, err := r.State(ctx); err != nil || s.Media != other {
		t.Errorf("the drive holds %q, %v", s.Media, err)
	}
}

func TestFaults(t *testing.T) {
	b := newBoard(t)
	with := func(change func(*bmc.Endpoint)) bmc.Endpoint {
		e := b.endpoint
		change(&e)
		return e
	}
	otherBMC := newBoard(t)
	for name, c := range map[string]struct {
		endpoint bmc.Endpoint
		kind     fault.Kind
		says     string
	}{
		"wrong password":    {with(func(e *bmc.Endpoint) { e.Password = secret.New("s3cret-wrong") }), fault.Unauthenticated, "check the BMC's user and password"},
		"password in url":   {with(func(e *bmc.Endpoint) { e.Address = "https://admin:s3cret-url@h" }), fault.Invalid, "in their own fields"},
		"no url":            {with(func(e *bmc.Endpoint) { e.Address = "10.0.0.1" }), fault.Invalid, "https://host"},
		"no certificates":   {with(func(e *bmc.Endpoint) { e.CA = []byte("x") }), fault.Invalid, "holds no certificate"},
		"another's":         {with(func(e *bmc.Endpoint) { e.CA = otherBMC.CA() }), fault.Unavailable, "its certificate"},
		"nobody vouches":    {with(func(e *bmc.Endpoint) { e.CA = nil }), fault.Unavailable, "its certificate"},
		"nobody at home":    {with(func(e *bmc.Endpoint) { e.Address = "https://127.0.0.1:1" }), fault.Unavailable, "is reachable"},
		"another's ignored": {with(func(e *bmc.Endpoint) { e.CA, e.Insecure, e.User = nil, true, "nobody" }), fault.Unauthenticated, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bmc.Open(t.Context(), c.endpoint)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "bmc ") {
				t.Errorf("got %v (%v), want %v saying %q", err, fault.KindOf(err), c.kind, c.says)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, c.endpoint), "s3cret-w") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the password is in %v or %+v", err, c.endpoint)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	b := newBoard(t)
	r, ctx := b.open(t), t.Context()
	if err := r.SetPower(ctx, bmc.Reset); !errors.Is(err, fault.Precondition) {
		t.Errorf("reset of a server that is off: %v", err)
	}
	if err := r.SetBoot(ctx, "Pxe", bmc.Once); !errors.Is(err, fault.Unimplemented) {
		t.Errorf("boot from PXE: %v", err)
	}
	missing := strings.TrimSuffix(b.image, ".iso")
	if err := r.Insert(ctx, missing); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "404") {
		t.Errorf("insert what is not there: %v", err)
	}
	if s, err := r.State(ctx); err != nil || s.Inserted {
		t.Errorf("after a failed insert: %+v, %v", s, err)
	}
}

func TestDeadline(t *testing.T) {
	stuck := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := bmc.Open(ctx, bmc.Endpoint{Address: s.URL, User: "u", Password: secret.New("s3cret")})
	if !errors.Is(err, fault.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestEndpointKeepsItsPassword(t *testing.T) {
	e := bmc.Endpoint{Address: "https://h", User: "u", Password: secret.New("s3cret")}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "endpoint", e)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "endpoint", e)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&log, verb, e)
	}
	if strings.Contains(log.String(), "s3cret") || strings.Contains(log.String(), "733363726574") {
		t.Errorf("the password is in %s", log.String())
	}
}

func TestTrees(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no trees: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			testTree(t, file, string(b))
		})
	}
}

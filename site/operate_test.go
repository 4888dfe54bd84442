package site_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/site"
)

// Each action on a real Redfish service, and what becomes of the server.
func TestActions(t *testing.T) {
	on := func(s server) {
		if err := s.SetPower(t.Context(), lab.On); err != nil {
			t.Error(err)
		}
	}
	for name, x := range map[string]struct {
		action ingotv1.OperationAction
		before func(server)
		after  func(server) string // empty if the server is as it should be
		off    bool                // power off was seen
	}{
		"on":  {ingotv1.OperationAction_OPERATION_ACTION_ON, nil, func(s server) string { return unless(s.On(), "is off") }, false},
		"off": {ingotv1.OperationAction_OPERATION_ACTION_OFF, on, func(s server) string { return unless(!s.On(), "is on") }, true},
		"shutdown": {ingotv1.OperationAction_OPERATION_ACTION_SHUTDOWN, on, func(s server) string {
			return unless(!s.On(), "is on")
		}, true},
		"shutdown of a deaf system": {ingotv1.OperationAction_OPERATION_ACTION_SHUTDOWN, func(s server) { s.Deaf = true; on(s) }, func(s server) string {
			return unless(!s.On(), "is on")
		}, true},
		"interrupt": {ingotv1.OperationAction_OPERATION_ACTION_INTERRUPT, on, func(s server) string {
			return unless(s.On() && s.Interrupts() == 1, "got no interrupt")
		}, false},
		"setup": {ingotv1.OperationAction_OPERATION_ACTION_BOOT_TO_BIOS, on, func(s server) string {
			return unless(len(s.Starts()) == 2 && s.Starts()[1] == "setup", "started from "+strings.Join(s.Starts(), ", "))
		}, true},
		"disk": {ingotv1.OperationAction_OPERATION_ACTION_BOOT_FROM_DISK, func(s server) {
			_ = s.SetOverride(lab.Override{Target: lab.FromCD})
		}, func(s server) string {
			return unless(len(s.Starts()) == 1 && s.Override() == lab.Override{}, "is not as it should be")
		}, true},
		"led on":  {ingotv1.OperationAction_OPERATION_ACTION_LED_ON, nil, func(s server) string { return unless(s.bmc.Lit(), "is dark") }, false},
		"led off": {ingotv1.OperationAction_OPERATION_ACTION_LED_OFF, nil, func(s server) string { return unless(!s.bmc.Lit(), "is lit") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, api := newControl(t)
			s := newServer(t, "b1")
			if x.before != nil {
				x.before(s)
			}
			const op = "0193e0a0-0000-7000-8000-000000000003"
			s.want.Operation = &ingotv1.Operation{Id: op, Action: x.action}
			start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
			c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
			c.eventually(t, "the operation is done", func() bool { return len(c.done[op]) > 0 })
			c.mu.Lock()
			d := c.done[op][0]
			c.mu.Unlock()
			if d.GetError() != "" || (d.GetPowerOffSeen() != nil) != x.off {
				t.Errorf("done: %v", d)
			}
			if wrong := x.after(s); wrong != "" {
				t.Errorf("the server %s", wrong)
			}
		})
	}
}

func unless(holds bool, otherwise string) string {
	if holds {
		return ""
	}
	return otherwise
}

// A BMC that accepts what it does not do is no success.
func TestIgnoredPowerIsAnError(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	if err := s.bmc.SetQuirk(lab.IgnoresPower, true); err != nil {
		t.Fatal(err)
	}
	b, err := site.NewBMCs(site.BMCsConfig{
		Partition: partition, API: api, Dir: t.TempDir(), Medium: medium(t), Every: 50 * time.Millisecond, Switch: 200 * time.Millisecond, Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	const op = "0193e0a0-0000-7000-8000-000000000004"
	s.want.Operation = &ingotv1.Operation{Id: op, Action: ingotv1.OperationAction_OPERATION_ACTION_ON}
	start(t, api, b)
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	c.eventually(t, "the operation has failed", func() bool {
		return len(c.done[op]) > 0 && strings.Contains(c.done[op][0].GetError(), `is still "Off" 200ms after it was turned on`)
	})
}

// What a BMC knows is reported whole.
func TestReport(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	c.eventually(t, "everything is reported", func() bool {
		r := c.bmcs["b1"].GetReport()
		return r.GetBmc().GetMac() == "02:00:00:00:00:0a" && r.GetBmc().GetVersion() == "1.0" && r.GetBios().GetVersion() == "2025.02" &&
			r.GetFru().GetProductSerial() == "SN-b1" && r.GetFru().GetChassisPartNumber() == "C-Lab" && r.GetFru().GetProductPartNumber() == "P-Lab" &&
			r.GetPowerMetric().GetAverageConsumedWatts() == 12 && len(r.GetPowerSupplies()) == 2 && r.GetPowerSupplies()[0].GetHealth() == "OK" &&
			r.GetLedState().GetValue() == "LED-OFF"
	})
}

// The session of the first look serves all others; one that is over is
// replaced, and the last one is closed.
func TestSessionIsKept(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	stop := start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	looked := func(more int) {
		t.Helper()
		from := s.bmc.Requests()
		c.eventually(t, "it is looked at", func() bool { return s.bmc.Requests() > from+more })
	}
	looked(40)
	if n := s.bmc.Logins(); n != 1 {
		t.Errorf("%d logins", n)
	}
	s.bmc.Forget()
	looked(40)
	c.mu.Lock()
	if e := c.bmcs["b1"].GetStatus().GetLastError(); e != "" || s.bmc.Logins() != 2 {
		t.Errorf("after the BMC forgot its sessions: %d logins, %q", s.bmc.Logins(), e)
	}
	c.mu.Unlock()
	stop()
	if n := s.bmc.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
}

// A BMC that refuses one account is tried with the others.
func TestOtherAccount(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	s.want.Accounts = []*ingotv1.BMCAccount{{User: "nobody", Password: "wr0ng-word"}, {User: s.want.GetUser(), Password: s.want.GetPassword()}}
	s.want.Password = "wr0ng-word"
	start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	c.eventually(t, "the machine is found", func() bool { return c.bmcs["b1"].GetMachine() == uuid })
	// An account that cannot be made is no reason to know nothing.
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs[0].Own = &ingotv1.BMCAccount{User: "ingot-a", Password: "short"} })
	c.eventually(t, "why there is no own account", func() bool {
		got := c.bmcs["b1"].GetStatus()
		return strings.Contains(got.GetOwnAccountError(), "8 to 20 characters") && !got.GetOwnAccount() && got.GetLastError() == ""
	})
}

package lab

import (
	"errors"
	"net/http"
	"testing"

	"github.com/ingot-cloud/ingot/fault"
)

// quirky is a service with a quirk.
func quirky(t *testing.T, q Quirk) service {
	t.Helper()
	s := newService(t)
	if err := s.SetQuirk(q, true); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUnknownQuirk(t *testing.T) {
	if err := newService(t).SetQuirk("sulks", true); !errors.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestIgnoresPower(t *testing.T) {
	s := quirky(t, IgnoresPower)
	reset := systemPath + "/Actions/ComputerSystem.Reset"
	if status, _, _ := s.do(t, "POST", reset, `{"ResetType":"On"}`); status != http.StatusNoContent || s.shell.On() {
		t.Errorf("status %d, on %t", status, s.shell.On())
	}
	if err := s.SetQuirk(IgnoresPower, false); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := s.do(t, "POST", reset, `{"ResetType":"On"}`); status != http.StatusNoContent || !s.shell.On() {
		t.Errorf("without the quirk: status %d, on %t", status, s.shell.On())
	}
}

func TestIgnoresOverride(t *testing.T) {
	s := quirky(t, IgnoresOverride)
	if err := s.shell.Insert("medium"); err != nil {
		t.Fatal(err)
	}
	shown := func() any {
		_, _, doc := s.do(t, "GET", systemPath, "")
		return doc["Boot"].(map[string]any)["BootSourceOverrideEnabled"]
	}
	change := `{"Boot":{"BootSourceOverrideTarget":"Cd","BootSourceOverrideEnabled":"Once"}}`
	if status, _, _ := s.do(t, "PATCH", systemPath, change); status != http.StatusNoContent || shown() != "Once" {
		t.Errorf("status %d, shows %v", status, shown())
	}
	s.do(t, "POST", systemPath+"/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	if starts := s.shell.Starts(); len(starts) != 1 || starts[0] != "disk" || shown() != "Disabled" {
		t.Errorf("started from %v, shows %v", starts, shown())
	}
}

func TestSilent(t *testing.T) {
	s := quirky(t, Silent)
	get := func() error {
		resp, err := http.Get(s.url + rootPath)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if err := get(); err == nil {
		t.Error("it has answered")
	}
	if err := s.SetQuirk(Silent, false); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("without the quirk: %v", err)
	}
}

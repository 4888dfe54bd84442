package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A system goes to the disk that it was on, whatever that is called now.
func TestSameDisk(t *testing.T) {
	disk := func(name, serial string) *ingotv1.Disk { return &ingotv1.Disk{Name: name, Serial: serial, Size: 4096} }
	system, data := disk("sda", "S1"), disk("sdb", "S2")
	for name, c := range map[string]struct {
		then, now []*ingotv1.Disk
		err       string
	}{
		"as it was":       {[]*ingotv1.Disk{system, data}, []*ingotv1.Disk{system, data}, ""},
		"renumbered":      {[]*ingotv1.Disk{system, data}, []*ingotv1.Disk{disk("sda", "S2"), disk("sdb", "S1")}, "disk /dev/sda: is S2 now and was S1 when the machine was installed; it may hold data and is not touched"},
		"replaced":        {[]*ingotv1.Disk{system}, []*ingotv1.Disk{disk("sda", "S9")}, "is S9 now"},
		"gone":            {[]*ingotv1.Disk{system, data}, []*ingotv1.Disk{data}, "is not there"},
		"new":             {[]*ingotv1.Disk{data}, []*ingotv1.Disk{system, data}, "was not there when the machine was installed"},
		"lost its number": {[]*ingotv1.Disk{system}, []*ingotv1.Disk{disk("sda", "")}, "is a disk of 4096 bytes without a serial number now"},
		"never had one":   {[]*ingotv1.Disk{disk("sda", "")}, []*ingotv1.Disk{disk("sda", "")}, ""},
		"by wwn":          {[]*ingotv1.Disk{{Name: "sda", Wwn: "w1"}}, []*ingotv1.Disk{{Name: "sda", Wwn: "w2"}}, "is w2 now and was w1"},
	} {
		err := sameDisk("/dev/sda", c.then, c.now)
		if (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || !errors.Is(err, fault.Invalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// reinstalling returns an agent that is told to replace a system on a file that
// stands for /dev/sda, with a server of images.
func reinstalling(t *testing.T, f *fakeAPI, body string) (*Agent, *ingotv1.Installation) {
	t.Helper()
	images := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	t.Cleanup(images.Close)
	a := newAgent(t, f, stages...)
	a.now = slices.IndexFunc(stages, func(s stage) bool { return s.step == ingotv1.AgentStep_AGENT_STEP_CHECK })
	var err error
	if a.api, err = dial(a.cfg); err != nil {
		t.Fatal(err)
	}
	if err := a.api.keep(jwt("t1"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	a.bootID = bootID
	device := filepath.Join(t.TempDir(), "sda")
	l := layoutOf(t, plain)
	l.Disks[0].Device = device
	sum := sha256.Sum256([]byte("image"))
	a.disks = []*ingotv1.Disk{{Name: "sda", Serial: "S1"}}
	a.install = &ingotv1.Installation{
		Allocation:     &apiv2.MachineAllocation{Uuid: "a", FilesystemLayout: l},
		Source:         &ingotv1.ImageSource{Image: "debian-12.0", Sha256: hex.EncodeToString(sum[:])},
		Urls:           []string{images.URL},
		Reinstallation: &ingotv1.Reinstallation{Disks: a.disks, Intact: true},
	}
	return a, a.install
}

// What cannot be had whole is found out before the disk is opened.
func TestExamine(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		edit func(*Agent, *ingotv1.Installation)
		err  string
	}{
		"good":         {"image", nil, ""},
		"wrong image":  {"imago", nil, "nothing of it may be used"},
		"nothing left": {"imago", func(_ *Agent, i *ingotv1.Installation) { i.Reinstallation.Intact = false }, ""},
		"another disk": {"image", func(a *Agent, _ *ingotv1.Installation) { a.disks = []*ingotv1.Disk{{Name: "sda", Serial: "S2"}} }, "is S2 now"},
		"another disk, and nothing left": {"image", func(a *Agent, i *ingotv1.Installation) {
			a.disks, i.Reinstallation.Intact = []*ingotv1.Disk{{Name: "sda", Serial: "S2"}}, false
		}, "is S2 now"},
		"a layout that cannot be made": {"image", func(_ *Agent, i *ingotv1.Installation) {
			i.Allocation.FilesystemLayout.Raid = []*apiv2.Raid{{}}
		}, "uses RAID or LVM"},
		"a first installation": {"imago", func(_ *Agent, i *ingotv1.Installation) { i.Reinstallation = nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeAPI{}
			a, i := reinstalling(t, f, c.body)
			if c.edit != nil {
				c.edit(a, i)
			}
			err := a.Step(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

// The disk is not opened before the control plane knows that it will be.
func TestPartitionIsAnnounced(t *testing.T) {
	f := &fakeAPI{deaf: true}
	a, _ := reinstalling(t, f, "image")
	err := a.partition(t.Context())
	if err == nil || !strings.Contains(err.Error(), "nothing is written before that is recorded") || a.system != nil {
		t.Errorf("%v, system %v", err, a.system)
	}
	f.deaf = false
	err = a.partition(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no such file") || !slices.Equal(f.reports, []string{"partition begun"}) {
		t.Errorf("%v after %q", err, f.reports)
	}
}

// A machine that is installed reboots from its disk instead of asking again.
func TestInstalledReboots(t *testing.T) {
	f := &fakeAPI{installed: true}
	a := newAgent(t, f, identify)
	if _, err := a.Run(t.Context()); !errors.Is(err, ErrReboot) || f.boots != 1 {
		t.Errorf("%v after %d begins", err, f.boots)
	}
}

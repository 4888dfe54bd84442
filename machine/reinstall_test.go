package machine_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// TestReinstallRefused asks for what cannot be: each time another answer, and
// nothing has changed.
func TestReinstallRefused(t *testing.T) {
	const newer = "debian-12.1.20260301"
	pinned := func(tx *store.Tx, i *apiv2.Image) error {
		return all(records.Images.Insert(tx, i), records.ImageSources.Insert(tx, &ingotv1.ImageSource{Image: i.GetId(), Sha256: "5e"}))
	}
	own := func(tx *store.Tx, l *apiv2.FilesystemLayout) error { return records.FilesystemLayouts.Insert(tx, l) }
	machineIs := func(edit func(*privatev1.Machine)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			_, err := records.Machines.Change(tx, "m1", func(m *privatev1.Machine) error { edit(m); return nil })
			return err
		}
	}
	allocationIs := func(edit func(*privatev1.Allocation)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			_, err := records.Allocations.Change(tx, "m1", func(a *privatev1.Allocation) error { edit(a); return nil })
			return err
		}
	}
	answers := map[string]string{}
	for _, c := range []struct {
		name   string
		before func(*store.Tx) error
		q      machine.Replacement
		kind   fault.Kind
		says   string
	}{
		{"an unknown machine", nil, machine.Replacement{UUID: "m9"}, fault.NotFound, "machine m9: not found"},
		{"another project's", nil, machine.Replacement{Project: "b"}, fault.NotFound, "machine m1: not found"},
		{"not allocated", nil, machine.Replacement{UUID: "m2"}, fault.NotFound, "machine m2: not found"},
		{"locked", machineIs(func(m *privatev1.Machine) { m.Condition.State = apiv2.MachineState_MACHINE_STATE_LOCKED }),
			machine.Replacement{}, fault.Precondition, "machine m1 is LOCKED"},
		{"not installed yet", allocationIs(func(a *privatev1.Allocation) { a.Installed = nil }), machine.Replacement{}, fault.Precondition, "its first installation has not ended"},
		{"under way", func(tx *store.Tx) error {
			return machine.Reinstall(tx, machine.Replacement{UUID: "m1", Project: "a", Image: newer, Operation: "o1"})
		}, machine.Replacement{}, fault.Precondition, "is being reinstalled with image debian-12.1.20260301 already"},
		{"an unknown image", nil, machine.Replacement{Image: "debian-99.0.1"}, fault.NotFound, "no image for os:debian version:99.0.1 found"},
		{"an expired image", func(tx *store.Tx) error {
			i := image("debian-12.0.1", apiv2.ImageFeature_IMAGE_FEATURE_MACHINE)
			i.ExpiresAt = timestamppb.New(tx.Now())
			return pinned(tx, i)
		}, machine.Replacement{Image: "debian-12.0.1"}, fault.Precondition, "image debian-12.0.1: expired at"},
		{"an image for firewalls", func(tx *store.Tx) error {
			return pinned(tx, image("debian-12.0.2", apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL))
		}, machine.Replacement{Image: "debian-12.0.2"}, fault.Invalid, "given image debian-12.0.2 is not allowed for machines"},
		{"an image that its size cannot run", func(tx *store.Tx) error {
			return records.SizeImageConstraints.Insert(tx, &apiv2.SizeImageConstraint{
				Size: "c1", ImageConstraints: []*apiv2.ImageConstraint{{Image: "debian", SemverMatch: "< 12.1"}},
			})
		}, machine.Replacement{}, fault.Invalid, "does violate image constraint"},
		{"an image that nobody pinned", nil, machine.Replacement{Image: "debian-12.0.20251220"}, fault.Precondition, "has no pinned digest"},
		{"an image that the layout is not for", func(tx *store.Tx) error {
			return pinned(tx, image("centos-9.0.1", apiv2.ImageFeature_IMAGE_FEATURE_MACHINE))
		}, machine.Replacement{Image: "centos-9.0.1"}, fault.Invalid, "filesystemlayout debian: is not for image centos-9.0.1"},
		{"an unknown layout", nil, machine.Replacement{Layout: "nope"}, fault.NotFound, "nope"},
		{"a layout that names no disk", func(tx *store.Tx) error { return own(tx, &apiv2.FilesystemLayout{Id: "none"}) },
			machine.Replacement{Layout: "none"}, fault.Invalid, "filesystemlayout none: names no disk"},
		{"a layout for another disk", func(tx *store.Tx) error {
			return own(tx, &apiv2.FilesystemLayout{Id: "nvme", Disks: []*apiv2.Disk{{Device: "/dev/nvme0n1"}}})
		}, machine.Replacement{Layout: "nvme"}, fault.Invalid, "device:/dev/nvme0n1 does not exist"},
		{"a layout for a bigger disk", func(tx *store.Tx) error {
			return own(tx, &apiv2.FilesystemLayout{Id: "big", Disks: []*apiv2.Disk{{Device: "/dev/sda", Partitions: []*apiv2.DiskPartition{{Number: 1, Size: 1 << 30}}}}})
		}, machine.Replacement{Layout: "big"}, fault.Invalid, "device:/dev/sda is not big enough"},
		{"a disk that nobody knows", allocationIs(func(a *privatev1.Allocation) { a.Disks = a.GetDisks()[1:] }),
			machine.Replacement{}, fault.Invalid, "device:/dev/sda was not there when the machine was installed"},
		{"a BMC that Ingot does not reach", func(tx *store.Tx) error {
			_, err := records.MachineBMCs.Change(tx, "m1", func(b *privatev1.MachineBMC) error { b.Bmc = ""; return nil })
			return err
		}, machine.Replacement{}, fault.Precondition, "nobody knows how to reach its BMC"},
		{"another operation", func(tx *store.Tx) error {
			return machine.Order(tx, "o1", &privatev1.Machine{Uuid: "m1", Partition: "p1"}, ingotv1.OperationAction_OPERATION_ACTION_LED_ON, "somebody looks for it")
		}, machine.Replacement{}, fault.Precondition, "operation led on has not ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			for _, cmd := range []string{"system m1 b1 Ethernet0", "ready m2 b2 Ethernet1"} {
				if err := s.run(cmd); err != nil {
					t.Fatal(err)
				}
			}
			if c.before != nil {
				if err := s.do(c.before); err != nil {
					t.Fatal(err)
				}
			}
			q := machine.Replacement{UUID: "m1", Project: "a", Image: newer, By: "alice", Operation: "o2"}
			for to, from := range map[*string]string{&q.UUID: c.q.UUID, &q.Project: c.q.Project, &q.Image: c.q.Image, &q.Layout: c.q.Layout} {
				if from != "" {
					*to = from
				}
			}
			before := s.db.Snapshot()
			err := s.do(func(tx *store.Tx) error { return machine.Reinstall(tx, q) })
			if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %v: %s", err, c.kind, c.says)
			}
			if was := answers[err.Error()]; was != "" {
				t.Errorf("the answer is the same as for %s: %v", was, err)
			}
			answers[err.Error()] = c.name
			if now := s.db.Snapshot(); now.Rev() != before.Rev() {
				t.Error("something was written")
			}
		})
	}
}

// TestReinstallKeeps compares an allocation before and after: image and layout
// are new, the rest is as it was.
func TestReinstallKeeps(t *testing.T) {
	s := newScript(t)
	other := layout("other", "debian", ">= 99")
	for _, err := range []error{
		s.run("system m1 b1 Ethernet0"),
		s.do(func(tx *store.Tx) error { return records.FilesystemLayouts.Insert(tx, other) }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	look := func() *privatev1.Allocation {
		a, err := records.Allocations.Get(s.db.Snapshot(), "m1")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	was := look()
	for _, cmd := range []string{
		"reinstall m1 a debian-12 other", "cycled m1", "return m1 Ethernet0", "report m1 CHECK BEGUN", "report m1 PARTITION BEGUN", "installed m1",
	} {
		if err := s.run(cmd); err != nil {
			t.Fatal(err)
		}
		// Both systems are in use until one of them is given up.
		if r := s.db.Snapshot(); cmd == "cycled m1" && (machine.ImageUnused(r, "debian-12.0.20251220") == nil || machine.LayoutUnused(r, "debian") == nil) {
			t.Error("the old image or layout can be deleted while there is a way back to it")
		}
	}
	now := look()
	if now.GetAllocation().GetImage().GetId() != "debian-12.2.20260401" || now.GetAllocation().GetFilesystemLayout().GetId() != "other" {
		t.Errorf("image %s, layout %s", now.GetAllocation().GetImage().GetId(), now.GetAllocation().GetFilesystemLayout().GetId())
	}
	for _, a := range []*privatev1.Allocation{was, now} {
		a.Installed, a.Allocation.Image, a.Allocation.FilesystemLayout, a.Allocation.Meta = nil, nil, nil, nil
	}
	if !proto.Equal(was, now) {
		t.Errorf("was %v\nis  %v", was, now)
	}
	if r := s.db.Snapshot(); machine.ImageUnused(r, "debian-12.0.20251220") != nil || machine.LayoutUnused(r, "debian") != nil {
		t.Error("the old image or layout cannot be deleted although nothing leads back to it")
	}
}

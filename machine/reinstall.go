package machine

import (
	"path"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A Replacement is a request for another system on an allocated machine.
type Replacement struct {
	UUID, Project string
	// Image as in a Want; Layout is the allocation's own if empty.
	Image, Layout string
	// By is who asks, Operation the id of the power cycle.
	By, Operation string
}

// Reinstall begins to put another system on a machine (MEP-3). The allocation
// stays as it is but for its image and layout, and one power cycle into the
// boot medium is ordered. The old system keeps its ports until power was seen
// to be off, and stays what the machine can go back to until the agent begins
// to write.
func Reinstall(tx *store.Tx, q Replacement) error {
	m, a, err := mayReinstall(tx, q)
	if err != nil {
		return err
	}
	image, err := ResolveImage(tx, q.Image)
	if err != nil {
		return err
	}
	if err := CheckConstraint(tx, a.GetSize(), image); err != nil {
		return err
	}
	if err := checkFeature(image, a.GetAllocation().GetAllocationType()); err != nil {
		return err
	}
	if s, err := records.ImageSources.Get(tx, image.GetId()); isNotFound(err) || err == nil && s.GetSha256() == "" && s.GetSha512() == "" {
		return fault.New(fault.Precondition, "image "+image.GetId(), "has no pinned digest", "an operator must pin it with 'ingot image pin'")
	} else if err != nil {
		return err
	}
	layout, err := replacementLayout(tx, a, image, q.Layout)
	if err != nil {
		return err
	}
	was := a.GetAllocation()
	if _, err := records.Allocations.Change(tx, q.UUID, func(a *privatev1.Allocation) error {
		a.Reinstall = &privatev1.Reinstall{
			Image: was.GetImage().GetId(), Layout: was.GetFilesystemLayout(), Installed: a.GetInstalled(), Created: timestamppb.New(tx.Now()),
		}
		a.Installed = nil
		a.Allocation.Image, a.Allocation.FilesystemLayout = &apiv2.Image{Id: image.GetId()}, layout
		return nil
	}); err != nil {
		return err
	}
	if err := Order(tx, q.Operation, m, actBootMedium, reinstallReason(tx, q.UUID)); err != nil {
		return err
	}
	if err := Note(tx, q.UUID, Step{
		Source: fromAPI, Step: "reinstall",
		Message: "by " + q.By + " with image " + image.GetId() + " instead of " + was.GetImage().GetId(),
	}); err != nil {
		return err
	}
	_, _, err = Happen(tx, q.UUID, Happening{Event: Replace})
	return err
}

// mayReinstall refuses machines that are not installed, or not to be touched.
func mayReinstall(tx *store.Tx, q Replacement) (*privatev1.Machine, *privatev1.Allocation, error) {
	m, err := records.Machines.Get(tx, q.UUID)
	if err != nil {
		return nil, nil, err
	}
	a, err := records.Allocations.Get(tx, q.UUID)
	switch {
	case isNotFound(err) || err == nil && a.GetAllocation().GetProject() != q.Project:
		return nil, nil, fault.New(fault.NotFound, object(q.UUID), "not found", "")
	case err != nil:
		return nil, nil, err
	case m.GetCondition().GetState() == apiv2.MachineState_MACHINE_STATE_LOCKED:
		return nil, nil, fault.Newf(fault.Precondition, "", "machine %s is LOCKED", q.UUID).Do("an operator must make it available first")
	case a.GetReinstall() != nil:
		return nil, nil, fault.Newf(fault.Precondition, object(q.UUID), "is being reinstalled with image %s already", a.GetAllocation().GetImage().GetId()).
			Do("wait for it; 'ingot machine timeline' shows how far it is")
	case a.GetInstalled() == nil:
		return nil, nil, fault.New(fault.Precondition, object(q.UUID), "its first installation has not ended", "wait for it; 'ingot machine timeline' shows how far it is")
	}
	// What boots must be this partition's own medium: other boot images wipe
	// every disk first.
	if b, err := records.MachineBMCs.Get(tx, q.UUID); isNotFound(err) || err == nil && b.GetBmc() == "" {
		return nil, nil, fault.New(fault.Precondition, object(q.UUID), "nobody knows how to reach its BMC", "an operator must add the BMC with 'ingot bmc create'")
	} else if err != nil {
		return nil, nil, err
	}
	return m, a, nil
}

// replacementLayout returns the layout for another image: the one that is
// named, or the allocation's. All that it names must be disks that were there
// when the machine was installed, since they are to be told from the others.
func replacementLayout(tx *store.Tx, a *privatev1.Allocation, image *apiv2.Image, id string) (*apiv2.FilesystemLayout, error) {
	layout := a.GetAllocation().GetFilesystemLayout()
	if id != "" {
		var err error
		if layout, err = access.Open(tx, records.FilesystemLayouts, id); err != nil {
			return nil, err
		}
	} else if was := a.GetAllocation().GetImage().GetId(); accepts(layout, a.GetSize(), was) && !accepts(layout, a.GetSize(), image.GetId()) {
		return nil, fault.Newf(fault.Invalid, "filesystemlayout "+layout.GetId(), "is not for image %s", image.GetId()).
			Do("name one that is; 'ingot filesystem list' shows them")
	}
	if len(layout.GetDisks()) == 0 {
		return nil, fault.New(fault.Invalid, "filesystemlayout "+layout.GetId(), "names no disk that a system could be installed on", "name one that does")
	}
	hardware, err := records.Hardware.Get(tx, a.GetMachine())
	if err != nil {
		return nil, err
	}
	if err := FitLayout(layout, hardware.GetInventory().GetHardware()); err != nil {
		return nil, err
	}
	for _, d := range layout.GetDisks() {
		if !slices.ContainsFunc(a.GetDisks(), func(k *ingotv1.Disk) bool { return path.Base(k.GetName()) == path.Base(d.GetDevice()) }) {
			return nil, invalid("device:%s was not there when the machine was installed", d.GetDevice())
		}
	}
	return layout, nil
}

// accepts reports whether the constraints of a layout let it be chosen for a
// size and an image.
func accepts(l *apiv2.FilesystemLayout, size, image string) bool {
	os, v, _, err := ParseImage(image)
	if err != nil || v == nil || !slices.Contains(l.GetConstraints().GetSizes(), size) {
		return false
	}
	m, err := parseMatch(l.GetConstraints().GetImages()[os])
	return err == nil && m.check(v)
}

// reinstallOf returns the reinstallation that a machine is under, false if
// there is none.
func reinstallOf(r store.Reader, uuid string) (*privatev1.Reinstall, bool) {
	a, ok := records.Allocations.Peek(r, uuid)
	return a.GetReinstall(), ok && a.GetReinstall() != nil
}

// reinstallReason returns why a machine that is to be reinstalled must boot the
// medium; empty if it is not.
func reinstallReason(r store.Reader, uuid string) string {
	if a, ok := records.Allocations.Peek(r, uuid); ok && a.GetReinstall() != nil {
		return "reinstall with image " + a.GetAllocation().GetImage().GetId()
	}
	return ""
}

// leaveOldSystem records that a machine's old system was switched off: from
// then on its ports are in the boot VRF.
func leaveOldSystem(tx *store.Tx, uuid string, at *timestamppb.Timestamp) error {
	a, err := records.Allocations.Get(tx, uuid)
	if err != nil || a.GetReinstall() == nil || a.GetReinstall().GetPowerOffSeen() != nil {
		return ignoreNotFound(err)
	}
	_, err = records.Allocations.Change(tx, uuid, func(a *privatev1.Allocation) error {
		a.Reinstall.PowerOffSeen = at
		return nil
	})
	return err
}

// reopens reports whether a boot window that was used, or has closed, serves
// another boot: while a machine is reinstalled, each boot gets its token once,
// so that a server that lost power goes on without another power cycle. The
// only system that could ask for it in the agent's stead is the same project's.
func reopens(r store.Reader, w *ingotv1.BootWindow, bootID string) bool {
	re, under := reinstallOf(r, w.GetUuid())
	return under && re.GetPowerOffSeen() != nil && w.GetBootId() != bootID
}

// beginWriting records that the agent is about to write: from then on there is
// no old system. The agent does not write before that is recorded.
func beginWriting(tx *store.Tx, uuid, bootID string) error {
	a, err := records.Allocations.Get(tx, uuid)
	if err != nil || a.GetReinstall() == nil || a.GetReinstall().GetBegun() != nil {
		return ignoreNotFound(err)
	}
	if _, err := records.Allocations.Change(tx, uuid, func(a *privatev1.Allocation) error {
		a.Reinstall.Begun = timestamppb.New(tx.Now())
		return nil
	}); err != nil {
		return err
	}
	return Note(tx, uuid, Step{
		Source: fromAgent, Step: "reinstall", BootID: bootID,
		Message: "image " + a.GetReinstall().GetImage() + " is given up: the disks of layout " + a.GetAllocation().GetFilesystemLayout().GetId() + " are written",
	})
}

// goBack returns a machine to its old system if nothing was written yet.
func goBack(tx *store.Tx, uuid, bootID string) error {
	a, err := records.Allocations.Get(tx, uuid)
	if err != nil || a.GetReinstall() == nil || a.GetReinstall().GetBegun() != nil {
		return ignoreNotFound(err)
	}
	was, wanted := a.GetReinstall(), a.GetAllocation().GetImage().GetId()
	if _, err := records.Allocations.Change(tx, uuid, func(a *privatev1.Allocation) error {
		a.Installed, a.Reinstall = was.GetInstalled(), nil
		a.Allocation.Image, a.Allocation.FilesystemLayout = &apiv2.Image{Id: was.GetImage()}, was.GetLayout()
		return nil
	}); err != nil {
		return err
	}
	return Note(tx, uuid, Step{
		Source: fromAPI, Step: "reinstall", Failed: true, BootID: bootID,
		Message: "image " + wanted + " is given up, no disk was written: the machine goes back to " + was.GetImage(),
	})
}

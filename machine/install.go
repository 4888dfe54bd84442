package machine

import (
	"fmt"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A Registration is what an agent found in its machine.
type Registration struct {
	UUID      string
	BootID    string // empty through the v2 API
	Partition string // through the v2 API only
	Inventory *ingotv1.Inventory
	Tags      []string
}

// Register records the hardware of a machine, checks its wiring and finds its
// size, which is empty if none or several match.
func Register(tx *store.Tx, g Registration) (*privatev1.Machine, error) {
	m, err := records.Machines.Get(tx, g.UUID)
	if err != nil {
		return nil, err
	}
	if err := inBoot(m, g.BootID); err != nil {
		return nil, err
	}
	if _, under := reinstallOf(tx, g.UUID); under && g.BootID == "" {
		return nil, fault.New(fault.Precondition, object(g.UUID), "is being reinstalled, which this boot image does not know of", "boot the partition's own medium")
	}
	hardware := g.Inventory.GetHardware()
	var boot *privatev1.Boot
	if g.BootID != "" {
		if boot, err = records.Boots.Get(tx, g.UUID); err != nil {
			return nil, err
		}
	}
	if err := connect(tx, m, hardware.GetNics(), boot); err != nil {
		return nil, err
	}
	if err := storeHardware(tx, g); err != nil {
		return nil, err
	}
	size := ""
	if s := SizeOf(tx, hardware); s != nil {
		size = s.GetId()
	}
	if _, err := records.Machines.Change(tx, g.UUID, func(m *privatev1.Machine) error {
		// An allocated machine keeps the size it was allocated with.
		if m.GetAllocation() == "" {
			m.Size = size
		}
		m.AgentVersion = g.Inventory.GetAgentVersion()
		return nil
	}); err != nil {
		return nil, err
	}
	if g.BootID == "" {
		return records.Machines.Get(tx, g.UUID) // through the v2 API the agent sends the event itself
	}
	message := "size " + size
	if size == "" {
		message = "no size matches, or several do; the machine cannot be allocated"
	}
	m, _, err = Happen(tx, g.UUID, Happening{Event: Registering, BootID: g.BootID, Message: message})
	return m, err
}

// storeHardware stores an inventory unless it is what is known.
func storeHardware(tx *store.Tx, g Registration) error {
	was, err := records.Hardware.Get(tx, g.UUID)
	if err != nil && !isNotFound(err) {
		return err
	}
	h := &privatev1.Hardware{Uuid: g.UUID, Inventory: g.Inventory, Updated: was.GetUpdated(), Tags: g.Tags}
	if err == nil && proto.Equal(was, h) {
		return nil
	}
	h.Updated = timestamppb.New(tx.Now())
	return records.Hardware.Put(tx, h)
}

// inBoot refuses what belongs to another boot than the newest.
func inBoot(m *privatev1.Machine, bootID string) error {
	if bootID != "" && bootID != m.GetBootId() {
		return fault.Newf(fault.Precondition, object(m.GetUuid()), "boot %s is over", bootID).Do("reboot and begin again")
	}
	return nil
}

// Ready lets a machine wait for its allocation, or for its installation to be
// told again. Every disk must be proven to be wiped in this boot, unless the
// machine is reinstalled.
func Ready(tx *store.Tx, uuid, bootID string) error {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	if err := inBoot(m, bootID); err != nil {
		return err
	}
	h, err := records.Hardware.Get(tx, uuid)
	if isNotFound(err) {
		return fault.New(fault.Precondition, object(uuid), "has not registered in this boot", "register first")
	}
	if err != nil {
		return err
	}
	proofs := proofsOf(tx, m)
	message := fmt.Sprintf("%d disks are wiped", len(proofs))
	if _, under := reinstallOf(tx, uuid); under {
		message = "its disks are kept"
	}
	if m.GetPhase() != waiting && m.GetPhase() != installing {
		if err := clean(tx, uuid, h.GetInventory(), proofs); err != nil {
			return err
		}
	}
	m, _, err = Happen(tx, uuid, Happening{Event: Waiting, BootID: bootID, Message: message})
	if err == nil && m.GetPhase() != waiting && m.GetPhase() != installing {
		err = fault.Newf(fault.Precondition, object(uuid), "is %s and cannot wait", phaseName(m.GetPhase())).Do("register first")
	}
	return err
}

// Instruction returns what a machine shall install, without the userdata, and
// nil if it is not allocated or installed already.
func Instruction(r store.Reader, uuid string) (*ingotv1.Installation, error) {
	a, ok := records.Allocations.Peek(r, uuid)
	if !ok || a.GetInstalled() != nil {
		return nil, nil
	}
	full := a.GetAllocation()
	image, err := records.Images.Get(r, full.GetImage().GetId())
	if err != nil {
		return nil, err
	}
	full.Image = image
	in := &ingotv1.Installation{
		Generation: &ingotv1.Generation{N: uint64(r.Rev())}, Allocation: full, BootDisk: bootDisk(full.GetFilesystemLayout()),
	}
	if re := a.GetReinstall(); re != nil {
		in.Reinstallation = &ingotv1.Reinstallation{Disks: a.GetDisks(), Intact: re.GetBegun() == nil}
	}
	in.Source, _ = records.ImageSources.Peek(r, image.GetId())
	if c, ok := records.CachedImages.Peek(r, records.CachedImageKey(a.GetPartition(), image.GetId())); ok {
		in.Urls = append(in.Urls, c.GetUrls()...)
	}
	in.Urls = append(in.Urls, image.GetUrl())
	return in, nil
}

// bootDisk returns the kernel name of the disk to boot from: the one with the
// EFI system partition, else the first.
func bootDisk(l *apiv2.FilesystemLayout) string {
	name := ""
	for _, d := range l.GetDisks() {
		n := strings.TrimPrefix(d.GetDevice(), "/dev/")
		if name == "" {
			name = n
		}
		for _, p := range d.GetPartitions() {
			if p.GetGptType() == apiv2.GPTType_GPT_TYPE_BOOT {
				return n
			}
		}
	}
	return name
}

// An AgentReport is a step of an agent that began, ended or failed.
type AgentReport struct {
	UUID, BootID string
	Step         ingotv1.AgentStep
	State        ingotv1.StepState
	Message      string
	Took         time.Duration
}

// StepName returns a step in lower-case words.
func StepName(s ingotv1.AgentStep) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "AGENT_STEP_"))
}

// Reported records what an agent reports. Progress is not recorded.
func Reported(tx *store.Tx, a AgentReport) error {
	m, err := records.Machines.Get(tx, a.UUID)
	if err != nil {
		return err
	}
	if err := inBoot(m, a.BootID); err != nil {
		return err
	}
	if _, under := reinstallOf(tx, a.UUID); under && a.Step == ingotv1.AgentStep_AGENT_STEP_WIPE && a.State != ingotv1.StepState_STEP_STATE_FAILED {
		return nil // nothing is wiped
	}
	name := StepName(a.Step)
	note := Step{Source: fromAgent, Step: name, Message: a.Message, Took: a.Took, BootID: a.BootID}
	switch a.State {
	case ingotv1.StepState_STEP_STATE_BEGUN:
		event, moves := map[ingotv1.AgentStep]Event{
			ingotv1.AgentStep_AGENT_STEP_WIPE:      Wiping,
			ingotv1.AgentStep_AGENT_STEP_CHECK:     Installing,
			ingotv1.AgentStep_AGENT_STEP_PARTITION: Installing,
		}[a.Step]
		if !moves {
			return nil
		}
		if a.Step == ingotv1.AgentStep_AGENT_STEP_PARTITION {
			if err := beginWriting(tx, a.UUID, a.BootID); err != nil {
				return err
			}
		}
		_, _, err := Happen(tx, a.UUID, Happening{Event: event, BootID: a.BootID, Message: a.Message})
		return err
	case ingotv1.StepState_STEP_STATE_DONE:
		return Note(tx, a.UUID, note)
	case ingotv1.StepState_STEP_STATE_FAILED:
		note.Failed = true
		if err := Note(tx, a.UUID, note); err != nil {
			return err
		}
		if err := goBack(tx, a.UUID, a.BootID); err != nil {
			return err
		}
		_, _, err := Happen(tx, a.UUID, Happening{Event: Crashed, BootID: a.BootID, Message: name + ": " + a.Message})
		return err
	default:
		return nil
	}
}

// A Completion is an installation that an agent reports as done.
type Completion struct {
	UUID, BootID string
	// Allocation that was installed; empty is whichever the machine has.
	Allocation string
	// Console is the password of the console, sealed.
	Console *privatev1.Sealed
	// Operation is for the order to boot from disk, which a BMC agent of the
	// v2 API needs.
	Operation string
}

// Installed records that a machine's system is written: its ports leave the
// boot VRF, and it is no longer booted from the medium.
func Installed(tx *store.Tx, c Completion) error {
	uuid := c.UUID
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	if err := inBoot(m, c.BootID); err != nil {
		return err
	}
	a, err := records.Allocations.Get(tx, uuid)
	if isNotFound(err) {
		return fault.Newf(fault.Precondition, "", "the machine %q is not allocated", uuid)
	}
	if err != nil {
		return err
	}
	if c.Allocation != "" && a.GetAllocation().GetUuid() != c.Allocation {
		return fault.Newf(fault.Precondition, object(uuid), "installed allocation %s, but has %s now", c.Allocation, a.GetAllocation().GetUuid()).Do("reboot and begin again")
	}
	if a.GetInstalled() != nil {
		return nil
	}
	if err := records.Secrets.Put(tx, c.Console); err != nil {
		return err
	}
	if err := overtake(tx, uuid); err != nil {
		return err
	}
	hardware, err := records.Hardware.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return err
	}
	if _, err := records.Allocations.Change(tx, uuid, func(a *privatev1.Allocation) error {
		a.Installed, a.Reinstall, a.Disks = timestamppb.New(tx.Now()), nil, hardware.GetInventory().GetDisks()
		return nil
	}); err != nil {
		return err
	}
	if c.BootID != "" {
		_, _, err = Happen(tx, uuid, Happening{Event: BootingNewKernel, BootID: c.BootID, Message: "the installation is written"})
		return err
	}
	// Through the v2 API the agent sends the event itself.
	if o, ok := records.Operations.Peek(tx, uuid); !connected(tx, uuid) || ok && o.GetOperation().GetDone() == nil {
		return nil
	}
	return Order(tx, c.Operation, m, actDisk, "the installation is written")
}

// Listen records whether an agent of the v2 API holds its stream open.
func Listen(tx *store.Tx, uuid string, on bool) error {
	_, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		m.Listening = on
		return nil
	})
	return err
}

// Cached records what a partition's cache found at the url of an image, and
// where it serves it.
func Cached(tx *store.Tx, partition string, c *ingotv1.ImageCached) error {
	if c.GetCheck() != nil {
		if err := Checked(tx, partition, c.GetImage(), c.GetCheck()); err != nil {
			return err
		}
	}
	key := records.CachedImageKey(partition, c.GetImage())
	if len(c.GetUrls()) == 0 || c.GetCheck().GetError() != "" {
		_, err := records.CachedImages.Delete(tx, key)
		return ignoreNotFound(err)
	}
	return records.CachedImages.Put(tx, &privatev1.CachedImage{Partition: partition, Image: c.GetImage(), Urls: c.GetUrls()})
}

package machine

import (
	"slices"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// keepWipes is how many proofs are kept of a disk in a machine: one is
	// made per tenant.
	keepWipes = 20
	// keepFailures is how many failures are kept of it: a disk that cannot be
	// wiped fails at every boot, and must not push out its proofs.
	keepFailures = 3
	// clockSkew is how far a machine's clock may be ahead of ours. The agent
	// sets it before it does anything else.
	clockSkew = 10 * time.Minute
)

const (
	wipeDone   = ingotv1.WipeResult_WIPE_RESULT_DONE
	wipeFailed = ingotv1.WipeResult_WIPE_RESULT_FAILED
)

// Wipe returns the disks that must be wiped before a machine may wait, by
// kernel name: all that can hold data. That is so for a machine that is new,
// for one that was released, and for one whose installation did not end. One
// that is reinstalled keeps its disks.
func Wipe(r store.Reader, uuid string, inventory *ingotv1.Inventory) []string {
	if _, under := reinstallOf(r, uuid); under {
		return nil
	}
	var names []string
	for _, d := range inventory.GetDisks() {
		names = append(names, d.GetName())
	}
	slices.Sort(names)
	return names
}

// Wiped records what became of a disk that had to be wiped, w, which is signed
// already. Told again, it changes nothing.
func Wiped(tx *store.Tx, w *ingotv1.Wipe) error {
	m, err := records.Machines.Get(tx, w.GetUuid())
	if err != nil {
		return err
	}
	if err := inBoot(m, w.GetBootId()); err != nil {
		return err
	}
	if err := sound(tx, w); err != nil {
		return err
	}
	if _, err := records.Wipes.Get(tx, records.WipeKey(w)); !isNotFound(err) {
		return err
	}
	if err := records.Wipes.Insert(tx, w); err != nil {
		return err
	}
	return forgetWipes(tx, w)
}

// sound refuses a wipe that contradicts itself or what the machine registered.
func sound(r store.Reader, w *ingotv1.Wipe) error {
	name := w.GetDisk().GetName()
	object := object(w.GetUuid()) + " disk " + name
	h, err := records.Hardware.Get(r, w.GetUuid())
	if err != nil && !isNotFound(err) {
		return err
	}
	if !slices.ContainsFunc(h.GetInventory().GetDisks(), func(d *ingotv1.Disk) bool { return proto.Equal(d, w.GetDisk()) }) {
		return fault.New(fault.Precondition, object, "is not among those that are registered", "register the hardware again")
	}
	start, end := w.GetStart().AsTime(), w.GetEnd().AsTime()
	switch done := w.GetResult() == wipeDone; {
	case end.Before(start):
		return fault.New(fault.Invalid, object, "was wiped before that began", "")
	case end.After(w.GetRecorded().AsTime().Add(clockSkew)):
		return fault.New(fault.Precondition, object, "was wiped at "+end.UTC().Format(time.RFC3339)+", which is to come", "set the machine's clock, and compare the partition's NTP servers with the control plane's clock")
	case done && (w.GetMethod() == 0 || w.GetError() != "" || w.GetCheck().GetSamples() == 0 || w.GetCheck().GetEdgeBytes() == 0):
		return fault.New(fault.Invalid, object, "was wiped, but by no method, with an error, or without being verified", "")
	case !done && w.GetError() == "":
		return fault.New(fault.Invalid, object, "was not wiped, but the reason is missing", "")
	}
	return nil
}

// forgetWipes deletes the oldest of a disk's wipes of the same result as the
// newest.
func forgetWipes(tx *store.Tx, newest *ingotv1.Wipe) error {
	keep := keepWipes
	if newest.GetResult() == wipeFailed {
		keep = keepFailures
	}
	var keys []string
	for w := range records.Wipes.By(tx, "disk", records.WipedDiskKey(newest)) {
		if w.GetResult() == newest.GetResult() {
			keys = append(keys, records.WipeKey(w))
		}
	}
	slices.Sort(keys)
	for _, key := range keys[:max(0, len(keys)-keep)] {
		if _, err := records.Wipes.Delete(tx, key); ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// proofsOf returns the proofs of a machine's running boot, by kernel name of the
// disk: within one boot that is as good as a serial number.
func proofsOf(r store.Reader, m *privatev1.Machine) map[string]*ingotv1.Wipe {
	out := map[string]*ingotv1.Wipe{}
	for w := range records.Wipes.By(r, "boot", m.GetBootId()) {
		if w.GetUuid() == m.GetUuid() && w.GetResult() == wipeDone {
			out[w.GetDisk().GetName()] = w
		}
	}
	return out
}

// clean returns nil if all disks that a machine had to wipe in this boot are
// proven to be.
func clean(r store.Reader, uuid string, inventory *ingotv1.Inventory, proofs map[string]*ingotv1.Wipe) error {
	var missing []string
	for _, name := range Wipe(r, uuid, inventory) {
		if proofs[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fault.Newf(fault.Precondition, object(uuid), "is not clean: disks %s were not wiped in this boot", strings.Join(missing, ", ")).
			Do("wipe them, then wait")
	}
	return nil
}

// notWiped is the issue of a machine with a disk, still in it, whose newest wipe
// failed. The v2 API has no type of its own for it.
var notWiped = issue{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LAST_EVENT_ERROR, critical, "last-event-error", "a disk could not be wiped, which keeps the machine out of the pool",
	func(e evidence) (string, bool) {
		if records.Wipes.Count(e.r, "failed", e.m.GetUuid()) == 0 {
			return "", false
		}
		h, _ := records.Hardware.Peek(e.r, e.m.GetUuid())
		var failed []string
		for _, d := range h.GetInventory().GetDisks() {
			var last *ingotv1.Wipe
			for w := range records.Wipes.By(e.r, "disk", records.DiskKey(e.m.GetUuid(), d)) {
				if last == nil || records.WipeKey(last) < records.WipeKey(w) {
					last = w
				}
			}
			if last.GetResult() == wipeFailed {
				failed = append(failed, "at "+last.GetEnd().AsTime().UTC().Format(time.RFC3339)+": "+last.GetError())
			}
		}
		return strings.Join(failed, "; "), len(failed) > 0
	}}

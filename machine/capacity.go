package machine

import (
	"maps"
	"slices"
	"time"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// unknownSize is what the v2 API calls the size of a machine that has none.
const unknownSize = "unknown"

// Capacity counts the machines of a partition by size, sorted by it; only those
// of one size if it is not empty. With a project, what is free is what the
// project can take: its own reservations do not lessen it.
func Capacity(r store.Reader, partition, size, project string, now time.Time) []*adminv2.MachineSizeCapacity {
	sizes := map[string]*adminv2.MachineSizeCapacity{}
	candidates := map[string]bool{} // that an allocation may take
	of := func(id string) *adminv2.MachineSizeCapacity {
		if id == "" {
			id = unknownSize
		}
		if sizes[id] == nil {
			sizes[id] = &adminv2.MachineSizeCapacity{Size: id}
			for m := range records.Machines.By(r, "candidate", records.CandidateKey(partition, id)) {
				candidates[m.GetUuid()] = true
			}
		}
		return sizes[id]
	}
	for m := range records.Machines.By(r, "partition", partition) {
		c := of(m.GetSize())
		count(c, r, m, candidates[m.GetUuid()], now)
	}
	for s := range records.SizeReservations.By(r, "partition", partition) {
		of(s.GetSize())
	}
	var all []*adminv2.MachineSizeCapacity
	for _, id := range slices.Sorted(maps.Keys(sizes)) {
		if size == "" || size == id {
			c := sizes[id]
			reserved(c, SharesOf(r, partition, id), project)
			all = append(all, c)
		}
	}
	return all
}

// count adds one machine.
func count(c *adminv2.MachineSizeCapacity, r store.Reader, m *privatev1.Machine, candidate bool, now time.Time) {
	c.Total++
	switch m.GetPhase() {
	case ingotv1.MachinePhase_MACHINE_PHASE_WAITING:
		c.Waiting++
	case ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME:
		c.PhonedHome++
	default:
		c.Other++
		c.OtherMachines = append(c.OtherMachines, m.GetUuid())
	}
	switch {
	case m.GetAllocation() != "":
		c.Allocated++
	case candidate:
		c.Allocatable++
		c.Free++
	default:
		c.Unavailable++
		if faulty(r, m, now) {
			c.Faulty++
			c.FaultyMachines = append(c.FaultyMachines, m.GetUuid())
		}
	}
}

// faulty reports whether a machine has an issue other than a past error.
func faulty(r store.Reader, m *privatev1.Machine, now time.Time) bool {
	return len(Issues(r, m, &apiv2.MachineIssuesQuery{
		Omit: []apiv2.MachineIssueType{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LAST_EVENT_ERROR},
	}, now)) > 0
}

// reserved fills in what is reserved of one size, and takes from the free
// machines what is kept for others.
func reserved(c *adminv2.MachineSizeCapacity, shares map[string]Share, project string) {
	kept := 0
	for p, s := range shares {
		c.Reservations += int64(s.Reserved)
		c.UsedReservations += int64(s.Used)
		c.RemainingReservations += int64(s.Remaining())
		if p != project {
			kept += s.Remaining()
		}
	}
	c.Free = max(0, c.GetFree()-int64(kept))
}

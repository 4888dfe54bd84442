package records

import (
	"strconv"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Allocations say who has a machine, by the machine's uuid: one key, so that
// no machine has two owners. The index "share" has a project's machines of one
// size in one partition, by ShareKey; "spread" has those of one kind in one
// rack, by SpreadKey.
var Allocations = store.NewTable(store.Table[*privatev1.Allocation]{
	Name: "allocation",
	Key:  func(a *privatev1.Allocation) string { return a.GetMachine() },
	Indexes: map[string]func(*privatev1.Allocation) []string{
		"uuid":    func(a *privatev1.Allocation) []string { return []string{a.GetAllocation().GetUuid()} },
		"project": func(a *privatev1.Allocation) []string { return []string{a.GetAllocation().GetProject()} },
		"image": func(a *privatev1.Allocation) []string {
			return withFormer(a, a.GetAllocation().GetImage().GetId(), a.GetReinstall().GetImage())
		},
		"layout": func(a *privatev1.Allocation) []string {
			return withFormer(a, a.GetAllocation().GetFilesystemLayout().GetId(), a.GetReinstall().GetLayout().GetId())
		},
		"network": networksOf,
		// AS numbers of firewalls; those of machines may be shared.
		"firewall-asn": func(a *privatev1.Allocation) []string {
			if n := a.GetAllocation().GetNetworks(); len(n) > 0 && a.GetAllocation().GetAllocationType() == apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_FIREWALL {
				return []string{strconv.FormatUint(uint64(n[0].GetAsn()), 10)}
			}
			return nil
		},
		"share": func(a *privatev1.Allocation) []string {
			return []string{ShareKey(a.GetPartition(), a.GetSize(), a.GetAllocation().GetProject())}
		},
		"spread": func(a *privatev1.Allocation) []string {
			return []string{SpreadKey(ShareKey(a.GetPartition(), a.GetSize(), a.GetAllocation().GetProject()), a.GetAllocation().GetAllocationType(), a.GetRack())}
		},
	},
	Stamp: stamp(func(a *privatev1.Allocation) **apiv2.Meta {
		if a.Allocation == nil {
			a.Allocation = &apiv2.MachineAllocation{}
		}
		return &a.Allocation.Meta
	}),
})

// withFormer returns what an allocation has, and what it may go back to while
// it is reinstalled.
func withFormer(a *privatev1.Allocation, now, former string) []string {
	if a.GetReinstall() == nil || now == former {
		return []string{now}
	}
	return []string{now, former}
}

// ShareKey returns the value of the index "share" of Allocations.
func ShareKey(partition, size, project string) string { return Key(partition, size, project) }

func networksOf(a *privatev1.Allocation) []string {
	var ids []string
	for _, n := range a.GetAllocation().GetNetworks() {
		ids = append(ids, n.GetNetwork())
	}
	return ids
}

// SpreadKey returns the value of the index "spread" of Allocations.
func SpreadKey(share string, kind apiv2.MachineAllocationType, rack string) string {
	return Key(share, strconv.Itoa(int(kind)), rack)
}

// Reclaims are deleted allocations on their way out, by the machine's uuid.
var Reclaims = store.NewTable(store.Table[*privatev1.Reclaim]{
	Name: "reclaim",
	Key:  func(r *privatev1.Reclaim) string { return r.GetMachine() },
	Indexes: map[string]func(*privatev1.Reclaim) []string{
		"network": func(r *privatev1.Reclaim) []string { return networksOf(r.GetAllocation()) },
	},
})

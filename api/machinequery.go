package api

import (
	"net"
	"slices"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

var (
	allocationFilter = newFilter(map[protoName]func(*apiv2.MachineAllocationQuery, *apiv2.MachineAllocation) bool{
		"image": func(q *apiv2.MachineAllocationQuery, a *apiv2.MachineAllocation) bool {
			return q.GetImage() == a.GetImage().GetId()
		},
		"filesystem_layout": func(q *apiv2.MachineAllocationQuery, a *apiv2.MachineAllocation) bool {
			return q.GetFilesystemLayout() == a.GetFilesystemLayout().GetId()
		},
	})
	bmcFilter = newFilter(map[protoName]func(*apiv2.MachineBMCQuery, *apiv2.MachineBMC) bool{
		"address": func(q *apiv2.MachineBMCQuery, b *apiv2.MachineBMC) bool {
			host, _, err := net.SplitHostPort(b.GetAddress())
			return err == nil && host == q.GetAddress()
		},
	})
	fruFilter = newFilter(map[protoName]func(*apiv2.MachineFRUQuery, *apiv2.MachineFRU) bool{
		"board_serial": func(q *apiv2.MachineFRUQuery, f *apiv2.MachineFRU) bool {
			return q.GetBoardSerial() == f.GetBoardMfgSerial()
		},
	})
)

// listMachines returns the machines that match a query, in the order of their
// uuids, as far as own lets them through.
func listMachines(r store.Reader, q *apiv2.MachineQuery, all func(func(*privatev1.Machine) bool)) []machineView {
	var out []machineView
	for m := range all {
		if !matchesState(q, m) {
			continue
		}
		if v := viewMachine(r, m); matchesView(q, v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b machineView) int { return strings.Compare(a.GetUuid(), b.GetUuid()) })
	return out
}

// matchesState compares what needs no join.
func matchesState(q *apiv2.MachineQuery, m *privatev1.Machine) bool {
	is := func(want *string, has string) bool { return want == nil || *want == has }
	if q == nil {
		return true
	}
	return is(q.Uuid, m.GetUuid()) && is(q.Partition, m.GetPartition()) && is(q.Size, m.GetSize()) && is(q.Rack, m.GetRack()) && is(q.Room, m.GetRoom()) &&
		(q.State == nil || q.GetState() == m.GetCondition().GetState()) &&
		(q.Waiting == nil || q.GetWaiting() == machine.Waits(m)) &&
		(q.Preallocated == nil || !q.GetPreallocated()) && // an allocation is made in one step
		(q.NotAllocated == nil || q.GetNotAllocated() == (m.GetAllocation() == ""))
}

// matchesView compares the rest.
func matchesView(q *apiv2.MachineQuery, v machineView) bool {
	a := v.GetAllocation()
	switch {
	case q == nil:
		return true
	case q.Name != nil && q.GetName() != a.GetName():
		return false
	case q.Labels != nil && !hasLabels(v.GetMeta().GetLabels(), q.GetLabels()):
		return false
	case q.Allocation != nil && (a == nil || !allocationFilter.match(q.GetAllocation(), a)):
		return false
	case q.Bmc != nil && (v.report == nil || !bmcFilter.match(q.GetBmc(), v.report.GetBmc())):
		return false
	case q.Fru != nil && (v.report.GetFru() == nil || !fruFilter.match(q.GetFru(), v.report.GetFru())):
		return false
	}
	return matchesNetworks(q.GetNetwork(), a) && matchesNics(q.GetNic(), v.GetHardware()) && matchesHardware(q, v.GetHardware())
}

// matchesNetworks reports whether an allocation's networks have all that is
// asked for between them.
func matchesNetworks(q *apiv2.MachineNetworkQuery, a *apiv2.MachineAllocation) bool {
	if q == nil {
		return true
	}
	var has apiv2.MachineNetworkQuery
	for _, n := range a.GetNetworks() {
		has.Networks = append(has.Networks, n.GetNetwork())
		has.Prefixes = append(has.Prefixes, n.GetPrefixes()...)
		has.DestinationPrefixes = append(has.DestinationPrefixes, n.GetDestinationPrefixes()...)
		has.Ips = append(has.Ips, n.GetIps()...)
		has.Vrfs = append(has.Vrfs, n.GetVrf())
		has.Asns = append(has.Asns, n.GetAsn())
	}
	return contains(has.Networks, q.GetNetworks()) && contains(has.Prefixes, q.GetPrefixes()) && contains(has.DestinationPrefixes, q.GetDestinationPrefixes()) &&
		contains(has.Ips, q.GetIps()) && contains(has.Vrfs, q.GetVrfs()) && contains(has.Asns, q.GetAsns())
}

func matchesNics(q *apiv2.MachineNicQuery, h *apiv2.MachineHardware) bool {
	if q == nil {
		return true
	}
	var has apiv2.MachineNicQuery
	for _, n := range h.GetNics() {
		has.Macs, has.Names = append(has.Macs, n.GetMac()), append(has.Names, n.GetName())
		for _, nb := range n.GetNeighbors() {
			has.NeighborMacs, has.NeighborNames = append(has.NeighborMacs, nb.GetMac()), append(has.NeighborNames, nb.GetName())
		}
	}
	return contains(has.Macs, q.GetMacs()) && contains(has.Names, q.GetNames()) &&
		contains(has.NeighborMacs, q.GetNeighborMacs()) && contains(has.NeighborNames, q.GetNeighborNames())
}

func matchesHardware(q *apiv2.MachineQuery, h *apiv2.MachineHardware) bool {
	if d := q.GetDisk(); d != nil {
		var names []string
		var sizes []uint64
		for _, disk := range h.GetDisks() {
			names, sizes = append(names, disk.GetName()), append(sizes, disk.GetSize())
		}
		if !contains(names, d.GetNames()) || !contains(sizes, d.GetSizes()) {
			return false
		}
	}
	w := q.GetHardware()
	if w == nil {
		return true
	}
	var cores uint32
	for _, c := range h.GetCpus() {
		cores += c.GetCores()
	}
	return (w.Memory == nil || w.GetMemory() == h.GetMemory()) && (w.CpuCores == nil || w.GetCpuCores() == cores)
}

// contains reports whether has contains every value of want.
func contains[T comparable](has, want []T) bool {
	for _, w := range want {
		if !slices.Contains(has, w) {
			return false
		}
	}
	return true
}

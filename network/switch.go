package network

import (
	"net/netip"
	"slices"
	"strings"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	replacing   = apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_REPLACE
	operational = apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_OPERATIONAL
)

// Register notes what a switch says of itself: it is new, or known, or takes
// the place of one that an operator has marked for replacement. States of
// ports, connections and reports in the message are ignored.
func Register(tx *store.Tx, q *apiv2.Switch) error {
	if _, err := access.Open(tx, records.Partitions, q.GetPartition()); err != nil {
		return err
	}
	if err := checkNics(q.GetNics()); err != nil {
		return err
	}
	old, known := records.Switches.Peek(tx, q.GetId())
	if !known {
		return records.Switches.Insert(tx, &apiv2.Switch{
			Id: q.GetId(), Description: q.GetDescription(), Rack: q.Rack, Room: q.Room, Partition: q.GetPartition(), ReplaceMode: mode(q.GetReplaceMode()),
			ManagementIp: q.GetManagementIp(), ManagementUser: q.ManagementUser, ConsoleCommand: q.ConsoleCommand,
			Nics: nics(q.GetNics(), nil), Os: q.GetOs(),
		})
	}
	if old.GetPartition() != q.GetPartition() {
		return invalid("switch %s belongs to partition %s, not to %s", q.GetId(), old.GetPartition(), q.GetPartition()).Do("delete it before it registers elsewhere")
	}
	if old.GetReplaceMode() == replacing {
		return replace(tx, old, q)
	}
	_, err := records.Switches.Change(tx, q.GetId(), func(sw *apiv2.Switch) error {
		u := &adminv2.SwitchServiceUpdateRequest{ManagementUser: q.ManagementUser, ConsoleCommand: q.ConsoleCommand, Nics: q.GetNics(), Os: q.GetOs()}
		if q.GetDescription() != "" {
			u.Description = &q.Description
		}
		if q.GetManagementIp() != "" {
			u.ManagementIp = &q.ManagementIp
		}
		if q.GetReplaceMode() != 0 {
			u.ReplaceMode = &q.ReplaceMode
		}
		return EditSwitch(tx, sw, u)
	})
	return err
}

func mode(m apiv2.SwitchReplaceMode) apiv2.SwitchReplaceMode {
	if m == apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_UNSPECIFIED {
		return operational
	}
	return m
}

// nics returns what is kept of the ports: who they are, and what operators
// want of those that were there before.
func nics(given, old []*apiv2.SwitchNic) []*apiv2.SwitchNic {
	var out []*apiv2.SwitchNic
	for _, n := range given {
		kept := &apiv2.SwitchNic{Name: n.GetName(), Identifier: n.GetIdentifier(), Mac: n.GetMac()}
		for _, o := range old {
			if o.GetIdentifier() == n.GetIdentifier() {
				kept.State = o.GetState()
			}
		}
		out = append(out, kept)
	}
	return out
}

func checkNics(nics []*apiv2.SwitchNic) error {
	names, identifiers := map[string]int{}, map[string]int{}
	for _, n := range nics {
		names[n.GetName()]++
		identifiers[n.GetIdentifier()]++
	}
	var wrong []string
	if d := twice(identifiers); d != nil {
		wrong = append(wrong, "switch nics contain duplicate identifiers:"+list(d))
	}
	if d := twice(names); d != nil {
		wrong = append(wrong, "switch nics contain duplicate names:"+list(d))
	}
	if wrong != nil {
		return invalid("%s", strings.Join(wrong, "\n"))
	}
	return nil
}

func twice(count map[string]int) []string {
	var out []string
	for s, n := range count {
		if n > 1 {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

func list(ss []string) string { return "[" + strings.Join(ss, " ") + "]" }

// EditSwitch applies an update to a switch, which the caller stores. A list of
// ports that is not given stays as it is; ports that lead to machines can
// neither vanish nor change their names.
func EditSwitch(r store.Reader, sw *apiv2.Switch, q *adminv2.SwitchServiceUpdateRequest) error {
	if q.Os != nil {
		if q.GetOs().GetVendor() != sw.GetOs().GetVendor() {
			return invalid("cannot update switch os vendor from %s to %s, use replace instead", vendorName(sw), enumName(q.GetOs().GetVendor()))
		}
		sw.Os = q.GetOs()
	}
	if len(q.GetNics()) > 0 {
		if err := checkNics(q.GetNics()); err != nil {
			return err
		}
		if err := checkConnected(r, sw, q.GetNics()); err != nil {
			return err
		}
		sw.Nics = nics(q.GetNics(), sw.GetNics())
	}
	if q.Description != nil {
		sw.Description = q.GetDescription()
	}
	if q.ReplaceMode != nil {
		sw.ReplaceMode = mode(q.GetReplaceMode())
	}
	if q.ManagementIp != nil {
		sw.ManagementIp = q.GetManagementIp()
	}
	if q.ManagementUser != nil {
		sw.ManagementUser = q.ManagementUser
	}
	if q.ConsoleCommand != nil {
		sw.ConsoleCommand = q.ConsoleCommand
	}
	return nil
}

// checkConnected refuses a list of ports in which one that leads to a machine
// is missing or has another name.
func checkConnected(r store.Reader, sw *apiv2.Switch, to []*apiv2.SwitchNic) error {
	names := map[string]string{}
	for _, n := range to {
		names[n.GetIdentifier()] = n.GetName()
	}
	var gone, renamed []string
	for _, n := range sw.GetNics() {
		if _, connected := records.Connections.Peek(r, records.PortKey(sw.GetId(), n.GetName())); !connected {
			continue
		}
		switch name, ok := names[n.GetIdentifier()]; {
		case !ok:
			gone = append(gone, n.GetIdentifier())
		case name != n.GetName():
			renamed = append(renamed, n.GetIdentifier())
		}
	}
	slices.Sort(gone)
	slices.Sort(renamed)
	var wrong []string
	if gone != nil {
		wrong = append(wrong, "cannot remove nics "+list(gone)+" because they are connected to machines")
	}
	if renamed != nil {
		wrong = append(wrong, "cannot rename nics "+list(renamed)+" because they are connected to machines")
	}
	if wrong != nil {
		return invalid("%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// SetPort notes the state an operator wants a port to have.
func SetPort(tx *store.Tx, switchID, port string, status apiv2.SwitchPortStatus) error {
	if status != apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP && status != apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN {
		return invalid("port status %q must be one of [\"up\", \"down\"]", enumName(status))
	}
	_, err := records.Switches.Change(tx, switchID, func(sw *apiv2.Switch) error {
		for _, n := range sw.GetNics() {
			if n.GetName() == port {
				n.State = &apiv2.NicState{Desired: status.Enum()}
				return nil
			}
		}
		return invalid("port %s does not exist on switch %s", port, switchID)
	})
	return err
}

// RegisterLeaf is Register for a switch that Ingot configures. With its first
// registration it takes an AS number, a loopback and a /56 for its ports from
// the partition's fabric, and keeps them; every port but the uplinks has a /64
// of its own as long as it is there.
func RegisterLeaf(tx *store.Tx, q *ingotv1.LeafServiceRegisterRequest) error {
	sw := q.GetSwitch()
	f, err := records.Fabrics.Get(tx, sw.GetPartition())
	if fault.KindOf(err) == fault.NotFound {
		return fault.New(fault.Precondition, "switch "+sw.GetId(), "its partition "+sw.GetPartition()+" has no fabric", "an operator must put one with 'ingot fabric put'")
	}
	if err != nil {
		return err
	}
	if err := Register(tx, sw); err != nil {
		return err
	}
	tx.Bump(fabricGuard(sw.GetPartition()))
	l, known := records.Leaves.Peek(tx, sw.GetId())
	if !known {
		if l, err = takeLeaf(tx, f, sw.GetId()); err != nil {
			return err
		}
	}
	l.Uplinks, l.FrrVersion = slices.Clone(q.GetUplinks()), q.GetFrrVersion()
	if l.Ports, err = numberPorts(tx, l, sw.GetNics()); err != nil {
		return err
	}
	return records.Leaves.Put(tx, l)
}

func switchOwner(id string) string { return "switch " + id }

// ownerLeaf returns the switch that a value was taken for.
func ownerLeaf(t *privatev1.Taken) (string, bool) { return strings.CutPrefix(t.GetOwner(), "switch ") }

func takeLeaf(tx *store.Tx, f *ingotv1.Fabric, id string) (*privatev1.Leaf, error) {
	l := &privatev1.Leaf{Switch: id, Partition: f.GetPartition()}
	first, last := asnRange(f)
	var err error
	if l.Asn, err = takeASN(tx, uint32(first), uint32(last), switchOwner(id)); err != nil {
		return nil, err
	}
	ranges := fabricPrefixes(f)
	lo, hi, _ := ipam.Hosts(ranges[1])
	key := func(n uint64) string {
		a, _ := ipam.Nth(ranges[1], n)
		return store.OrderedAddr(a)
	}
	n, ok := lowest(tx, records.Loopbacks, lo, hi, key, id)
	if !ok {
		return nil, fault.Newf(fault.Exhausted, "fabric of partition "+f.GetPartition(), "no free loopback in %s", ranges[1]).Do("widen the range")
	}
	if err := records.Loopbacks.Insert(tx, taken(tx, key(n), switchOwner(id))); err != nil {
		return nil, err
	}
	a, _ := ipam.Nth(ranges[1], n)
	l.Loopback = a.String()
	key = func(n uint64) string {
		p, _ := ipam.NthSub(ranges[0], leafBits, n)
		return store.OrderedAddr(p.Addr())
	}
	if n, ok = lowest(tx, records.BootPrefixes, 0, ipam.Subs(ranges[0], leafBits)-1, key, id); !ok {
		return nil, fault.Newf(fault.Exhausted, "fabric of partition "+f.GetPartition(), "no free /%d in %s", leafBits, ranges[0]).Do("widen the boot supernet")
	}
	if err := records.BootPrefixes.Insert(tx, taken(tx, key(n), switchOwner(id))); err != nil {
		return nil, err
	}
	p, _ := ipam.NthSub(ranges[0], leafBits, n)
	l.BootPrefix = p.String()
	return l, nil
}

// numberPorts gives every port that leads to a server the place of its /64. A
// port keeps its place; new ones take the lowest that are free.
func numberPorts(r store.Reader, l *privatev1.Leaf, nics []*apiv2.SwitchNic) (map[string]uint32, error) {
	out, used := map[string]uint32{}, map[uint32]bool{}
	var fresh []string
	known := map[string]bool{}
	for _, n := range nics {
		known[n.GetName()] = true
		if slices.Contains(l.GetUplinks(), n.GetName()) {
			if _, connected := records.Connections.Peek(r, records.PortKey(l.GetSwitch(), n.GetName())); connected {
				return nil, invalid("port %s of switch %s leads to a machine and cannot be an uplink", n.GetName(), l.GetSwitch())
			}
			continue
		}
		if i, ok := l.GetPorts()[n.GetName()]; ok {
			out[n.GetName()], used[i] = i, true
			continue
		}
		fresh = append(fresh, n.GetName())
	}
	for _, u := range l.GetUplinks() {
		if !known[u] {
			return nil, invalid("uplink %s is not a port of switch %s", u, l.GetSwitch())
		}
	}
	if len(out)+len(fresh) > maxPorts {
		return nil, invalid("switch %s has more than %d ports that lead to servers", l.GetSwitch(), maxPorts)
	}
	slices.SortFunc(fresh, natural)
	next := uint32(0)
	for _, name := range fresh {
		for used[next] {
			next++
		}
		out[name], used[next] = next, true
	}
	return out, nil
}

// natural orders names by the numbers in them: swp2 before swp10.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, restA := chunk(a)
		y, restB := chunk(b)
		if digit(x[0]) && digit(y[0]) && len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
		a, b = restA, restB
	}
	return len(a) - len(b)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// chunk cuts off the digits, or the other characters, that s begins with.
// Leading zeros are left out of the digits.
func chunk(s string) (head, rest string) {
	i := 1
	for i < len(s) && digit(s[i]) == digit(s[0]) {
		i++
	}
	head, rest = s[:i], s[i:]
	for digit(head[0]) && len(head) > 1 && head[0] == '0' {
		head = head[1:]
	}
	return head, rest
}

// deleteBatch is how many records of a switch one transaction removes.
const deleteBatch = 48

// DeleteSwitch removes a switch and what it had taken. It refuses while
// machines are connected, unless it is forced. It works in batches: while it
// reports that there is more, it is to be called again.
func DeleteSwitch(tx *store.Tx, id string, force bool) (more bool, err error) {
	if _, err := records.Switches.Get(tx, id); err != nil {
		return false, err
	}
	tx.Guard("connection/" + records.PortKey(id, ""))
	var ports []string
	for c := range records.Connections.Prefix(tx, records.PortKey(id, "")) {
		ports = append(ports, c.GetPort())
	}
	if len(ports) > 0 && !force {
		return false, fault.Newf(fault.Precondition, "", "cannot delete switch %s while it still has machines connected to it", id)
	}
	for i, p := range ports {
		if i == deleteBatch {
			return true, nil
		}
		if _, err := records.Connections.Delete(tx, records.PortKey(id, p)); err != nil {
			return false, err
		}
	}
	n := 0
	for p := range records.LeafPorts.Prefix(tx, records.PortKey(id, "")) {
		if n++; n > deleteBatch {
			return true, nil
		}
		if _, err := records.LeafPorts.Delete(tx, records.PortKey(id, p.GetPort())); err != nil {
			return false, err
		}
	}
	if err := releaseLeaf(tx, id); err != nil {
		return false, err
	}
	for _, drop := range []func() error{
		func() error { _, err := records.SwitchSyncs.Delete(tx, id); return err },
		func() error { _, err := records.LeafGenerations.Delete(tx, id); return err },
	} {
		if err := drop(); err != nil && fault.KindOf(err) != fault.NotFound {
			return false, err
		}
	}
	_, err = records.Switches.Delete(tx, id)
	return false, err
}

// releaseLeaf gives back what a leaf took from its partition's fabric.
func releaseLeaf(tx *store.Tx, id string) error {
	l, ok := records.Leaves.Peek(tx, id)
	if !ok {
		return nil
	}
	tx.Bump(fabricGuard(l.GetPartition()))
	for _, v := range []struct {
		pool *store.Table[*privatev1.Taken]
		key  string
	}{
		{records.ASNs, records.ASNKey(l.GetAsn())},
		{records.Loopbacks, store.OrderedAddr(netip.MustParseAddr(l.GetLoopback()))},
		{records.BootPrefixes, store.OrderedAddr(netip.MustParsePrefix(l.GetBootPrefix()).Addr())},
	} {
		if err := release(tx, v.pool, v.key, switchOwner(id)); err != nil {
			return err
		}
	}
	_, err := records.Leaves.Delete(tx, id)
	return err
}

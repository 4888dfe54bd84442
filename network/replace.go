package network

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	cumulus = apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_CUMULUS
	sonic   = apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC

	maxMoves = 48 // connections that one transaction rewrites
)

// replace puts a new switch in the place of one that has its id and waits for
// replacement. The machines behind its ports are those of its twin: the only
// other switch of the rack that has machines and is not waiting itself. What
// the old one took from the fabric the new one inherits.
func replace(tx *store.Tx, old, q *apiv2.Switch) error {
	twin, err := twinOf(tx, old)
	if err != nil {
		return err
	}
	if err := rewire(tx, twin, q); err != nil {
		return err
	}
	own := translate(old, q)
	sw := &apiv2.Switch{
		Id: old.GetId(), Meta: old.GetMeta(), Description: q.GetDescription(), Rack: old.Rack, Room: old.Room, Partition: old.GetPartition(),
		ReplaceMode: operational, ManagementIp: q.GetManagementIp(), ManagementUser: q.ManagementUser, ConsoleCommand: q.ConsoleCommand,
		Nics: nics(q.GetNics(), nil), Os: q.GetOs(),
	}
	for _, n := range old.GetNics() {
		for _, m := range sw.GetNics() {
			if own[n.GetName()] == m.GetName() {
				m.State = n.GetState()
			}
		}
	}
	if l, ok := records.Leaves.Peek(tx, old.GetId()); ok {
		l.Ports = renamed(l.GetPorts(), own)
		if err := records.Leaves.Put(tx, l); err != nil {
			return err
		}
	}
	return records.Switches.Put(tx, sw)
}

func twinOf(r store.Reader, sw *apiv2.Switch) (*apiv2.Switch, error) {
	var twins []*apiv2.Switch
	for s := range records.Switches.By(r, "partition", sw.GetPartition()) {
		if s.GetId() != sw.GetId() && s.GetRack() == sw.GetRack() && s.GetReplaceMode() != replacing && len(portNames(r, s.GetId())) > 0 {
			twins = append(twins, s)
		}
	}
	if len(twins) != 1 {
		return nil, fault.Newf(fault.Precondition, "", "failed to determine twin for switch %s: %d switches of rack %q have machines", sw.GetId(), len(twins), sw.GetRack()).
			Do("make it operational again, or delete it")
	}
	return twins[0], nil
}

// portNames returns the ports of a switch that lead to machines.
func portNames(r store.Reader, switchID string) []string {
	var out []string
	for c := range records.Connections.Prefix(r, records.PortKey(switchID, "")) {
		out = append(out, c.GetPort())
	}
	return out
}

// rewire makes the connections of q those of another switch, whose ports may be
// called otherwise.
func rewire(tx *store.Tx, from, q *apiv2.Switch) error {
	moves := translate(from, q)
	wanted := map[string]string{} // machine by port
	for c := range records.Connections.Prefix(tx, records.PortKey(from.GetId(), "")) {
		port, ok := moves[c.GetPort()]
		if !ok {
			return fault.Newf(fault.Precondition, "", "could not translate port name %s to equivalent port name of switch os %s", c.GetPort(), vendorName(q))
		}
		if !slices.Contains(names(q.GetNics()), port) {
			return fault.Newf(fault.Precondition, "switch "+q.GetId(), "has no port %s in the place of %s of switch %s", port, c.GetPort(), from.GetId()).
				Do("use a switch with the same ports")
		}
		wanted[port] = c.GetMachine()
	}
	if len(wanted) > maxMoves {
		return fault.Newf(fault.Precondition, "switch "+q.GetId(), "takes over %d ports, more than the %d that one step can move", len(wanted), maxMoves).
			Do("delete the switch and let its machines register again")
	}
	for c := range records.Connections.Prefix(tx, records.PortKey(q.GetId(), "")) {
		if wanted[c.GetPort()] == c.GetMachine() {
			continue
		}
		if _, err := records.Connections.Delete(tx, records.PortKey(q.GetId(), c.GetPort())); err != nil {
			return err
		}
	}
	for port, machine := range wanted {
		if err := records.Connections.Put(tx, &privatev1.Connection{Switch: q.GetId(), Port: port, Machine: machine}); err != nil {
			return err
		}
	}
	return nil
}

// Migrate moves the machines behind a switch to another one of the rack, which
// has none, and with them the prefixes of their ports: a booting machine keeps
// its address.
func Migrate(tx *store.Tx, from, to string) error {
	old, err := records.Switches.Get(tx, from)
	if err != nil {
		return fmt.Errorf("failed to migrate switch %s to %s: %w", from, to, err)
	}
	sw, err := records.Switches.Get(tx, to)
	if err != nil {
		return fmt.Errorf("failed to migrate switch %s to %s: %w", from, to, err)
	}
	if old.GetRack() != sw.GetRack() || old.GetPartition() != sw.GetPartition() {
		return fault.Newf(fault.Precondition, "", "cannot migrate from switch %s in rack %s to switch %s in rack %s, switches must be in the same rack",
			from, old.GetRack(), to, sw.GetRack())
	}
	tx.Guard("connection/" + records.PortKey(to, ""))
	if from == to || len(portNames(tx, to)) > 0 {
		return fault.Newf(fault.Precondition, "", "cannot migrate from switch %s to switch %s because the new switch already has machine connections", from, to)
	}
	if err := rewire(tx, old, sw); err != nil {
		return err
	}
	for _, port := range portNames(tx, from) {
		if _, err := records.Connections.Delete(tx, records.PortKey(from, port)); err != nil {
			return err
		}
	}
	all := translate(old, sw)
	if _, err := records.Switches.Change(tx, to, func(sw *apiv2.Switch) error {
		for _, n := range old.GetNics() {
			for _, m := range sw.GetNics() {
				if all[n.GetName()] == m.GetName() {
					m.State = n.GetState()
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return swapPrefixes(tx, from, sw, all)
}

// swapPrefixes exchanges the /56 of two leaves.
func swapPrefixes(tx *store.Tx, from string, sw *apiv2.Switch, ports map[string]string) error {
	a, ok := records.Leaves.Peek(tx, from)
	if !ok {
		return nil
	}
	b, ok := records.Leaves.Peek(tx, sw.GetId())
	if !ok {
		return nil
	}
	tx.Bump(fabricGuard(a.GetPartition()))
	for _, p := range []struct{ prefix, owner string }{{a.GetBootPrefix(), b.GetSwitch()}, {b.GetBootPrefix(), a.GetSwitch()}} {
		if err := records.BootPrefixes.Put(tx, taken(tx, store.OrderedAddr(stored([]string{p.prefix})[0].Addr()), switchOwner(p.owner))); err != nil {
			return err
		}
	}
	a.BootPrefix, b.BootPrefix = b.GetBootPrefix(), a.GetBootPrefix()
	b.Ports = renamed(a.GetPorts(), ports)
	var err error
	if b.Ports, err = numberPorts(tx, b, sw.GetNics()); err != nil {
		return err
	}
	if err := records.Leaves.Put(tx, a); err != nil {
		return err
	}
	return records.Leaves.Put(tx, b)
}

func renamed(ports map[string]uint32, to map[string]string) map[string]uint32 {
	out := map[string]uint32{}
	for name, i := range ports {
		if n, ok := to[name]; ok {
			out[n] = i
		}
	}
	return out
}

func names(nics []*apiv2.SwitchNic) []string {
	var out []string
	for _, n := range nics {
		out = append(out, n.GetName())
	}
	return out
}

// translate returns what the ports of one switch are called on another, as far
// as the operating systems of both name them by a rule.
func translate(from, to *apiv2.Switch) map[string]string {
	out := map[string]string{}
	a, b := from.GetOs().GetVendor(), to.GetOs().GetVendor()
	ports := names(from.GetNics())
	for _, p := range ports {
		if a == b {
			out[p] = p
			continue
		}
		line, lane, err := parsePort(a, p)
		if err != nil {
			continue
		}
		sibling := func(o string) bool {
			l, _, err := parsePort(a, o)
			return err == nil && l == line && o != p
		}
		switch {
		case b == sonic:
			out[p] = "Ethernet" + strconv.Itoa(line*4+lane)
		case b == cumulus && slices.ContainsFunc(ports, sibling):
			out[p] = fmt.Sprintf("swp%ds%d", line+1, lane)
		case b == cumulus:
			out[p] = fmt.Sprintf("swp%d", line+1)
		}
	}
	return out
}

// parsePort returns which front panel port, counted from zero, and which of its
// four lanes a name means: swp3s1 of Cumulus is Ethernet9 of SONiC.
func parsePort(v apiv2.SwitchOSVendor, name string) (line, lane int, err error) {
	var rest string
	var ok bool
	switch v {
	case cumulus:
		if rest, ok = strings.CutPrefix(name, "swp"); ok {
			n, m, broken := strings.Cut(rest, "s")
			line, err = strconv.Atoi(n)
			line--
			if broken && err == nil {
				lane, err = strconv.Atoi(m)
			}
		}
	case sonic:
		if rest, ok = strings.CutPrefix(name, "Ethernet"); ok {
			line, err = strconv.Atoi(rest)
			line, lane = line/4, line%4
		}
	}
	if !ok || err != nil || line < 0 || lane < 0 || lane > 3 || strings.ContainsAny(rest, "+-") {
		return 0, 0, invalid("port name %q is not one of switch os %s", name, enumName(v))
	}
	return line, lane, nil
}

func vendorName(sw *apiv2.Switch) string { return enumName(sw.GetOs().GetVendor()) }

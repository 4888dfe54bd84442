package machine

import (
	"fmt"
	"slices"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A link is a port of a leaf that leads to a machine.
type link struct{ leaf, port string }

// connect wires a machine as its neighbours say: to the same number of ports
// of exactly two leaves of one rack, and to the same ports on both. The port
// its boot came through, if known, must be among them.
func connect(tx *store.Tx, m *privatev1.Machine, nics []*apiv2.MachineNic, boot *privatev1.Boot) error {
	links, leaves, err := neighbours(tx, m, nics)
	if err != nil {
		return err
	}
	if boot != nil && !slices.Contains(links, link{boot.GetSwitch(), boot.GetPort()}) {
		return wiringFault(m, "it booted through %s of %s, but its LLDP neighbours are %s", boot.GetPort(), boot.GetSwitch(), linkNames(links))
	}
	for _, l := range links {
		c, err := records.Connections.Get(tx, records.PortKey(l.leaf, l.port))
		switch {
		case isNotFound(err):
			if err := records.Connections.Insert(tx, &privatev1.Connection{Switch: l.leaf, Port: l.port, Machine: m.GetUuid()}); err != nil {
				return err
			}
		case err != nil:
			return err
		case c.GetMachine() != m.GetUuid():
			return wiringFault(m, "%s of %s leads to machine %s already", l.port, l.leaf, c.GetMachine())
		}
	}
	for c := range records.Connections.By(tx, "machine", m.GetUuid()) {
		if slices.Contains(links, link{c.GetSwitch(), c.GetPort()}) {
			continue
		}
		if !slices.ContainsFunc(leaves, func(s *apiv2.Switch) bool { return s.GetId() == c.GetSwitch() }) {
			return wiringFault(m, "it is still connected to %s of %s", c.GetPort(), c.GetSwitch())
		}
		if _, err := records.Connections.Delete(tx, records.PortKey(c.GetSwitch(), c.GetPort())); err != nil {
			return err
		}
	}
	_, err = records.Machines.Change(tx, m.GetUuid(), func(m *privatev1.Machine) error {
		m.Rack, m.Room = leaves[0].GetRack(), leaves[0].GetRoom()
		return nil
	})
	return err
}

// neighbours finds the leaf ports that the NICs' neighbours name, and checks
// that they are a pair's.
func neighbours(tx *store.Tx, m *privatev1.Machine, nics []*apiv2.MachineNic) ([]link, []*apiv2.Switch, error) {
	var links []link
	ports := map[string][]string{}
	var leaves []*apiv2.Switch
	for _, nic := range nics {
		for _, n := range nic.GetNeighbors() {
			s, err := records.Switches.Get(tx, n.GetHostname())
			if isNotFound(err) {
				continue // a management switch
			}
			if err != nil {
				return nil, nil, err
			}
			if s.GetPartition() != m.GetPartition() {
				return nil, nil, wiringFault(m, "its neighbour %s belongs to partition %s", s.GetId(), s.GetPartition())
			}
			i := slices.IndexFunc(s.GetNics(), func(p *apiv2.SwitchNic) bool { return isPort(p, n) })
			if i < 0 {
				return nil, nil, wiringFault(m, "%s has no port %s", s.GetId(), n.GetName())
			}
			l := link{s.GetId(), s.GetNics()[i].GetName()}
			if slices.Contains(links, l) {
				continue
			}
			if links = append(links, l); ports[l.leaf] == nil {
				leaves = append(leaves, s)
			}
			ports[l.leaf] = append(ports[l.leaf], l.port)
		}
	}
	if len(leaves) != 2 {
		return nil, nil, wiringFault(m, "its neighbours name %d leaves, not 2: %s", len(leaves), linkNames(links))
	}
	a, b := leaves[0], leaves[1]
	if a.GetRack() != b.GetRack() {
		return nil, nil, wiringFault(m, "%s is in rack %s, %s in rack %s", a.GetId(), a.GetRack(), b.GetId(), b.GetRack())
	}
	pa, pb := ports[a.GetId()], ports[b.GetId()]
	slices.Sort(pa)
	slices.Sort(pb)
	if len(pa) != len(pb) || a.GetOs().GetVendor() == b.GetOs().GetVendor() && !slices.Equal(pa, pb) {
		return nil, nil, wiringFault(m, "it is on different ports: %s", linkNames(links))
	}
	return links, leaves, nil
}

// isPort reports whether a neighbour is this port of its switch: leaves send
// the name of a port or its identifier.
func isPort(p *apiv2.SwitchNic, n *apiv2.MachineNic) bool {
	return p.GetName() == n.GetName() || p.GetIdentifier() != "" && (p.GetIdentifier() == n.GetIdentifier() || p.GetIdentifier() == n.GetName())
}

func linkNames(links []link) string {
	if len(links) == 0 {
		return "none"
	}
	var s []string
	for _, l := range links {
		s = append(s, fmt.Sprintf("%s of %s", l.port, l.leaf))
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

func wiringFault(m *privatev1.Machine, format string, args ...any) error {
	return fault.Newf(fault.Precondition, object(m.GetUuid()), "wiring: "+format, args...).
		Do("check the cables; if they are right, delete the machine that was there before")
}

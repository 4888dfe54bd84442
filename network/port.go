package network

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// PortOf returns the port of a leaf that a source address belongs to: each port
// has a /64 of its own, and the leaf lets no other source through it. It is
// fault.Denied if the address is none of the leaf's ports'.
func PortOf(r store.Reader, switchID string, source netip.Addr) (string, error) {
	l, err := records.Leaves.Get(r, switchID)
	if err != nil {
		return "", err
	}
	p := netip.MustParsePrefix(l.GetBootPrefix())
	n, ok := ipam.SubNumber(p, portBits, source.WithZone(""))
	if ok {
		for port, i := range l.GetPorts() {
			if uint64(i) == n {
				return port, nil
			}
		}
	}
	return "", fault.Newf(fault.Denied, "address "+source.String(), "belongs to no port of switch %s", switchID).Do("a leaf vouches only for its own ports")
}

// MachineAt returns the leaf and port that a source address belongs to, and the
// machine behind it, which is empty if none has registered there. It is
// fault.NotFound if no leaf has the address.
func MachineAt(r store.Reader, source netip.Addr) (switchID, port, machine string, err error) {
	source = source.WithZone("")
	missing := fault.New(fault.NotFound, "address "+source.String(), "belongs to no leaf", "ask from a port of the boot network")
	if !source.Is6() {
		return "", "", "", missing
	}
	t, ok := records.BootPrefixes.Peek(r, store.OrderedAddr(netip.PrefixFrom(source, leafBits).Masked().Addr()))
	id, isLeaf := ownerLeaf(t)
	if !ok || !isLeaf {
		return "", "", "", missing
	}
	if port, err = PortOf(r, id, source); err != nil {
		return "", "", "", err
	}
	c, _ := records.Connections.Peek(r, records.PortKey(id, port))
	return id, port, c.GetMachine(), nil
}

// Moved reports whether every port of a machine is to be and is known to be of a
// class, in the VRF that goes with it. That a port is back in the boot VRF counts
// only if its leaf reported it under the newest generation of its configuration
// and that is still what is wanted: no older one that moves it elsewhere can
// still be on its way. A port that an operator has shut leads nowhere and does
// not count, nor does one of a switch that is not a leaf of Ingot's. A machine
// without ports has moved.
func Moved(r store.Reader, machine string, class ingotv1.PortClass) bool {
	return len(Unmoved(r, machine, class)) == 0
}

// Unmoved names the ports that keep a machine from having Moved, in words.
func Unmoved(r store.Reader, machine string, class ingotv1.PortClass) []string {
	var out []string
	for c := range records.Connections.By(r, "machine", machine) {
		s, err := siteOf(r, c.GetSwitch())
		if err != nil {
			continue
		}
		w := s.want(r, c.GetPort())
		p, _ := records.LeafPorts.Peek(r, records.PortKey(c.GetSwitch(), c.GetPort()))
		if w.class == downClass && p.GetClass() == downClass {
			continue
		}
		if w.class != class || p.GetClass() != class || p.GetVrf() != w.vrf || class == bootClass && !newest(r, p) {
			out = append(out, c.GetPort()+" of "+c.GetSwitch())
		}
	}
	return out
}

// newest reports whether a port was seen under its leaf's newest generation,
// and no newer one is due.
func newest(r store.Reader, p *privatev1.LeafPort) bool {
	g, _ := records.LeafGenerations.Peek(r, p.GetSwitch())
	c, err := Leaf(r, p.GetSwitch())
	return err == nil && bytes.Equal(g.GetHash(), Hash(c)) && CompareGenerations(p.GetGeneration(), g.GetGeneration()) == 0
}

// ReportPort notes what a leaf reports of a port under a generation, and writes
// only what somebody waits for: another class, VRF or state, another
// neighbour, and for the ports of a machine that is being reclaimed another
// generation.
//
// A neighbour counts from the first frame that is newer than those heard before
// the port moved. The times compared are the leaf's, so its clock may be wrong.
func ReportPort(tx *store.Tx, switchID string, g *ingotv1.Generation, q *ingotv1.PortReport) error {
	key := records.PortKey(switchID, q.GetName())
	old, known := records.LeafPorts.Peek(tx, key)
	p := proto.Clone(old).(*privatev1.LeafPort)
	if !known {
		p = &privatev1.LeafPort{Switch: switchID, Port: q.GetName()}
	}
	p.Status = q.GetStatus()
	if moved := !known || p.GetClass() != q.GetClass() || p.GetVrf() != q.GetVrf(); moved {
		p.Class, p.Vrf, p.Generation, p.Moved = q.GetClass(), q.GetVrf(), g, timestamppb.New(tx.Now())
		p.Neighbor, p.Heard, p.OldFrame = nil, nil, q.GetNeighbor().GetSeen()
	} else {
		hear(tx, p, q.GetNeighbor())
	}
	if CompareGenerations(p.GetGeneration(), g) != 0 {
		if c, ok := records.Connections.Peek(tx, key); ok {
			if _, leaving := records.Reclaims.Peek(tx, c.GetMachine()); leaving {
				p.Generation = g
			}
		}
	}
	if known && proto.Equal(p, old) {
		return nil
	}
	return records.LeafPorts.Put(tx, p)
}

// hearAgain is how often a system that should not run there is noted.
const hearAgain = 15 * time.Second

// Provisioned reports whether an LLDP frame comes from an installed system:
// metal-stack's images say so in the system description.
func Provisioned(n *ingotv1.Neighbor) bool {
	return strings.Contains(n.GetSystemDescription(), "provisioned")
}

// hear notes a neighbour that was not there before, and again and again an
// installed system in the boot VRF, where none belongs.
func hear(tx *store.Tx, p *privatev1.LeafPort, n *ingotv1.Neighbor) {
	if n == nil {
		p.Neighbor, p.Heard = nil, nil
		return
	}
	if p.GetOldFrame() != nil && !n.GetSeen().AsTime().After(p.GetOldFrame().AsTime()) {
		return
	}
	astray := p.GetClass() == bootClass && Provisioned(n)
	if same(p.GetNeighbor(), n) && (!astray || n.GetSeen().AsTime().Sub(p.GetNeighbor().GetSeen().AsTime()) < hearAgain) {
		return
	}
	p.Neighbor, p.Heard = n, timestamppb.New(tx.Now())
}

// same reports whether two frames come from the same port of the same system.
func same(a, b *ingotv1.Neighbor) bool {
	return a != nil && b != nil && a.GetChassisId() == b.GetChassisId() && a.GetPortId() == b.GetPortId() &&
		a.GetSystemName() == b.GetSystemName() && a.GetSystemDescription() == b.GetSystemDescription()
}

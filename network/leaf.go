package network

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"net/netip"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/ipam"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	bootClass    = ingotv1.PortClass_PORT_CLASS_BOOT
	machineClass = ingotv1.PortClass_PORT_CLASS_MACHINE
	serviceClass = ingotv1.PortClass_PORT_CLASS_SERVICE
	downClass    = ingotv1.PortClass_PORT_CLASS_DOWN
)

// Leaf returns the configuration a leaf is to have, without a generation, or
// fault.NotFound if the switch has not registered as a leaf. It is computed
// from the records of its partition's fabric, its ports, the machines behind
// them, and those machines' allocations, networks and addresses; package loop
// counts its generations.
func Leaf(r store.Reader, switchID string) (*ingotv1.LeafConfiguration, error) {
	s, err := siteOf(r, switchID)
	if err != nil {
		return nil, err
	}
	l, f := s.leaf, s.fabric
	c := &ingotv1.LeafConfiguration{
		Switch: switchID, Partition: l.GetPartition(), Asn: l.GetAsn(), Loopback: l.GetLoopback(), Uplinks: slices.Sorted(slices.Values(l.GetUplinks())),
		Boot: &ingotv1.LeafBoot{
			Vrf: VRF(f.GetBootVni()), Vni: f.GetBootVni(), Prefix: l.GetBootPrefix(), Address: f.GetBootAddress(), Domain: f.GetBootDomain(),
			Caches: Caches(r, f),
		},
	}
	vrfs := map[uint32]bool{}
	for _, name := range slices.Sorted(maps.Keys(l.GetPorts())) {
		w := s.want(r, name)
		p := &ingotv1.LeafPort{Name: name, Class: w.class, Vrf: w.vrf, BootPrefix: portPrefix(l, name), Machine: w.machine}
		if w.class == machineClass {
			vrfs[w.vni] = true
			p.Accept = ipam.Strings(accepted(r, w.machine, w.allocation))
		}
		c.Ports = append(c.Ports, p)
	}
	for _, vni := range slices.Sorted(maps.Keys(vrfs)) {
		c.Vrfs = append(c.Vrfs, &ingotv1.LeafVRF{Name: VRF(vni), Vni: vni})
	}
	return c, nil
}

// Hash returns the SHA-256 of a configuration, its generation aside.
func Hash(c *ingotv1.LeafConfiguration) []byte {
	c = proto.Clone(c).(*ingotv1.LeafConfiguration)
	c.Generation = nil
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic("network: a configuration made of valid text cannot be encoded: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// NextGeneration counts a leaf's configuration if it is not the one that was
// counted last, and reports whether it did.
func NextGeneration(tx *store.Tx, switchID string) (bool, error) {
	c, err := Leaf(tx, switchID)
	if err != nil {
		return false, err
	}
	old, _ := records.LeafGenerations.Peek(tx, switchID)
	hash := Hash(c)
	if bytes.Equal(old.GetHash(), hash) {
		return false, nil
	}
	return true, records.LeafGenerations.Put(tx, &privatev1.LeafGeneration{
		Switch: switchID, Hash: hash,
		Generation: &ingotv1.Generation{Epoch: max(1, old.GetGeneration().GetEpoch()), N: old.GetGeneration().GetN() + 1},
	})
}

// Counted returns the configuration of a leaf with its generation; nil if what
// is wanted now has not been counted yet.
func Counted(r store.Reader, switchID string) (*ingotv1.LeafConfiguration, error) {
	c, err := Leaf(r, switchID)
	if err != nil {
		return nil, err
	}
	g, _ := records.LeafGenerations.Peek(r, switchID)
	if !bytes.Equal(g.GetHash(), Hash(c)) {
		return nil, nil
	}
	c.Generation = g.GetGeneration()
	return c, nil
}

// CompareGenerations returns a negative number if a is older than b, zero if
// they are the same, and a positive number if a is newer. Nil is the oldest.
func CompareGenerations(a, b *ingotv1.Generation) int {
	return cmp.Or(cmp.Compare(a.GetEpoch(), b.GetEpoch()), cmp.Compare(a.GetN(), b.GetN()))
}

// A site is a leaf and what decides the classes of its ports, machines aside.
type site struct {
	leaf     *privatev1.Leaf
	fabric   *ingotv1.Fabric
	down     map[string]bool // ports an operator wants down
	services map[string]bool // ports that lead to image caches
}

func siteOf(r store.Reader, switchID string) (*site, error) {
	l, err := records.Leaves.Get(r, switchID)
	if err != nil {
		return nil, err
	}
	f, err := records.Fabrics.Get(r, l.GetPartition())
	if err != nil {
		return nil, err
	}
	s := &site{leaf: l, fabric: f, down: map[string]bool{}, services: map[string]bool{}}
	sw, _ := records.Switches.Peek(r, switchID)
	for _, n := range sw.GetNics() {
		s.down[n.GetName()] = n.GetState().GetDesired() == apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN
	}
	for _, p := range f.GetServicePorts() {
		if p.GetSwitch() == switchID {
			s.services[p.GetPort()] = true
		}
	}
	return s, nil
}

// A want is what a port is to be.
type want struct {
	class      ingotv1.PortClass
	vrf        string // empty in the default VRF
	machine    string
	vni        uint32                   // of class machine
	allocation *apiv2.MachineAllocation // of class machine
}

// want decides what a port is to be. A machine's port moves into the machine's
// VRF when the installation was reported, and out of it when the allocation is
// deleted, whether or not its system still runs.
//
// A firewall's port stays in the boot VRF: it needs EVPN to the host, which
// leaves do not render.
func (s *site) want(r store.Reader, port string) want {
	c, _ := records.Connections.Peek(r, records.PortKey(s.leaf.GetSwitch(), port))
	w := want{class: bootClass, machine: c.GetMachine()}
	if s.fabric != nil {
		w.vrf = VRF(s.fabric.GetBootVni())
	}
	switch {
	case s.down[port]:
		w.class, w.vrf = downClass, ""
		return w
	case s.services[port]:
		w.class = serviceClass
		return w
	}
	a := running(r, w.machine)
	if n := privateOf(a); n != nil && a.GetAllocationType() != firewallType {
		w.class, w.vni, w.vrf, w.allocation = machineClass, uint32(n.GetVrf()), VRF(uint32(n.GetVrf())), a
	}
	return w
}

// privateOf returns the private network of an allocation; nil if it has none.
func privateOf(a *apiv2.MachineAllocation) *apiv2.MachineNetwork {
	for _, n := range a.GetNetworks() {
		if isChild(n.GetNetworkType()) {
			return n
		}
	}
	return nil
}

// running returns the allocation whose system runs on a machine; nil if there is
// none. One that is reinstalled runs the old one until power was seen to be off.
func running(r store.Reader, machine string) *apiv2.MachineAllocation {
	if machine == "" {
		return nil
	}
	a, ok := records.Allocations.Peek(r, machine)
	if ok && (a.GetInstalled() != nil || a.GetReinstall() != nil && a.GetReinstall().GetPowerOffSeen() == nil) {
		return a.GetAllocation()
	}
	return nil
}

// accepted returns what a machine may announce: the prefixes of its private
// network and what the network's parent allows beyond them, its own addresses,
// and the external ones of its project that are no other machine's, so that it
// can announce services.
func accepted(r store.Reader, machine string, a *apiv2.MachineAllocation) []netip.Prefix {
	private := privateOf(a)
	out := stored(private.GetPrefixes())
	n, _ := records.Networks.Peek(r, private.GetNetwork())
	if parent, ok := records.Networks.Peek(r, n.GetParentNetwork()); ok {
		out = append(out, stored(parent.GetAdditionalAnnouncableCidrs())...)
	}
	for _, mn := range a.GetNetworks() {
		for _, s := range mn.GetIps() {
			out = append(out, ipam.Host(netip.MustParseAddr(s)))
		}
	}
	for n := range records.Networks.By(r, "root", external.String()) {
		for ip := range records.IPs.By(r, "share", records.IPShareKey(n.GetId(), a.GetProject())) {
			if m := Machine(ip); m == "" || m == machine {
				out = append(out, ipam.Host(netip.MustParseAddr(ip.GetIp())))
			}
		}
	}
	return ipam.Compact(out)
}

// Caches returns the prefixes of the ports that lead to image caches.
func Caches(r store.Reader, f *ingotv1.Fabric) []string {
	var out []string
	for _, s := range f.GetServicePorts() {
		if l, ok := records.Leaves.Peek(r, s.GetSwitch()); ok && l.GetPartition() == f.GetPartition() {
			if p := portPrefix(l, s.GetPort()); p != "" {
				out = append(out, p)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// portPrefix returns the /64 of a port; empty if the leaf has no such port.
func portPrefix(l *privatev1.Leaf, port string) string {
	i, ok := l.GetPorts()[port]
	if !ok {
		return ""
	}
	p, _ := ipam.NthSub(netip.MustParsePrefix(l.GetBootPrefix()), portBits, uint64(i))
	return p.String()
}

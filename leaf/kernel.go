package leaf

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Kernel is what the network of a switch's Linux kernel shall look like. What
// it does not name is not touched, except VRFs with tables of Ingot's range
// and the ports in them.
type Kernel struct {
	Sysctls  []Sysctl
	Loopback netip.Addr
	VRFs     []KernelVRF
	Links    []Link
}

// A Sysctl is a kernel parameter: its path below /proc/sys and its value.
type Sysctl struct{ Path, Value string }

// A KernelVRF is a VRF device with its table and, for its layer-3 VNI, a
// bridge with a VXLAN tunnel in it.
type KernelVRF struct {
	Name  string
	Table uint32
	VNI   uint32
	// RouterMAC is the address the other leaves send this VRF's packets to
	// (RFC 9136, router's MAC extended community).
	RouterMAC net.HardwareAddr
	// Addresses are on the VRF device itself, its loopback.
	Addresses []netip.Prefix
}

// Bridge and Tunnel are the names of the VRF's devices for its VNI.
func (v KernelVRF) Bridge() string { return fmt.Sprintf("br%d", v.VNI) }

// Tunnel is the name of the VRF's VXLAN device.
func (v KernelVRF) Tunnel() string { return fmt.Sprintf("vx%d", v.VNI) }

// A Link is a front panel port or an uplink.
type Link struct {
	Name string
	Up   bool
	MTU  int
	VRF  string // empty: the default one
	// Addresses are all global addresses of a port; those of an uplink are
	// the operator's business.
	Addresses []netip.Prefix
	Uplink    bool
	Sysctls   []Sysctl
}

const (
	// firstTable is the number of the routing table of VNI 0; tables from
	// there to firstTable+maxVNI are Ingot's. Decimal, so that an operator can
	// read the VNI out of it.
	firstTable = 10_000_000
	// mtuUplink carries a machine's largest packet in a tunnel (RFC 7348: 50
	// bytes over IPv4), mtuMachine is that packet, mtuBoot what every
	// firmware can take.
	mtuUplink  = 9216
	mtuMachine = 9000
	mtuBoot    = 1500
)

func (p *plan) kernel() Kernel {
	k := Kernel{
		Loopback: p.loopback,
		Sysctls: []Sysctl{
			{"net/ipv4/ip_forward", "1"},
			{"net/ipv6/conf/all/forwarding", "1"},
			{"net/ipv4/conf/all/rp_filter", "0"}, // IPv4 comes over IPv6 next hops
			// Services of the switch itself are not reachable from a VRF.
			{"net/ipv4/tcp_l3mdev_accept", "0"},
			{"net/ipv4/udp_l3mdev_accept", "0"},
		},
	}
	ip4 := p.loopback.As4()
	for _, v := range p.vrfs {
		kv := KernelVRF{
			Name: v.name, Table: firstTable + v.vni, VNI: v.vni,
			RouterMAC: net.HardwareAddr{0x02, 0x00, ip4[0], ip4[1], ip4[2], ip4[3]},
		}
		if v.boot {
			kv.Addresses = []netip.Prefix{netip.PrefixFrom(p.boot.address, 128)}
		}
		k.VRFs = append(k.VRFs, kv)
	}
	for _, u := range p.uplinks {
		k.Links = append(k.Links, Link{Name: u, Up: true, MTU: mtuUplink, Uplink: true, Sysctls: linkSysctls(u)})
	}
	for _, q := range p.ports {
		l := Link{Name: q.name, Up: true, MTU: mtuBoot, VRF: q.vrf, Sysctls: linkSysctls(q.name)}
		switch q.class {
		case ingotv1.PortClass_PORT_CLASS_BOOT, ingotv1.PortClass_PORT_CLASS_SERVICE:
			l.Addresses = []netip.Prefix{netip.PrefixFrom(q.prefix.Addr().Next(), 64)}
		case ingotv1.PortClass_PORT_CLASS_MACHINE:
			l.MTU = mtuMachine
		default:
			l.Up = false
		}
		k.Links = append(k.Links, l)
	}
	return k
}

func linkSysctls(name string) []Sysctl {
	return []Sysctl{
		{"net/ipv6/conf/" + name + "/accept_ra", "0"},
		{"net/ipv4/conf/" + name + "/rp_filter", "0"},
	}
}

// String lists what shall be, a line each.
func (k Kernel) String() string {
	var t text
	for _, s := range k.Sysctls {
		t.line("sysctl %s=%s", s.Path, s.Value)
	}
	t.line("loopback %s", k.Loopback)
	for _, v := range k.VRFs {
		t.line("vrf %s table %d vni %d bridge %s tunnel %s router-mac %s%s", v.Name, v.Table, v.VNI, v.Bridge(), v.Tunnel(), v.RouterMAC, addresses(v.Addresses))
	}
	for _, l := range k.Links {
		kind, state := "port", "down"
		if l.Uplink {
			kind = "uplink"
		}
		if l.Up {
			state = "up"
		}
		t.line("%s %s %s mtu %d vrf %s%s", kind, l.Name, state, l.MTU, orDefault(l.VRF), addresses(l.Addresses))
		for _, s := range l.Sysctls {
			t.line(" sysctl %s=%s", s.Path, s.Value)
		}
	}
	return t.String()
}

func addresses(all []netip.Prefix) string {
	var b strings.Builder
	for _, a := range slices.SortedFunc(slices.Values(all), func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }) {
		b.WriteString(" address " + a.String())
	}
	return b.String()
}

func orDefault(vrf string) string {
	if vrf == "" {
		return "default"
	}
	return vrf
}

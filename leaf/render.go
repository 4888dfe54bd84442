package leaf

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Timers of router advertisements. A server that just brought its link up in
// the boot network has an address within three seconds; the lifetimes are
// explicit because FRR's default is three times the interval, and one lost
// burst would take the route and the resolver away. A machine's port tells its
// link-local address only, by which BGP unnumbered finds its peer. The interval
// is the same there: FRR refuses to change it while the lifetime is 0.
const (
	advertiseInterval = 3
	bootLifetime      = 1800
)

// maxPrefixes is how many routes a machine may announce per address family;
// above it the session is closed, and tried again a minute later.
const maxPrefixes = 1000

// Render returns what a switch with that configuration shall hold. It fails
// with fault.Invalid if the configuration contradicts itself.
func Render(c *ingotv1.LeafConfiguration, v FRRVersion) (Files, error) {
	if v.less(OldestFRR) {
		return Files{}, fault.New(fault.Precondition, "frr "+v.String(), "is older than "+OldestFRR.String(), "install a newer FRR")
	}
	p, err := newPlan(c)
	if err != nil {
		return Files{}, err
	}
	f := Files{FRR: p.frr(), Kernel: p.kernel()}
	for _, q := range p.ports {
		f.ACLs = append(f.ACLs, p.acl(q))
	}
	return f, nil
}

// policy is the name of a port's route map and prefix lists. Everything of
// that kind whose name starts so is Ingot's.
const policy = "ingot-"

// A text is written line by line.
type text struct{ bytes.Buffer }

func (t *text) line(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

func (p *plan) frr() string {
	var t text
	// Timers and import check are those of this profile; FRR prints what
	// differs from it.
	t.line("frr defaults datacenter")
	for _, v := range p.vrfs {
		t.line("vrf %s\n vni %d\nexit-vrf", v.name, v.vni)
	}
	for _, q := range p.ports {
		p.advertise(&t, q)
	}
	p.underlay(&t)
	for _, v := range p.vrfs {
		p.instance(&t, v)
	}
	for _, v6 := range []bool{false, true} {
		for _, q := range p.ports {
			for i, a := range ofFamily(q.accept, v6) {
				t.line("%s prefix-list %s%s seq %d permit %s", family(v6), policy, q.name, i+1, within(a))
			}
		}
	}
	for _, q := range p.ports {
		if q.class != ingotv1.PortClass_PORT_CLASS_MACHINE {
			continue
		}
		for i, v6 := range []bool{false, true} {
			t.line("route-map %[1]s permit %[2]d\n match %[3]s address prefix-list %[1]s\nexit", policy+q.name, i+1, family(v6))
		}
	}
	return t.String()
}

func family(v6 bool) string {
	if v6 {
		return "ipv6"
	}
	return "ip"
}

// within is a prefix list's entry for a prefix and all that lies in it.
func within(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.String()
	}
	return fmt.Sprintf("%s le %d", p, p.Addr().BitLen())
}

// advertise renders the router advertisements of a port (RFC 4861, RFC 8106).
func (p *plan) advertise(t *text, q port) {
	switch q.class {
	case ingotv1.PortClass_PORT_CLASS_BOOT, ingotv1.PortClass_PORT_CLASS_SERVICE:
		t.line("interface %s", q.name)
		if p.boot.domain != "" {
			t.line(" ipv6 nd dnssl %s %d", p.boot.domain, bootLifetime)
		}
		t.line(" ipv6 nd prefix %s", q.prefix)
		t.line(" ipv6 nd ra-interval %d", advertiseInterval)
		t.line(" ipv6 nd ra-lifetime %d", bootLifetime)
		t.line(" ipv6 nd rdnss %s %d", p.boot.address, bootLifetime)
	case ingotv1.PortClass_PORT_CLASS_MACHINE:
		t.line("interface %s", q.name)
		t.line(" ipv6 nd ra-interval %d", advertiseInterval)
		t.line(" ipv6 nd ra-lifetime 0")
	default:
		return
	}
	t.line(" no ipv6 nd suppress-ra\nexit")
}

// underlay renders the default instance: loopbacks over the uplinks, and EVPN.
func (p *plan) underlay(t *text) {
	t.line("router bgp %d", p.asn)
	p.common(t)
	t.line(" neighbor uplink peer-group\n neighbor uplink remote-as external")
	for _, u := range p.uplinks {
		t.line(" neighbor %s interface peer-group uplink", u)
	}
	t.line(" address-family ipv4 unicast\n  network %s/32\n  neighbor uplink activate\n exit-address-family", p.loopback)
	t.line(" address-family l2vpn evpn\n  neighbor uplink activate\n  advertise-all-vni\n exit-address-family\nexit")
}

func (p *plan) common(t *text) {
	t.line(" bgp router-id %s\n no bgp default ipv4-unicast", p.loopback)
}

// instance renders a VRF's instance: what machines announce goes to the other
// leaves as EVPN type-5 routes (RFC 9136), and theirs come here. So does an
// address that an operator puts on the VRF's device: ports have none. The boot
// VRF announces the leaf's aggregate only.
func (p *plan) instance(t *text, v vrf) {
	t.line("router bgp %d vrf %s", p.asn, v.name)
	p.common(t)
	if v.boot {
		t.line(" no bgp network import-check")
	}
	t.line(" neighbor machine peer-group\n neighbor machine remote-as external")
	var members []string
	for _, q := range p.ports {
		if q.class == ingotv1.PortClass_PORT_CLASS_MACHINE && q.vrf == v.name {
			members = append(members, q.name)
			t.line(" neighbor %s interface peer-group machine", q.name)
		}
	}
	for _, af := range []string{"ipv4", "ipv6"} {
		t.line(" address-family %s unicast", af)
		if v.boot && af == "ipv6" {
			t.line("  network %s", p.boot.prefix)
		}
		if !v.boot {
			t.line("  redistribute connected")
		}
		t.line("  neighbor machine activate\n  neighbor machine maximum-prefix %d restart 1", maxPrefixes)
		for _, m := range members {
			t.line("  neighbor %s route-map %s in", m, policy+m)
		}
		t.line(" exit-address-family")
	}
	t.line(" address-family l2vpn evpn\n  advertise ipv4 unicast\n  advertise ipv6 unicast\n exit-address-family\nexit")
}

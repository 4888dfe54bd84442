package leaf

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A plan is a configuration whose texts are known to be what they claim: names
// can be written into other languages without quoting, addresses are parsed.
type plan struct {
	name     string
	asn      uint32
	loopback netip.Addr
	uplinks  []string
	vrfs     []vrf // the boot VRF too, in the order of their VNIs
	boot     *bootPlan
	ports    []port
}

type vrf struct {
	name string
	vni  uint32
	boot bool
}

type bootPlan struct {
	vrf     string
	prefix  netip.Prefix
	address netip.Addr
	caches  []netip.Prefix // of the ports that lead to image caches
	domain  string
}

type port struct {
	name   string
	class  ingotv1.PortClass
	vrf    string
	prefix netip.Prefix   // the port's own /64, may be invalid unless class is boot or service
	accept []netip.Prefix // sorted, none contains another
}

var (
	// interfaceName is what the kernel, FRR and nftables all take unquoted.
	interfaceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)
	hostName      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

// maxVNI is the largest VXLAN network identifier (RFC 7348: 24 bits).
const maxVNI = 1<<24 - 1

func invalid(object, format string, args ...any) error {
	return fault.New(fault.Invalid, object, fmt.Sprintf(format, args...), "")
}

// newPlan checks a configuration.
func newPlan(c *ingotv1.LeafConfiguration) (*plan, error) {
	p := &plan{name: c.GetSwitch(), asn: c.GetAsn(), uplinks: slices.Sorted(slices.Values(c.GetUplinks()))}
	object := "configuration of switch " + c.GetSwitch()
	if !hostName.MatchString(p.name) {
		return nil, invalid(object, "the switch's name is not a host name")
	}
	if p.asn == 0 {
		return nil, invalid(object, "has no AS number")
	}
	var err error
	if p.loopback, err = netip.ParseAddr(c.GetLoopback()); err != nil || !p.loopback.Is4() {
		return nil, invalid(object, "loopback %q is not an IPv4 address", c.GetLoopback())
	}
	seen := map[string]bool{"lo": true}
	for _, u := range p.uplinks {
		if err := claim(seen, "uplink", u); err != nil {
			return nil, err
		}
	}
	if err := p.addVRFs(c, seen); err != nil {
		return nil, err
	}
	for _, lp := range c.GetPorts() {
		if err := claim(seen, "port", lp.GetName()); err != nil {
			return nil, err
		}
		q, err := p.newPort(lp)
		if err != nil {
			return nil, err
		}
		p.ports = append(p.ports, q)
	}
	slices.SortFunc(p.ports, func(a, b port) int { return natural(a.name, b.name) })
	return p, nil
}

// claim takes the name of an interface that must be written once.
func claim(seen map[string]bool, what, name string) error {
	if !interfaceName.MatchString(name) {
		return invalid(what+" "+fmt.Sprintf("%q", name), "is not the name of an interface")
	}
	if seen[name] {
		return invalid(what+" "+name, "is named twice")
	}
	seen[name] = true
	return nil
}

func (p *plan) addVRFs(c *ingotv1.LeafConfiguration, seen map[string]bool) error {
	vnis := map[uint32]bool{}
	add := func(name string, vni uint32, boot bool) error {
		if err := claim(seen, "vrf", name); err != nil {
			return err
		}
		if vni == 0 || vni > maxVNI {
			return invalid("vrf "+name, "VNI %d is not in 1 to %d", vni, maxVNI)
		}
		if vnis[vni] {
			return invalid("vrf "+name, "VNI %d belongs to another VRF", vni)
		}
		vnis[vni] = true
		p.vrfs = append(p.vrfs, vrf{name, vni, boot})
		return nil
	}
	for _, v := range c.GetVrfs() {
		if b := c.GetBoot(); b != nil && v.GetName() == b.GetVrf() && v.GetVni() == b.GetVni() {
			continue // listed among the others too
		}
		if err := add(v.GetName(), v.GetVni(), false); err != nil {
			return err
		}
	}
	if b := c.GetBoot(); b != nil {
		if err := add(b.GetVrf(), b.GetVni(), true); err != nil {
			return err
		}
		if err := p.setBoot(b); err != nil {
			return err
		}
	}
	slices.SortFunc(p.vrfs, func(a, b vrf) int { return cmp.Compare(a.vni, b.vni) })
	return nil
}

func (p *plan) setBoot(b *ingotv1.LeafBoot) (err error) {
	const object = "boot network"
	q := &bootPlan{vrf: b.GetVrf(), domain: strings.TrimSuffix(b.GetDomain(), ".")}
	if q.prefix, err = netip.ParsePrefix(b.GetPrefix()); err != nil || !q.prefix.Addr().Is6() || q.prefix.Bits() > 64 || q.prefix != q.prefix.Masked() {
		return invalid(object, "prefix %q is not an IPv6 prefix of at most 64 bits", b.GetPrefix())
	}
	if q.address, err = globalV6(b.GetAddress()); err != nil {
		return invalid(object, "metal-boot's address: %v", err)
	}
	if q.prefix.Contains(q.address) {
		return invalid(object, "metal-boot's address %s lies in the ports' prefix %s", q.address, q.prefix)
	}
	for _, s := range b.GetCaches() {
		c, err := netip.ParsePrefix(s)
		if err != nil || !c.Addr().Is6() || c != c.Masked() {
			return invalid(object, "%q is not an IPv6 prefix of image caches", s)
		}
		q.caches = append(q.caches, c)
	}
	q.caches = disjoint(q.caches)
	if q.domain != "" && !hostName.MatchString(q.domain) {
		return invalid(object, "domain %q is not a domain", b.GetDomain())
	}
	p.boot = q
	return nil
}

func globalV6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
		return netip.Addr{}, fmt.Errorf("%q is not a global IPv6 address", s)
	}
	return a, nil
}

func (p *plan) newPort(lp *ingotv1.LeafPort) (port, error) {
	q := port{name: lp.GetName(), class: lp.GetClass(), vrf: lp.GetVrf()}
	object := "port " + q.name
	if s := lp.GetBootPrefix(); s != "" {
		var err error
		if q.prefix, err = netip.ParsePrefix(s); err != nil || q.prefix.Bits() != 64 || !q.prefix.Addr().Is6() || q.prefix != q.prefix.Masked() {
			return port{}, invalid(object, "boot prefix %q is not an IPv6 prefix of 64 bits", s)
		}
		if p.boot == nil || !p.boot.prefix.Contains(q.prefix.Addr()) {
			return port{}, invalid(object, "boot prefix %s is not in the leaf's", q.prefix)
		}
		for _, other := range p.ports {
			if other.prefix == q.prefix {
				return port{}, invalid(object, "boot prefix %s is %s's too", q.prefix, other.name)
			}
		}
	}
	switch q.class {
	case ingotv1.PortClass_PORT_CLASS_BOOT, ingotv1.PortClass_PORT_CLASS_SERVICE:
		if p.boot == nil || !q.prefix.IsValid() {
			return port{}, invalid(object, "is to boot without a boot network and a prefix")
		}
		if q.vrf != p.boot.vrf {
			return port{}, invalid(object, "is to boot in VRF %q, which is not the boot VRF %s", q.vrf, p.boot.vrf)
		}
	case ingotv1.PortClass_PORT_CLASS_MACHINE:
		if !slices.ContainsFunc(p.vrfs, func(v vrf) bool { return v.name == q.vrf }) {
			return port{}, invalid(object, "belongs to a machine in VRF %q, which this leaf is not told of", q.vrf)
		}
		for _, s := range lp.GetAccept() {
			a, err := netip.ParsePrefix(s)
			if err != nil || a.Addr().Zone() != "" || a.Addr().Is4In6() {
				return port{}, invalid(object, "accepts %q, which is not a prefix", s)
			}
			q.accept = append(q.accept, a.Masked())
		}
		q.accept = disjoint(q.accept)
	case ingotv1.PortClass_PORT_CLASS_DOWN:
		q.vrf = ""
	default:
		return port{}, invalid(object, "class %v is unknown to this version", q.class)
	}
	return q, nil
}

// disjoint sorts prefixes and drops those that another one contains.
func disjoint(in []netip.Prefix) []netip.Prefix {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range in {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// ofFamily returns the prefixes of one address family.
func ofFamily(all []netip.Prefix, v6 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
}

// natural orders names so that swp2 comes before swp10.
func natural(a, b string) int {
	split := func(s string) (string, string) {
		stem := strings.TrimRight(s, "0123456789")
		return stem, s[len(stem):]
	}
	as, an := split(a)
	bs, bn := split(b)
	return cmp.Or(cmp.Compare(as, bs), cmp.Compare(len(an), len(bn)), cmp.Compare(an, bn))
}

package leaf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

// A netState is the kernel's network as it is, read in one go.
type netState struct {
	links map[string]netlink.Link
	names map[int]string // by index
	// mtus are the largest packets that links can be set to carry, where the
	// driver says so.
	mtus map[string]int
	// addrs are the global addresses by link.
	addrs map[string][]netip.Prefix
	// closed are the tables and families that end in an unreachable route.
	closed map[closure]bool
	// rules are the priorities at which the local table is looked up.
	rules  map[int][]int // by family
	sysctl func(path string) (string, error)
}

type closure struct {
	table  uint32
	family int
}

var families = []int{unix.AF_INET, unix.AF_INET6}

// readNet reads the state. A dump that changed under our hands is read again.
func readNet() (*netState, error) {
	for range 5 {
		s, err := tryReadNet()
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fault.Wrap(fault.Internal, "kernel", "cannot be read", err)
		}
	}
	return nil, fault.New(fault.Unavailable, "kernel", "changes faster than it can be read", "")
}

func tryReadNet() (*netState, error) {
	s := &netState{
		links: map[string]netlink.Link{}, names: map[int]string{}, addrs: map[string][]netip.Prefix{},
		mtus: map[string]int{}, closed: map[closure]bool{}, rules: map[int][]int{}, sysctl: readSysctl,
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		s.links[l.Attrs().Name], s.names[l.Attrs().Index] = l, l.Attrs().Name
	}
	if err := s.readMTUs(); err != nil {
		return nil, err
	}
	for _, f := range families {
		addrs, err := netlink.AddrList(nil, f)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ones, _ := a.Mask.Size(); ok && a.Scope == int(netlink.SCOPE_UNIVERSE) {
				name := s.names[a.LinkIndex]
				s.addrs[name] = append(s.addrs[name], netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if isDefault(r.Dst) {
				s.closed[closure{uint32(r.Table), f}] = true
			}
		}
		rules, err := netlink.RuleList(f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if r.Table == unix.RT_TABLE_LOCAL {
				s.rules[f] = append(s.rules[f], r.Priority)
			}
		}
	}
	return s, nil
}

// readMTUs asks for what the library leaves out.
func (s *netState) readMTUs() error {
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return err
	}
	for _, m := range messages {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return err
		}
		for _, a := range attrs {
			if most := binary.NativeEndian.Uint32; a.Attr.Type == unix.IFLA_MAX_MTU && len(a.Value) >= 4 && most(a.Value) > 0 {
				s.mtus[s.names[int(nl.DeserializeIfInfomsg(m).Index)]] = int(most(a.Value))
			}
		}
	}
	return nil
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b)), err
}

// master is the name of the device a link is in.
func (s *netState) master(l netlink.Link) string { return s.names[l.Attrs().MasterIndex] }

// A change is one thing to do to the kernel.
type change struct {
	what string
	do   func() error
}

// A changes list grows while a wanted state is compared with what is.
type changes struct {
	have *netState
	list []change
}

func (c *changes) add(do func() error, format string, args ...any) {
	c.list = append(c.list, change{fmt.Sprintf(format, args...), do})
}

// Where the local table moves to: behind the VRFs' own (l3mdev, 1000).
const (
	localEarly = 0
	localLate  = 32765
)

// lastMetric is worse than that of any route a routing daemon installs.
const lastMetric = 4278198272

// compare returns what has to change, in order, for the kernel to be as k
// says. A change can make others necessary (a port that moves loses its
// addresses), so compare again when all are done.
func (k Kernel) compare(have *netState) []change {
	c := &changes{have: have}
	for _, s := range k.Sysctls {
		c.sysctl(s)
	}
	if lo := have.links["lo"]; lo != nil {
		c.up(lo, "lo", true)
		c.addresses(lo, []netip.Prefix{netip.PrefixFrom(k.Loopback, 32)}, false)
	}
	if len(k.VRFs) > 0 {
		c.rules()
	}
	for _, v := range k.VRFs {
		c.vrf(v)
		c.tunnel(v, k.Loopback)
	}
	for _, l := range k.Links {
		c.link(l)
	}
	c.strays(k)
	return c.list
}

func (c *changes) sysctl(s Sysctl) {
	is, err := c.have.sysctl(s.Path)
	if err == nil && is == s.Value {
		return
	}
	c.add(func() error { return os.WriteFile("/proc/sys/"+s.Path, []byte(s.Value), 0o644) }, "sysctl %s=%s", s.Path, s.Value)
}

// rules makes a VRF's own table win over the addresses of the default one, in
// which all the switch's services are.
func (c *changes) rules() {
	for _, f := range families {
		at := c.have.rules[f]
		rule := func(priority int) *netlink.Rule {
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority = f, unix.RT_TABLE_LOCAL, priority
			return r
		}
		if !slices.Contains(at, localLate) {
			c.add(func() error { return netlink.RuleAdd(rule(localLate)) }, "rule %s local at %d", familyName(f), localLate)
		}
		if slices.Contains(at, localEarly) {
			c.add(func() error { return netlink.RuleDel(rule(localEarly)) }, "no rule %s local at %d", familyName(f), localEarly)
		}
	}
}

func familyName(f int) string {
	if f == unix.AF_INET6 {
		return "ipv6"
	}
	return "ipv4"
}

func (c *changes) vrf(v KernelVRF) {
	have, exists := c.have.links[v.Name]
	if is, ok := have.(*netlink.Vrf); exists && (!ok || is.Table != v.Table) {
		c.remove(have)
		exists = false
	}
	if !exists {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = v.Name
		c.add(func() error { return netlink.LinkAdd(&netlink.Vrf{LinkAttrs: attrs, Table: v.Table}) }, "vrf %s table %d", v.Name, v.Table)
		return // the rest when it exists
	}
	c.up(have, v.Name, true)
	// A tenant's VRF needs none. What it has was put there by an operator, to
	// reach machines from here.
	c.addresses(have, v.Addresses, len(v.Addresses) > 0)
	for _, f := range families {
		if c.have.closed[closure{v.Table, f}] {
			continue
		}
		any := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if f == unix.AF_INET6 {
			any = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		r := &netlink.Route{Family: f, Table: int(v.Table), Type: unix.RTN_UNREACHABLE, Dst: any, Priority: lastMetric}
		c.add(func() error { return netlink.RouteReplace(r) }, "vrf %s: nothing %s beyond its table", v.Name, familyName(f))
	}
}

func (c *changes) tunnel(v KernelVRF, local netip.Addr) {
	vrf := c.have.links[v.Name]
	bridge, haveBridge := c.have.links[v.Bridge()]
	tunnel, haveTunnel := c.have.links[v.Tunnel()]
	if b, ok := bridge.(*netlink.Bridge); haveBridge && !ok {
		c.remove(bridge)
		haveBridge = false
	} else if ok && b.HardwareAddr.String() != v.RouterMAC.String() {
		c.add(func() error { return netlink.LinkSetHardwareAddr(bridge, v.RouterMAC) }, "bridge %s router-mac %s", v.Bridge(), v.RouterMAC)
	}
	if t, ok := tunnel.(*netlink.Vxlan); haveTunnel && (!ok || t.VxlanId != int(v.VNI) || t.Port != vxlanPort || t.Learning || !t.SrcAddr.Equal(local.AsSlice())) {
		c.remove(tunnel)
		haveTunnel = false
	}
	if !haveBridge {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = v.Bridge(), mtuMachine, v.RouterMAC
		snoop := false
		c.add(func() error {
			b := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}
			if err := netlink.LinkAdd(b); err != nil {
				return err
			}
			return noLinkLocal(b)
		}, "bridge %s", v.Bridge())
	}
	if !haveTunnel {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = v.Tunnel(), mtuMachine
		c.add(func() error {
			t := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(v.VNI), SrcAddr: local.AsSlice(), Port: vxlanPort}
			if err := netlink.LinkAdd(t); err != nil {
				return err
			}
			return noLinkLocal(t)
		}, "tunnel %s vni %d local %s", v.Tunnel(), v.VNI, local)
	}
	if haveBridge && vrf != nil {
		c.master(bridge, v.Name)
		c.up(bridge, v.Bridge(), true)
	}
	if haveTunnel && haveBridge {
		c.master(tunnel, v.Bridge())
		c.up(tunnel, v.Tunnel(), true)
	}
}

// vxlanPort is VXLAN's UDP port (RFC 7348).
const vxlanPort = 4789

// noLinkLocal keeps a device without addresses of its own.
func noLinkLocal(l netlink.Link) error { return netlink.LinkSetIP6AddrGenMode(l, 1) }

func (c *changes) link(l Link) {
	have, ok := c.have.links[l.Name]
	if !ok {
		c.add(func() error { return fault.New(fault.NotFound, "port "+l.Name, "is not on this switch", "") }, "port %s", l.Name)
		return
	}
	for _, s := range l.Sysctls {
		c.sysctl(s)
	}
	mtu := l.MTU
	if most, known := c.have.mtus[l.Name]; known {
		mtu = min(mtu, most)
	}
	if have.Attrs().MTU != mtu {
		c.add(func() error { return netlink.LinkSetMTU(have, mtu) }, "port %s mtu %d", l.Name, mtu)
	}
	if !l.Up {
		c.up(have, l.Name, false)
	}
	c.master(have, l.VRF)
	if l.Up {
		c.up(have, l.Name, true)
	}
	if !l.Uplink {
		c.addresses(have, l.Addresses, true)
	}
}

func (c *changes) master(l netlink.Link, want string) {
	name := l.Attrs().Name
	if c.have.master(l) == want {
		return
	}
	if want == "" {
		c.add(func() error { return netlink.LinkSetNoMaster(l) }, "%s out of %s", name, c.have.master(l))
		return
	}
	m, ok := c.have.links[want]
	if !ok {
		return // it is made first; the next comparison sees it
	}
	c.add(func() error { return netlink.LinkSetMasterByIndex(l, m.Attrs().Index) }, "%s into %s", name, want)
}

func (c *changes) up(l netlink.Link, name string, want bool) {
	if up := l.Attrs().Flags&net.FlagUp != 0; up == want {
		return
	}
	if want {
		c.add(func() error { return netlink.LinkSetUp(l) }, "%s up", name)
		return
	}
	c.add(func() error { return netlink.LinkSetDown(l) }, "%s down", name)
}

// addresses adds what is missing and, if all says that these are all, removes
// the rest. Nobody else can have the address of a router, so that nothing
// waits for duplicates to be detected.
func (c *changes) addresses(l netlink.Link, want []netip.Prefix, all bool) {
	name := l.Attrs().Name
	have := c.have.addrs[name]
	address := func(p netip.Prefix) *netlink.Addr {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		return a
	}
	for _, p := range have {
		if all && !slices.Contains(want, p) {
			c.add(func() error { return netlink.AddrDel(l, address(p)) }, "%s no address %s", name, p)
		}
	}
	for _, p := range want {
		if !slices.Contains(have, p) {
			c.add(func() error { return netlink.AddrReplace(l, address(p)) }, "%s address %s", name, p)
		}
	}
}

func (c *changes) remove(l netlink.Link) {
	c.add(func() error { return netlink.LinkDel(l) }, "no %s %s", l.Type(), l.Attrs().Name)
}

// strays takes out of our VRFs what does not belong there, and removes the
// VRFs, bridges and tunnels that are no longer wanted.
func (c *changes) strays(k Kernel) {
	keep := map[string]bool{}
	for _, v := range k.VRFs {
		keep[v.Name], keep[v.Bridge()], keep[v.Tunnel()] = true, true, true
	}
	for _, l := range k.Links {
		keep[l.Name] = true
	}
	var ports, devices []netlink.Link
	for _, name := range sortedNames(c.have.links) {
		l := c.have.links[name]
		switch {
		case keep[name]:
		case ours(l):
			devices = append(devices, l)
		case l.Attrs().MasterIndex != 0 && ours(c.have.links[c.have.master(l)]):
			ports = append(ports, l)
		}
	}
	for _, l := range ports {
		c.up(l, l.Attrs().Name, false)
		c.master(l, "")
	}
	for _, l := range devices {
		c.remove(l)
	}
}

// ours reports whether a device is one that Ingot makes for a VNI.
func ours(l netlink.Link) bool {
	switch d := l.(type) {
	case *netlink.Vrf:
		return d.Table > firstTable && d.Table <= firstTable+maxVNI
	case *netlink.Vxlan:
		return d.Name == fmt.Sprintf("vx%d", d.VxlanId)
	case *netlink.Bridge:
		var vni uint32
		_, err := fmt.Sscanf(d.Name, "br%d", &vni)
		return err == nil && d.Name == fmt.Sprintf("br%d", vni) && vni >= 1 && d.HardwareAddr != nil && d.HardwareAddr[0] == 2 && d.HardwareAddr[1] == 0
	}
	return false
}

func sortedNames(links map[string]netlink.Link) []string {
	var names []string
	for n := range links {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// settle changes the kernel until nothing is left to change. It goes on after
// an error, so that one missing port does not keep the others from moving.
func (k Kernel) settle() error {
	for round := 0; ; round++ {
		have, err := readNet()
		if err != nil {
			return err
		}
		todo := k.compare(have)
		if len(todo) == 0 {
			return nil
		}
		var errs []error
		for _, c := range todo {
			if err := c.do(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.what, err))
			}
		}
		if len(errs) > 0 && (len(errs) == len(todo) || round == 5) {
			return fault.Wrap(fault.Precondition, "kernel", "does not do as it is told", errors.Join(errs...))
		}
		if round == 5 {
			return fault.New(fault.Precondition, "kernel", "does not keep: "+todo[0].what, "look who else configures this interface")
		}
	}
}

package leaf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// table is Ingot's table in the netdev family; its chains hang on the ports'
// ingress, before routing and before the kernel's own neighbour discovery.
const table = "ingot"

// What one port may send to metal-boot, in packets: the switch's CPU answers
// these, and one server must not starve the others of it.
const (
	bootRate  = 1000 // per second
	bootBurst = 500
)

func (p *plan) acl(q port) ACL {
	a := ACL{Port: q.name, Class: q.class, rules: map[ingotv1.PortClass][]string{
		ingotv1.PortClass_PORT_CLASS_DOWN: nil, // everything is dropped
	}}
	if q.prefix.IsValid() {
		a.rules[ingotv1.PortClass_PORT_CLASS_BOOT] = p.bootRules(q)
		a.rules[ingotv1.PortClass_PORT_CLASS_SERVICE] = p.serviceRules(q)
	}
	if q.class == ingotv1.PortClass_PORT_CLASS_MACHINE {
		a.rules[q.class] = machineRules(q)
	}
	return a
}

// lldpFrames are consumed by the switch itself and never forwarded.
const lldpFrames = "ether type 0x88cc accept"

// bootRules let a server without an owner reach metal-boot and the image
// cache and nothing else. Their order is that of MEP-20's boot network: what
// keeps neighbour discovery alive (RFC 4861, RFC 4890) comes before what
// denies. Router advertisements, DHCPv6, other ports and all of IPv4 meet no
// rule and are dropped.
func (p *plan) bootRules(q port) []string {
	b := p.boot
	rules := []string{
		lldpFrames,
		"icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
		"icmpv6 type { packet-too-big, destination-unreachable, time-exceeded } accept",
		fmt.Sprintf("ip6 saddr != { %s, fe80::/10, :: } counter drop", q.prefix),
		fmt.Sprintf("ip6 daddr %s limit rate over %d/second burst %d packets counter drop", b.address, bootRate, bootBurst),
		fmt.Sprintf("ip6 daddr %s tcp dport { 53, 80, 443 } counter accept", b.address),
		fmt.Sprintf("ip6 daddr %s udp dport { 53, 123 } counter accept", b.address),
	}
	if len(b.caches) > 0 {
		rules = append(rules, fmt.Sprintf("ip6 daddr { %s } tcp dport { 80, 443 } counter accept", join(b.caches)))
	}
	return append(rules, "counter drop")
}

// serviceRules are those of a boot port for a management server that answers:
// its image cache sends what it was asked for, and begins nothing.
func (p *plan) serviceRules(q port) []string {
	rules := p.bootRules(q)
	answer := "tcp sport { 80, 443 } tcp flags & (syn | ack) != syn counter accept"
	return append(rules[:len(rules)-1], answer, "counter drop")
}

// machineRules let a machine use the addresses it was given. To the switch
// itself it may speak neighbour discovery and BGP; its router advertisements
// are how BGP unnumbered finds it, and the switch takes nothing else from them.
func machineRules(q port) []string {
	rules := []string{
		lldpFrames,
		"icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
		"ip6 saddr fe80::/10 ip6 daddr fe80::/10 tcp dport 179 accept",
		"ip6 saddr fe80::/10 ip6 daddr fe80::/10 tcp sport 179 accept",
		"ip6 saddr fe80::/10 ip6 daddr fe80::/10 icmpv6 type { packet-too-big, destination-unreachable, time-exceeded, echo-request, echo-reply } accept",
		"ip6 daddr { fe80::/10, ff00::/8 } counter drop",
	}
	for _, v6 := range []bool{false, true} {
		accept := ofFamily(q.accept, v6)
		if len(accept) == 0 {
			continue
		}
		ip := "ip"
		if v6 {
			ip = "ip6"
		}
		rules = append(rules, fmt.Sprintf("%s saddr { %s } accept", ip, join(accept)))
	}
	return append(rules, "counter drop")
}

func join(all []netip.Prefix) string {
	var s []string
	for _, p := range all {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}

// chain is the name of a port's chain. It says the class, so that what is in
// effect can be read back from the kernel.
func chain(class ingotv1.PortClass, port string) string { return className(class) + "-" + port }

// A Ruleset is the table for nft(8), complete: loading it replaces the table
// in one transaction.
type Ruleset struct {
	Text string
	// ID is a digest of the rules; the kernel keeps it as the table's comment.
	ID string
	// Rules are the number of rules by chain.
	Rules map[string]int
}

// Ruleset returns the table that binds to each port the ACL of its class, and
// the boot network's to those in hold: they are in the boot VRF still. Ports
// that are not in present are left out, since nothing can be bound to them.
func (f Files) Ruleset(present, hold map[string]bool) Ruleset {
	r := Ruleset{Rules: map[string]int{}}
	var t text
	for _, a := range f.ACLs {
		if !present[a.Port] {
			continue
		}
		class := a.Class
		if _, ok := a.rules[ingotv1.PortClass_PORT_CLASS_BOOT]; ok && hold[a.Port] {
			class = ingotv1.PortClass_PORT_CLASS_BOOT
		}
		name := chain(class, a.Port)
		t.line("\tchain %s {\n\t\ttype filter hook ingress device %q priority 0; policy drop;", name, a.Port)
		for _, rule := range a.rules[class] {
			t.line("\t\t%s", rule)
		}
		t.line("\t}")
		r.Rules[name] = len(a.rules[class])
	}
	sum := sha256.Sum256(t.Bytes())
	r.ID = "ingot " + hex.EncodeToString(sum[:12])
	r.Text = fmt.Sprintf("table netdev %[1]s\ndelete table netdev %[1]s\ntable netdev %[1]s {\n\tcomment %[2]q\n%[3]s}\n", table, r.ID, t.String())
	return r
}

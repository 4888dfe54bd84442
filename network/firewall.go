package network

import (
	"net/netip"
	"strconv"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/ipam"
)

// CheckFirewallRules checks the rules a firewall is allocated with: every CIDR
// must be one, and those of one rule must be of one address family.
func CheckFirewallRules(rules *apiv2.FirewallRules) error {
	for _, r := range rules.GetEgress() {
		if err := checkRule("egress", r.GetPorts(), r.GetTo()); err != nil {
			return err
		}
	}
	for _, r := range rules.GetIngress() {
		if err := checkRule("ingress", r.GetPorts(), append(append([]string{}, r.GetFrom()...), r.GetTo()...)); err != nil {
			return err
		}
	}
	return nil
}

func checkRule(direction string, ports []uint32, cidrs []string) error {
	for _, p := range ports {
		if p > 65535 {
			return invalid("%s rule with error:port %d is out of range", direction, p)
		}
	}
	var ps []netip.Prefix
	for _, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return invalid("%s rule with error:invalid cidr: %v", direction, err)
		}
		ps = append(ps, p)
	}
	if has(ps, v4) && has(ps, v6) {
		return invalid("%s rule with error:mixed address family in one rule is not supported:%v", direction, cidrs)
	}
	return nil
}

// firewallFilter returns what a firewall may announce: its addresses in the
// underlay, and by EVPN the VNIs of its networks.
func firewallFilter(a *apiv2.MachineAllocation) *apiv2.BGPFilter {
	f := &apiv2.BGPFilter{}
	for _, n := range a.GetNetworks() {
		if n.GetNetworkType() != underlay {
			f.Vnis = append(f.Vnis, strconv.FormatUint(n.GetVrf(), 10))
			continue
		}
		for _, ip := range n.GetIps() {
			f.Cidrs = append(f.Cidrs, ipam.Host(netip.MustParseAddr(ip)).String())
		}
	}
	return f
}

package network

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/ipam"
	"github.com/ingot-cloud/ingot/store"
)

// Usage returns what was taken from a network, per address family, without
// looking at what it was. The first address of a prefix, and the last one of an
// IPv4 prefix, count as used. Available prefixes are counted in blocks of four
// addresses, the smallest that can hold two hosts.
func Usage(r store.Reader, n *apiv2.Network) *apiv2.NetworkConsumption {
	var c apiv2.NetworkConsumption
	for _, p := range prefixesOf(n) {
		u := &c.Ipv4
		if p.Addr().Is6() {
			u = &c.Ipv6
		}
		if *u == nil {
			*u = &apiv2.NetworkUsage{}
		}
		size, reserved := ipam.Size(p), uint64(1)
		if p.Addr().Is4() {
			reserved = min(2, size)
		}
		(*u).AvailableIps = saturate((*u).AvailableIps, size)
		(*u).UsedIps += reserved
		(*u).AvailablePrefixes = saturate((*u).AvailablePrefixes, size/4)
		if !isSuper(n.GetType()) {
			(*u).UsedIps += uint64(addressesIn(r, n.GetNamespace(), p))
			continue
		}
		for l := p.Bits() + 1; l <= p.Addr().BitLen(); l++ {
			used := uint64(space{super: n.GetId()}.between(r, l, p.Addr(), ipam.Last(p)))
			(*u).UsedPrefixes += used
			block := ipam.Size(p) >> (l - p.Bits()) / 4
			(*u).AvailablePrefixes -= min((*u).AvailablePrefixes, used*block)
		}
	}
	return &c
}

func saturate(a, b uint64) uint64 {
	if s := a + b; s >= a {
		return s
	}
	return ^uint64(0)
}

// HasFamily reports whether a network has the prefixes that a query for an
// address family asks for.
func HasFamily(n *apiv2.Network, f apiv2.NetworkAddressFamily) bool {
	ps := prefixesOf(n)
	switch f {
	case apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V4:
		return has(ps, v4)
	case apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V6:
		return has(ps, v6)
	case apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_DUAL_STACK:
		return has(ps, v4) && has(ps, v6)
	}
	return true
}

// IsBase reports whether a project can take addresses or child networks from a
// network: it is its own or everybody's.
func IsBase(n *apiv2.Network, project string) bool {
	switch n.GetType() {
	case childShared, external, super, namespaced:
		return n.Project == nil || n.GetProject() == project
	}
	return false
}

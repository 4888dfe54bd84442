package records

import (
	"fmt"
	"net/netip"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// A pool is a table of taken values. Its keys sort like the values and have a
// fixed width, so that the store finds the lowest free one from its counts.

// ASNs are the AS numbers of leaves and of allocations.
var ASNs = pool("asn", func(t *privatev1.Taken) []string { return []string{t.GetOwner()} })

// ASNKey returns the key in ASNs.
func ASNKey(asn uint32) string { return store.Ordered(uint64(asn)) }

// VNIs are the VXLAN network identifiers, and with them the VRFs, in use in one
// partition, or below the empty partition in all of them.
var VNIs = store.NewTable(store.Table[*privatev1.Taken]{
	Name: "vni",
	Key:  func(t *privatev1.Taken) string { return t.GetKey() },
	Indexes: map[string]func(*privatev1.Taken) []string{
		"number": func(t *privatev1.Taken) []string { return []string{t.GetKey()[len(t.GetKey())-len(store.Ordered(0)):]} },
	},
})

// VNIKey returns the key in VNIs.
func VNIKey(partition string, vni uint32) string { return Key(partition, store.Ordered(uint64(vni))) }

// BootPrefixes are the /56 of the boot network that leaves have, by their first
// address.
var BootPrefixes = pool("bootprefix", nil)

// Loopbacks are the addresses of leaves in the underlay.
var Loopbacks = pool("loopback", nil)

// ChildPrefixes are the prefixes that child networks have taken from a super
// network.
var ChildPrefixes = pool("childprefix", nil)

// ChildPrefixKey returns the key in ChildPrefixes: prefixes of one length are
// next to each other, in ascending order.
func ChildPrefixKey(super, namespace string, p netip.Prefix) string {
	return Key(super, namespace, fmt.Sprintf("%d.%03d", family(p.Addr()), p.Bits()), store.OrderedAddr(p.Addr()))
}

// Claims are the places that only one may have: the super network of a
// partition, the shared network of a project.
var Claims = pool("claim", nil)

func pool(name string, owner func(*privatev1.Taken) []string) *store.Table[*privatev1.Taken] {
	t := store.Table[*privatev1.Taken]{
		Name: name,
		Key:  func(t *privatev1.Taken) string { return t.GetKey() },
	}
	if owner != nil {
		t.Indexes = map[string]func(*privatev1.Taken) []string{"owner": owner}
	}
	return store.NewTable(t)
}

// family returns 4 or 6. Keys of the two families must not mix, because an IPv4
// address sorts into the middle of the IPv6 addresses that begin with it.
func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

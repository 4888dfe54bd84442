package records

import (
	"net/netip"
	"strconv"

	"github.com/metal-stack/api/go/tag"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// IPs are the addresses taken from networks. One without a project is in
// quarantine: nobody has it, but the machine that had it may still use it.
var IPs = store.NewTable(store.Table[*apiv2.IP]{
	Name: "ip",
	Key: func(ip *apiv2.IP) string {
		a, err := netip.ParseAddr(ip.GetIp())
		if err != nil {
			return "" // which the store refuses
		}
		return IPKey(ip.GetNamespace(), a)
	},
	Indexes: map[string]func(*apiv2.IP) []string{
		"uuid":    func(ip *apiv2.IP) []string { return []string{ip.GetUuid()} },
		"network": func(ip *apiv2.IP) []string { return []string{ip.GetNetwork()} },
		"project": func(ip *apiv2.IP) []string { return some(ip.GetProject()) },
		// A project's addresses in one network, by IPShareKey.
		"share":   func(ip *apiv2.IP) []string { return []string{IPShareKey(ip.GetNetwork(), ip.GetProject())} },
		"machine": func(ip *apiv2.IP) []string { return some(ip.GetMeta().GetLabels().GetLabels()[tag.MachineID]) },
	},
	Stamp: stamp(func(ip *apiv2.IP) **apiv2.Meta { return &ip.Meta }),
})

// IPKey returns the key in IPs. Namespaces have addresses of their own; the
// empty one is everybody's.
func IPKey(namespace string, a netip.Addr) string {
	return Key(namespace, strconv.Itoa(family(a.Unmap())), store.OrderedAddr(a))
}

// IPShareKey returns the value of the index "share".
func IPShareKey(network, project string) string { return Key(network, project) }

// some returns the values that are not empty.
func some(values ...string) []string {
	var out []string
	for _, v := range values {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

package records

import (
	"net"
	"net/netip"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// BMCs are those an operator told us of or a site discovered, by partition and
// id; without passwords, which are Secrets, and without status, which is in
// BMCStatuses. The indexes "mac" and "host" have what BMCKey makes of the
// partition and the BMC's own network card, or its address without the port.
var BMCs = store.NewTable(store.Table[*ingotv1.BMC]{
	Name: "bmc",
	Key:  func(b *ingotv1.BMC) string { return BMCKey(b.GetPartition(), b.GetId()) },
	Indexes: map[string]func(*ingotv1.BMC) []string{
		"partition": func(b *ingotv1.BMC) []string { return []string{b.GetPartition()} },
		"mac":       func(b *ingotv1.BMC) []string { return []string{BMCKey(b.GetPartition(), b.GetMac())} },
		"host": func(b *ingotv1.BMC) []string {
			return []string{BMCKey(b.GetPartition(), BMCHost(b))}
		},
	},
	Stamp: stamp(func(b *ingotv1.BMC) **apiv2.Meta { return &b.Meta }),
})

// BMCKey returns the key in BMCs and BMCStatuses.
func BMCKey(partition, id string) string { return Key(partition, id) }

// BMCHost returns the address of a BMC without its port.
func BMCHost(b *ingotv1.BMC) string {
	host, _, _ := net.SplitHostPort(b.GetAddress())
	return host
}

// BMCStatuses are what the sites found at the BMCs. The index "machine" has
// the BMC of a machine, "mac" the BMC that says a network card is its own, by
// partition and card.
var BMCStatuses = store.NewTable(store.Table[*privatev1.BMCStatus]{
	Name: "bmc-status",
	Key:  func(b *privatev1.BMCStatus) string { return BMCKey(b.GetPartition(), b.GetId()) },
	Indexes: map[string]func(*privatev1.BMCStatus) []string{
		"machine": func(b *privatev1.BMCStatus) []string { return []string{b.GetStatus().GetMachine()} },
		"mac": func(b *privatev1.BMCStatus) []string {
			var all []string
			for _, mac := range b.GetStatus().GetMacs() {
				all = append(all, BMCKey(b.GetPartition(), mac))
			}
			return all
		},
	},
})

// MachineBMCs are what was last found at the BMC of each machine, by the
// machine's uuid. The index "ip" has the BMC's address without its port.
var MachineBMCs = store.NewTable(store.Table[*privatev1.MachineBMC]{
	Name: "machine-bmc",
	Key:  func(b *privatev1.MachineBMC) string { return b.GetUuid() },
	Indexes: map[string]func(*privatev1.MachineBMC) []string{
		"ip": func(b *privatev1.MachineBMC) []string {
			a, err := netip.ParseAddrPort(b.GetReport().GetBmc().GetAddress())
			if err != nil {
				return nil
			}
			return []string{a.Addr().String()}
		},
	},
})

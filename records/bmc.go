package records

import (
	"net/netip"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// BMCs are those an operator told us of, by partition and id; without
// passwords, which are Secrets, and without status, which is in BMCStatuses.
var BMCs = store.NewTable(store.Table[*ingotv1.BMC]{
	Name: "bmc",
	Key:  func(b *ingotv1.BMC) string { return BMCKey(b.GetPartition(), b.GetId()) },
	Indexes: map[string]func(*ingotv1.BMC) []string{
		"partition": func(b *ingotv1.BMC) []string { return []string{b.GetPartition()} },
	},
	Stamp: stamp(func(b *ingotv1.BMC) **apiv2.Meta { return &b.Meta }),
})

// BMCKey returns the key in BMCs and BMCStatuses.
func BMCKey(partition, id string) string { return Key(partition, id) }

// BMCStatuses are what the sites found at the BMCs. The index "machine" has
// the BMC of a machine.
var BMCStatuses = store.NewTable(store.Table[*privatev1.BMCStatus]{
	Name: "bmc-status",
	Key:  func(b *privatev1.BMCStatus) string { return BMCKey(b.GetPartition(), b.GetId()) },
	Indexes: map[string]func(*privatev1.BMCStatus) []string{
		"machine": func(b *privatev1.BMCStatus) []string { return []string{b.GetStatus().GetMachine()} },
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

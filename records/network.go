package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Networks are all networks, by id. Consumption is computed when asked for and
// not stored. One with a deletion task is being deleted: nothing new may depend
// on it.
var Networks = store.NewTable(store.Table[*apiv2.Network]{
	Name: "network",
	Key:  func(n *apiv2.Network) string { return n.GetId() },
	Indexes: map[string]func(*apiv2.Network) []string{
		"parent":    func(n *apiv2.Network) []string { return some(n.GetParentNetwork()) },
		"partition": func(n *apiv2.Network) []string { return some(n.GetPartition()) },
		"project":   func(n *apiv2.Network) []string { return some(n.GetProject()) },
		// Networks that take their prefixes from no other.
		"root": func(n *apiv2.Network) []string {
			if n.GetParentNetwork() != "" {
				return nil
			}
			return []string{n.GetType().String()}
		},
	},
	Stamp: stamp(func(n *apiv2.Network) **apiv2.Meta { return &n.Meta }),
})

package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Partitions are the places machines stand in, by id.
var Partitions = store.NewTable(store.Table[*apiv2.Partition]{
	Name:  "partition",
	Key:   func(p *apiv2.Partition) string { return p.GetId() },
	Stamp: stamp(func(p *apiv2.Partition) **apiv2.Meta { return &p.Meta }),
})

package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Fabrics are the plans of the partitions' boot networks and leaves, by
// partition.
var Fabrics = store.NewTable(store.Table[*ingotv1.Fabric]{
	Name:  "fabric",
	Key:   func(f *ingotv1.Fabric) string { return f.GetPartition() },
	Stamp: stamp(func(f *ingotv1.Fabric) **apiv2.Meta { return &f.Meta }),
	Label: func(partition string) string { return "of partition " + partition },
})

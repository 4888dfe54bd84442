package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// SizeImageConstraints say which images a size can run, by size.
var SizeImageConstraints = store.NewTable(store.Table[*apiv2.SizeImageConstraint]{
	Name:  "sizeimageconstraint",
	Key:   func(c *apiv2.SizeImageConstraint) string { return c.GetSize() },
	Stamp: stamp(func(c *apiv2.SizeImageConstraint) **apiv2.Meta { return &c.Meta }),
})

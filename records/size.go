package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Sizes are the kinds of hardware, by id.
var Sizes = store.NewTable(store.Table[*apiv2.Size]{
	Name:  "size",
	Key:   func(s *apiv2.Size) string { return s.GetId() },
	Stamp: stamp(func(s *apiv2.Size) **apiv2.Meta { return &s.Meta }),
})

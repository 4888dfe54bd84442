package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// SizeReservations keep machines of a size for a project, by uuid.
var SizeReservations = store.NewTable(store.Table[*apiv2.SizeReservation]{
	Name: "sizereservation",
	Key:  func(s *apiv2.SizeReservation) string { return s.GetId() },
	Indexes: map[string]func(*apiv2.SizeReservation) []string{
		"size":      func(s *apiv2.SizeReservation) []string { return []string{s.GetSize()} },
		"project":   func(s *apiv2.SizeReservation) []string { return []string{s.GetProject()} },
		"partition": func(s *apiv2.SizeReservation) []string { return s.GetPartitions() },
	},
	Stamp: stamp(func(s *apiv2.SizeReservation) **apiv2.Meta { return &s.Meta }),
})

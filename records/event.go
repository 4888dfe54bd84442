package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Events are the newest events of each machine, by its uuid.
var Events = store.NewTable(store.Table[*privatev1.Events]{
	Name: "event",
	Key:  func(e *privatev1.Events) string { return e.GetUuid() },
})

// Sightings are when machines were last heard of, by source.
var Sightings = store.NewTable(store.Table[*privatev1.Sightings]{
	Name: "sighting",
	Key:  func(s *privatev1.Sightings) string { return s.GetKey() },
})

package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Hardware is what the agent found in each machine, by its uuid.
var Hardware = store.NewTable(store.Table[*privatev1.Hardware]{
	Name: "hardware",
	Key:  func(h *privatev1.Hardware) string { return h.GetUuid() },
})

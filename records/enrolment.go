package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Enrolments are the one-time secrets not redeemed yet, by their SHA-256.
var Enrolments = store.NewTable(store.Table[*privatev1.Enrolment]{
	Name:  "enrolment",
	Key:   func(e *privatev1.Enrolment) string { return e.GetHash() },
	Label: func(string) string { return "secret" },
})

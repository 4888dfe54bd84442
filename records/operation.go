package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Operations are the newest action on the BMC of each machine, by the
// machine's uuid: one key, so that never two run at a time. The index "open"
// has those of a partition that have not ended.
var Operations = store.NewTable(store.Table[*privatev1.Operation]{
	Name: "operation",
	Key:  func(o *privatev1.Operation) string { return o.GetOperation().GetMachine() },
	Indexes: map[string]func(*privatev1.Operation) []string{
		"id": func(o *privatev1.Operation) []string { return []string{o.GetOperation().GetId()} },
		"open": func(o *privatev1.Operation) []string {
			if o.GetOperation().GetDone() != nil {
				return nil
			}
			return []string{o.GetPartition()}
		},
	},
})

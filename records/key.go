package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Keys are the private keys of the control plane, below their use: "token",
// "ca" and "wipe".
var Keys = store.NewTable(store.Table[*privatev1.Key]{
	Name: "key",
	Key:  func(k *privatev1.Key) string { return Key(k.GetUse(), k.GetId()) },
})

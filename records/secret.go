package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Secrets are what was cut out of other records, sealed, by the id those have
// here: UserdataKey, ConsoleKey, BMCPasswordKey, BMCOwnKey, BMCFormerKey,
// MachineBMCPasswordKey.
var Secrets = store.NewTable(store.Table[*privatev1.Sealed]{
	Name: "secret",
	Key:  func(s *privatev1.Sealed) string { return s.GetId() },
})

// UserdataKey returns the key of an allocation's userdata in Secrets.
func UserdataKey(allocation string) string { return Key("userdata", allocation) }

// ConsoleKey returns the key of an allocation's console password in Secrets.
func ConsoleKey(allocation string) string { return Key("console", allocation) }

// BMCPasswordKey returns the key of an operator's BMC password in Secrets.
func BMCPasswordKey(partition, id string) string { return Key("bmc", partition, id) }

// BMCOwnKey returns the key of Ingot's own account at a BMC in Secrets.
func BMCOwnKey(partition, id string) string { return Key("bmc", partition, id, "own") }

// BMCFormerKey returns the key of that account with the password before.
func BMCFormerKey(partition, id string) string { return Key("bmc", partition, id, "former") }

// MachineBMCPasswordKey returns the key in Secrets of the password that the v2
// API reported for the BMC of a machine.
func MachineBMCPasswordKey(uuid string) string { return Key("machine-bmc", uuid) }

package records

import (
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Switches are what switches and operators said of switches, by id. What
// changes with every report, what is computed, and the machines behind the
// ports are records of their own.
var Switches = store.NewTable(store.Table[*apiv2.Switch]{
	Name: "switch",
	Key:  func(s *apiv2.Switch) string { return s.GetId() },
	Indexes: map[string]func(*apiv2.Switch) []string{
		"partition": func(s *apiv2.Switch) []string { return []string{s.GetPartition()} },
		"rack":      func(s *apiv2.Switch) []string { return some(s.GetRack()) },
	},
	Stamp: stamp(func(s *apiv2.Switch) **apiv2.Meta { return &s.Meta }),
})

// SwitchSyncs are the newest reports of switches, by switch.
var SwitchSyncs = store.NewTable(store.Table[*privatev1.SwitchSync]{
	Name: "switchsync",
	Key:  func(s *privatev1.SwitchSync) string { return s.GetSwitch() },
})

// Connections are the ports that lead to machines.
var Connections = store.NewTable(store.Table[*privatev1.Connection]{
	Name: "connection",
	Key:  func(c *privatev1.Connection) string { return PortKey(c.GetSwitch(), c.GetPort()) },
	Indexes: map[string]func(*privatev1.Connection) []string{
		"machine": func(c *privatev1.Connection) []string { return []string{c.GetMachine()} },
	},
})

// Leaves are what switches took from the plan of their partition, by switch.
var Leaves = store.NewTable(store.Table[*privatev1.Leaf]{
	Name: "leaf",
	Key:  func(l *privatev1.Leaf) string { return l.GetSwitch() },
	Indexes: map[string]func(*privatev1.Leaf) []string{
		"partition": func(l *privatev1.Leaf) []string { return []string{l.GetPartition()} },
	},
})

// LeafPorts are the ports as leaves last reported them.
var LeafPorts = store.NewTable(store.Table[*privatev1.LeafPort]{
	Name: "leafport",
	Key:  func(p *privatev1.LeafPort) string { return PortKey(p.GetSwitch(), p.GetPort()) },
})

// LeafGenerations count the configurations leaves were to have, by switch.
var LeafGenerations = store.NewTable(store.Table[*privatev1.LeafGeneration]{
	Name: "leafgeneration",
	Key:  func(g *privatev1.LeafGeneration) string { return g.GetSwitch() },
})

// PortKey returns the key of a port in Connections and LeafPorts; that of the
// empty port is the prefix of all ports of the switch.
func PortKey(switchID, port string) string { return Key(switchID, port) }

// SwitchOfPort returns the switch in a PortKey.
func SwitchOfPort(key string) string {
	id, _, _ := strings.Cut(key, "/")
	return unescape.Replace(id)
}

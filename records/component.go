package records

import (
	"strconv"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Components are the programs that told us they are alive, one record per type
// and identifier.
var Components = store.NewTable(store.Table[*apiv2.Component]{
	Name: "component",
	Key:  func(c *apiv2.Component) string { return ComponentKey(c.GetType(), c.GetIdentifier()) },
	Indexes: map[string]func(*apiv2.Component) []string{
		"uuid": func(c *apiv2.Component) []string { return []string{c.GetUuid()} },
	},
	Stamp: stamp(func(c *apiv2.Component) **apiv2.Meta { return &c.Meta }),
})

// ComponentKey returns the key in Components.
func ComponentKey(t apiv2.ComponentType, identifier string) string {
	return Key(strconv.Itoa(int(t)), identifier)
}

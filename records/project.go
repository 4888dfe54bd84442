package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Projects are what a tenant's machines, networks and addresses belong to, by
// uuid.
var Projects = store.NewTable(store.Table[*apiv2.Project]{
	Name: "project",
	Key:  func(p *apiv2.Project) string { return p.GetUuid() },
	Indexes: map[string]func(*apiv2.Project) []string{
		"tenant": func(p *apiv2.Project) []string { return []string{p.GetTenant()} },
	},
	Stamp: stamp(func(p *apiv2.Project) **apiv2.Meta { return &p.Meta }),
})

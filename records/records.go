// Package records names the tables: for every stored message its key, its
// indexes and how it is stamped. There is one file per resource and no logic.
//
// A message of the v2 API is stored as it is, unless parts of it are written by
// different hands or must never be listed: those are records of
// ingot.private.v1.
package records

import (
	"strings"

	"github.com/ingot-cloud/ingot/store"
)

// Tables returns every table, for store.Options.
func Tables() []store.AnyTable {
	return []store.AnyTable{
		ASNs,
		Allocations,
		BMCStatuses,
		BMCs,
		BootPrefixes,
		BootWindows,
		Boots,
		CachedImages,
		ChildPrefixes,
		Claims,
		Components,
		Connections,
		Enrolments,
		Events,
		Fabrics,
		FilesystemLayouts,
		Hardware,
		IPs,
		ImageSources,
		Images,
		Invites,
		Keys,
		LeafGenerations,
		LeafPorts,
		Leaves,
		Loopbacks,
		MachineBMCs,
		Machines,
		Networks,
		Operations,
		Partitions,
		ProjectMembers,
		Projects,
		Reclaims,
		Secrets,
		Sightings,
		Sites,
		SizeImageConstraints,
		SizeReservations,
		Sizes,
		SwitchSyncs,
		Switches,
		TenantMembers,
		Tenants,
		Tokens,
		VNIs,
		Wipes,
	}
}

var (
	escape   = strings.NewReplacer("%", "%25", "/", "%2F")
	unescape = strings.NewReplacer("%25", "%", "%2F", "/")
)

// Key joins the parts of a key with slashes. A slash in a part other than the
// last is escaped, so that different parts never make the same key.
func Key(parts ...string) string {
	var b strings.Builder
	for i, p := range parts {
		if i == len(parts)-1 {
			b.WriteString(p)
			break
		}
		b.WriteString(escape.Replace(p))
		b.WriteByte('/')
	}
	return b.String()
}

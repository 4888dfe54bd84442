package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// FilesystemLayouts say how the disks of a machine are divided, by id.
var FilesystemLayouts = store.NewTable(store.Table[*apiv2.FilesystemLayout]{
	Name:  "filesystemlayout",
	Key:   func(l *apiv2.FilesystemLayout) string { return l.GetId() },
	Stamp: stamp(func(l *apiv2.FilesystemLayout) **apiv2.Meta { return &l.Meta }),
})

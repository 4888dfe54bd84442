package records

import (
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// Boots are the newest boot of each machine, by its uuid.
var Boots = store.NewTable(store.Table[*privatev1.Boot]{
	Name: "boot",
	Key:  func(b *privatev1.Boot) string { return b.GetUuid() },
})

// BootWindows are the newest boot window of each machine, by its uuid.
var BootWindows = store.NewTable(store.Table[*ingotv1.BootWindow]{
	Name: "boot-window",
	Key:  func(w *ingotv1.BootWindow) string { return w.GetUuid() },
})

// Sites are what the management servers serve, by partition.
var Sites = store.NewTable(store.Table[*ingotv1.Site]{
	Name: "site",
	Key:  func(s *ingotv1.Site) string { return s.GetPartition() },
})

// CachedImages are the images in the partitions' caches, by CachedImageKey.
var CachedImages = store.NewTable(store.Table[*privatev1.CachedImage]{
	Name: "cached-image",
	Key:  func(c *privatev1.CachedImage) string { return CachedImageKey(c.GetPartition(), c.GetImage()) },
})

// CachedImageKey returns the key in CachedImages.
func CachedImageKey(partition, image string) string { return Key(partition, image) }

package records

import (
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
)

// Images are the operating systems that can be installed, by id. The index
// "os" has all versions of one.
var Images = store.NewTable(store.Table[*apiv2.Image]{
	Name: "image",
	Key:  func(i *apiv2.Image) string { return i.GetId() },
	Indexes: map[string]func(*apiv2.Image) []string{
		"os": func(i *apiv2.Image) []string { return []string{ImageOS(i.GetId())} },
	},
	Stamp: stamp(func(i *apiv2.Image) **apiv2.Meta { return &i.Meta }),
})

// ImageOS returns the value of the index "os": an image's id up to its last
// dash.
func ImageOS(id string) string {
	if i := strings.LastIndexByte(id, '-'); i >= 0 {
		return id[:i]
	}
	return id
}

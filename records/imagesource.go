package records

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/store"
)

// ImageSources say what the files behind the images' urls must be, by image.
var ImageSources = store.NewTable(store.Table[*ingotv1.ImageSource]{
	Name:  "imagesource",
	Key:   func(s *ingotv1.ImageSource) string { return s.GetImage() },
	Stamp: stamp(func(s *ingotv1.ImageSource) **apiv2.Meta { return &s.Meta }),
})

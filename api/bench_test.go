package api_test

import (
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
)

// One call of a member over TLS: authenticated, authorized, validated, read.
func BenchmarkGet(b *testing.B) {
	w := newWorld(b)
	p := w.project(w.tenant("t1"))
	c := dial(w, apiv2connect.NewProjectServiceClient, w.member(p, viewer))
	for b.Loop() {
		if _, err := c.Get(b.Context(), &apiv2.ProjectServiceGetRequest{Project: p}); err != nil {
			b.Fatal(err)
		}
	}
}

package api_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"
)

func ping(id string) *infrav2.ComponentServicePingRequest {
	return &infrav2.ComponentServicePingRequest{
		Type:       apiv2.ComponentType_COMPONENT_TYPE_METAL_CORE,
		Identifier: id,
		StartedAt:  timestamppb.New(time.Unix(1, 0)),
		Interval:   durationpb.New(time.Minute),
		Version:    &apiv2.Version{Version: "v1"},
	}
}

func TestComponents(t *testing.T) {
	w := newWorld(t)
	pings := dial(w, infrav2connect.NewComponentServiceClient, w.admin)
	admin := dial(w, adminv2connect.NewComponentServiceClient, w.admin)
	list := func(q *apiv2.ComponentQuery) []*apiv2.Component {
		t.Helper()
		all, err := admin.List(t.Context(), &adminv2.ComponentServiceListRequest{Query: q})
		check(t, err)
		return all.GetComponents()
	}
	for _, id := range []string{"leaf1", "leaf2"} {
		_, err := pings.Ping(t.Context(), ping(id))
		check(t, err)
	}
	all := list(nil)
	if len(all) != 2 || all[0].GetUuid() < all[1].GetUuid() {
		t.Fatalf("list: %v", all)
	}
	one := list(&apiv2.ComponentQuery{Identifier: new("leaf1")})
	if len(one) != 1 || one[0].GetIdentifier() != "leaf1" {
		t.Fatalf("query: %v", one)
	}

	rev := w.db.Snapshot().Rev()
	_, err := pings.Ping(t.Context(), ping("leaf1"))
	check(t, err)
	if w.db.Snapshot().Rev() != rev {
		t.Error("a ping without news was written")
	}
	changed := ping("leaf1")
	changed.Version.Version = "v2"
	_, err = pings.Ping(t.Context(), changed)
	check(t, err)
	got, err := admin.Get(t.Context(), &adminv2.ComponentServiceGetRequest{Uuid: one[0].GetUuid()})
	check(t, err)
	if got.GetComponent().GetVersion().GetVersion() != "v2" || got.GetComponent().GetMeta().GetGeneration() != 1 {
		t.Errorf("after an upgrade: %v", got)
	}

	_, err = admin.Delete(t.Context(), &adminv2.ComponentServiceDeleteRequest{Uuid: one[0].GetUuid()})
	check(t, err)
	_, err = admin.Get(t.Context(), &adminv2.ComponentServiceGetRequest{Uuid: one[0].GetUuid()})
	wantCode(t, err, connect.CodeNotFound, "")
	w.clock.Advance(24 * time.Hour)
	if all := list(nil); len(all) != 0 {
		t.Errorf("a day after the last ping: %v", all)
	}
}

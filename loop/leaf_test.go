package loop_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/loop"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// leafStore has two leaves, each with machine m1 behind swp1, and a leaf without
// machines. m1 is allocated in network child of project p1.
func leafStore(t *testing.T) *store.DB {
	t.Helper()
	db := storetest.Open(t, records.Tables()...)
	change(t, db, func(tx *store.Tx) error {
		check(t, records.Partitions.Insert(tx, &apiv2.Partition{Id: "part"}))
		check(t, records.Projects.Insert(tx, &apiv2.Project{Uuid: "p1"}))
		_, err := network.PutFabric(tx, &ingotv1.Fabric{
			Partition: "part", BootSupernet: "fd00:b::/48", BootVni: 1000, BootAddress: "fd00:b::1", Loopbacks: "10.255.0.0/24", FirstAsn: 4200000001, AsnCount: 8,
		})
		return err
	})
	for _, id := range []string{"leaf1", "leaf2", "leaf3"} {
		change(t, db, func(tx *store.Tx) error {
			return network.RegisterLeaf(tx, &ingotv1.LeafServiceRegisterRequest{Switch: &apiv2.Switch{
				Id: id, Partition: "part", Nics: []*apiv2.SwitchNic{{Name: "swp1", Identifier: "1"}, {Name: "swp2", Identifier: "2"}},
			}})
		})
	}
	change(t, db, func(tx *store.Tx) error {
		for _, id := range []string{"leaf1", "leaf2"} {
			check(t, records.Connections.Insert(tx, &privatev1.Connection{Switch: id, Port: "swp1", Machine: "m1"}))
		}
		_, err := network.Create(tx, &adminv2.NetworkServiceCreateRequest{
			Id: proto.String("super"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Partition: proto.String("part"), Prefixes: []string{"10.0.0.0/16"},
			DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
		}, "")
		check(t, err)
		_, err = network.Create(tx, &adminv2.NetworkServiceCreateRequest{
			Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: proto.String("p1"), Partition: proto.String("part"),
		}, "child")
		check(t, err)
		networks, err := network.Attach(tx, network.Attachment{
			Machine: "m1", Allocation: "a1", Name: "m1", Project: "p1", Partition: "part",
			Networks: []*apiv2.MachineAllocationNetwork{{Network: "child"}}, NewID: func() string { return "ip1" },
		})
		check(t, err)
		return records.Allocations.Insert(tx, &privatev1.Allocation{Machine: "m1", Allocation: &apiv2.MachineAllocation{Uuid: "a1", Project: "p1", Networks: networks}})
	})
	return db
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, db *store.DB, fn func(*store.Tx) error) {
	t.Helper()
	check(t, db.Update(t.Context(), fn))
}

// Every kind of change concerns the leaves it is about, and no others.
func TestLeavesConcerns(t *testing.T) {
	db := leafStore(t)
	both := []string{"leaf1", "leaf2"}
	value := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		check(t, err)
		return b
	}
	for _, c := range []struct {
		e    store.Event
		want []string
	}{
		{store.Event{Table: "leaf", Key: "leaf3"}, []string{"leaf3"}},
		{store.Event{Table: "leaf", Key: "leaf3", Value: value(&privatev1.Leaf{Switch: "leaf3", Partition: "part"})}, []string{"leaf1", "leaf2", "leaf3"}},
		{store.Event{Table: "switch", Key: "leaf3"}, []string{"leaf3"}},
		{store.Event{Table: "connection", Key: records.PortKey("leaf3", "swp1")}, []string{"leaf3"}},
		{store.Event{Table: "allocation", Key: "m1"}, both},
		{store.Event{Table: "allocation", Key: "m2"}, nil},
		{store.Event{Table: "fabric", Key: "part"}, []string{"leaf1", "leaf2", "leaf3"}},
		{store.Event{Table: "network", Key: "child"}, both},
		{store.Event{Table: "network", Key: "super"}, both},
		{store.Event{Table: "network", Key: "other"}, nil},
		{store.Event{Table: "ip", Value: value(&apiv2.IP{Project: "p1"})}, both},
		{store.Event{Table: "ip", Old: value(&apiv2.IP{Project: "p1"}), Deleted: true}, both},
		{store.Event{Table: "ip", Value: value(&apiv2.IP{Project: "p2"})}, nil},
	} {
		got := slices.Sorted(loop.Leaves(db).Concerns(db.Snapshot(), c.e))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %s concerns %v, want %v", c.e.Table, c.e.Key, got, c.want)
		}
	}
}

// A step counts a configuration once, and a switch that is no leaf is no error.
func TestLeavesStep(t *testing.T) {
	db := leafStore(t)
	l := loop.Leaves(db)
	n := func() uint64 {
		g, _ := records.LeafGenerations.Peek(db.Snapshot(), "leaf1")
		return g.GetGeneration().GetN()
	}
	for _, want := range []uint64{1, 1} {
		again, err := l.Step(t.Context(), loop.Unled, "leaf1")
		check(t, err)
		if n() != want || again != 0 {
			t.Errorf("generation %d, want %d; again in %s", n(), want, again)
		}
	}
	change(t, db, func(tx *store.Tx) error {
		return network.SetPort(tx, "leaf1", "swp2", apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN)
	})
	_, err := l.Step(t.Context(), loop.Unled, "leaf1")
	check(t, err)
	if n() != 2 {
		t.Errorf("generation %d, want 2", n())
	}
	_, err = l.Step(t.Context(), loop.Unled, "gone")
	check(t, err)
}

// Run notices changes, and counts those that come together once.
func TestLeavesRun(t *testing.T) {
	db := leafStore(t)
	after := db.Snapshot().Rev()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx, db, slog.New(slog.NewTextHandler(t.Output(), nil)), loop.Leaves(db)) }()
	defer func() {
		cancel()
		check(t, <-ended)
	}()
	counted := map[string]uint64{}
	until := func(done func() bool) {
		t.Helper()
		for e, err := range db.Watch(t.Context(), store.WatchOptions{After: after, Prefixes: []string{"leafgeneration/"}}) {
			check(t, err)
			after = e.Rev
			g, err := records.LeafGenerations.Decode(e.Value)
			check(t, err)
			counted[g.GetSwitch()] = g.GetGeneration().GetN()
			if done() {
				return
			}
		}
	}
	until(func() bool { return len(counted) == 3 })
	for i := range 5 {
		change(t, db, func(tx *store.Tx) error {
			status := apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN
			if i%2 == 1 {
				status = apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP
			}
			return network.SetPort(tx, "leaf3", "swp2", status)
		})
	}
	until(func() bool { return counted["leaf3"] > 1 })
	if counted["leaf3"] != 2 || counted["leaf1"] != 1 {
		t.Errorf("generations %v: five changes in a moment are one for leaf3 and none for leaf1", counted)
	}
}

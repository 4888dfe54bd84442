package machine

import (
	"slices"
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// TestChoose spreads a project's machines of one kind over the racks, and first
// of all those with the same placement tag. It chooses the first of those that
// are left, in the order of their uuids.
func TestChoose(t *testing.T) {
	db := storetest.Open(t, records.Tables()...)
	do := func(fn func(tx *store.Tx) error) {
		t.Helper()
		if err := db.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	do(func(tx *store.Tx) error {
		for _, m := range []string{"a1 r1", "a2 r1", "a3 r1", "b1 r2", "b2 r2", "c1 r3"} {
			w := New(m[:2], "p", tx.Now())
			w.Rack, w.Size, w.Phase, w.BootId, w.Liveliness = m[3:], "s", waiting, "boot", alive
			if err := records.Machines.Insert(tx, w); err != nil {
				return err
			}
		}
		return nil
	})
	take := func(project string, kind apiv2.MachineAllocationType, tags ...string) string {
		t.Helper()
		var got string
		do(func(tx *store.Tx) error {
			w := Want{Pick: func(int) int { return 0 }, Request: &apiv2.MachineServiceCreateRequest{Project: project, AllocationType: kind, PlacementTags: tags}}
			m, err := choose(tx, w, &place{partition: "p", size: "s"})
			if err != nil {
				return err
			}
			got = m.GetUuid()
			if err := records.Allocations.Insert(tx, &privatev1.Allocation{
				Machine: got, Partition: "p", Size: "s", Rack: m.GetRack(), PlacementTags: tags,
				Allocation: &apiv2.MachineAllocation{Uuid: got, Project: project, AllocationType: kind},
			}); err != nil {
				return err
			}
			_, err = records.Machines.Change(tx, got, func(m *privatev1.Machine) error { m.Allocation = got; return nil })
			return err
		})
		return got
	}
	got := []string{
		take("one", machineType, "db"),  // the first
		take("one", machineType),        // r2 and r3 have fewer
		take("one", firewallType),       // another kind does not count
		take("two", machineType),        // nor does another project
		take("one", machineType, "db"),  // without r1, which has the tag; r3 has fewer than r2
		take("one", machineType, "web"), // only r2 has a machine left
	}
	if want := []string{"a1", "b1", "a2", "a3", "c1", "b2"}; !slices.Equal(got, want) {
		t.Errorf("chose %v, want %v", got, want)
	}
	// Of many candidates a part is looked at; all of them count as free.
	for i := range 2 * maxCandidates {
		do(func(tx *store.Tx) error {
			m := New("z"+string(rune('!'+i)), "p", tx.Now())
			m.Size, m.Phase, m.BootId, m.Liveliness = "s", waiting, "boot", alive
			return records.Machines.Insert(tx, m)
		})
	}
	do(func(tx *store.Tx) error {
		return records.SizeReservations.Insert(tx, &apiv2.SizeReservation{Id: "r", Size: "s", Project: "other", Partitions: []string{"p"}, Amount: 2*maxCandidates - 1})
	})
	take("one", machineType)
}

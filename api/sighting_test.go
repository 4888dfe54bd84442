package api

import (
	"testing"
	"time"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// TestSightings writes when machines were heard of: one record per rack, with
// the newest time of each machine, and without those that are gone.
func TestSightings(t *testing.T) {
	s := &Server{db: storetest.Open(t, records.Tables()...)}
	change := func(fn func(tx *store.Tx) error) {
		t.Helper()
		if err := s.db.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	change(func(tx *store.Tx) error {
		for uuid, rack := range map[string]string{"m1": "r1", "m2": "r1", "m3": "r2"} {
			if err := records.Machines.Insert(tx, &privatev1.Machine{Uuid: uuid, Partition: "p", Rack: rack}); err != nil {
				return err
			}
		}
		return nil
	})
	at := func(n int) time.Time { return storetest.Start.Add(time.Duration(n) * time.Second) }
	flush := func() {
		t.Helper()
		if err := s.flushSightings(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(rack string, seen map[string]int) {
		t.Helper()
		rec, _ := records.Sightings.Peek(s.db.Snapshot(), records.Key("p", rack))
		if len(rec.GetSeen()) != len(seen) {
			t.Errorf("%s: %v, want %v", rack, rec, seen)
		}
		for uuid, n := range seen {
			if !rec.GetSeen()[uuid].AsTime().Equal(at(n)) {
				t.Errorf("%s: %s was seen at %v, want second %d", rack, uuid, rec.GetSeen()[uuid].AsTime(), n)
			}
		}
	}
	s.sightings.saw("m1", at(1))
	s.sightings.saw("m1", at(2))
	s.sightings.saw("m2", at(3))
	s.sightings.saw("m3", at(4))
	s.sightings.saw("stranger", at(5))
	flush()
	want("r1", map[string]int{"m1": 2, "m2": 3})
	want("r2", map[string]int{"m3": 4})
	rev := s.db.Snapshot().Rev()
	flush()
	if got := s.db.Snapshot().Rev(); got != rev {
		t.Errorf("nothing was seen, and revision %d became %d", rev, got)
	}
	change(func(tx *store.Tx) error { _, err := records.Machines.Delete(tx, "m2"); return err })
	s.sightings.saw("m1", at(6))
	flush()
	want("r1", map[string]int{"m1": 6})
	want("r2", map[string]int{"m3": 4})
}

package api

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// flushEvery is how often sightings are written.
const flushEvery = time.Minute

// sightings are when machines were heard of. They are folded here and written
// together, one record per rack, because each is worth little.
type sightings struct {
	mu    sync.Mutex
	fresh map[string]time.Time // by uuid, since the last flush
}

// saw notes that a machine was heard of.
func (s *sightings) saw(uuid string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh == nil {
		s.fresh = map[string]time.Time{}
	}
	s.fresh[uuid] = at
}

// take returns what was noted since the last call.
func (s *sightings) take() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.fresh
	s.fresh = nil
	return fresh
}

// flushSightings writes what was noted.
func (s *Server) flushSightings(ctx context.Context) error {
	racks, snap := map[string]map[string]time.Time{}, s.db.Snapshot()
	for uuid, at := range s.sightings.take() {
		m, ok := records.Machines.Peek(snap, uuid)
		if !ok {
			continue
		}
		key := records.Key(m.GetPartition(), m.GetRack())
		if racks[key] == nil {
			racks[key] = map[string]time.Time{}
		}
		racks[key][uuid] = at
	}
	for key, seen := range racks {
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			rec, err := records.Sightings.Get(tx, key)
			if err != nil {
				rec = &privatev1.Sightings{Key: key}
			}
			all := map[string]*timestamppb.Timestamp{}
			for uuid, at := range rec.GetSeen() {
				if _, ok := records.Machines.Peek(tx, uuid); ok {
					all[uuid] = at
				}
			}
			for uuid, at := range seen {
				all[uuid] = timestamppb.New(at)
			}
			rec.Seen = all
			return records.Sightings.Put(tx, rec)
		}); err != nil {
			return err
		}
	}
	return nil
}

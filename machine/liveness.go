package machine

import (
	"time"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// silentAfter is how long nothing may be heard of a machine.
const silentAfter = 5 * time.Minute

// leafSilent is how old a leaf's newest report may be before nothing is
// concluded from the silence of what is behind it.
const leafSilent = 3 * time.Minute

// heed says how lively a machine is, and reports whether that is news. A
// machine of which nothing is heard is dead, or unknown if it is allocated,
// unless its leaves are silent as well: then it is their agents or the line to
// the partition that are gone, and nothing is concluded. One that never booted
// has no liveliness.
func heed(tx *store.Tx, m *privatev1.Machine) (bool, error) {
	if m.GetLastEvent() == nil {
		return false, nil
	}
	s, _ := records.Sightings.Peek(tx, records.Key(m.GetPartition(), m.GetRack()))
	seen := m.GetLastEvent().AsTime()
	if t, ok := s.GetSeen()[m.GetUuid()]; ok && t.AsTime().After(seen) {
		seen = t.AsTime()
	}
	now := alive
	if tx.Now().Sub(seen) >= silentAfter {
		if !leafHeard(tx, m.GetUuid(), tx.Now()) {
			return false, nil
		}
		if now = dead; m.GetAllocation() != "" {
			now = unknown
		}
	}
	if m.GetLiveliness() == now {
		return false, nil
	}
	_, err := records.Machines.Change(tx, m.GetUuid(), func(m *privatev1.Machine) error {
		m.Liveliness = now
		return nil
	})
	return true, err
}

// leafHeard reports whether a leaf of a machine was heard of lately, or none of
// its switches reports at all.
func leafHeard(r store.Reader, uuid string, now time.Time) bool {
	leaves := 0
	for c := range records.Connections.By(r, "machine", uuid) {
		s, ok := records.SwitchSyncs.Peek(r, c.GetSwitch())
		if !ok {
			continue
		}
		if leaves++; now.Sub(s.GetLastSync().GetTime().AsTime()) < leafSilent {
			return true
		}
	}
	return leaves == 0
}

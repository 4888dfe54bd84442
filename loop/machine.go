package loop

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Machines promises that every machine is taken where it should be: new ones
// boot the medium, deleted allocations are reclaimed step by step, boots that
// lead to nothing are given up and tried again, and a system that was seen
// through its port has phoned home. newID makes the ids of operations.
func Machines(db *store.DB, newID func() string) Loop {
	return Loop{
		Name:    "machine",
		Inputs:  []string{"leafgeneration", "leafport", "machine", "machine-bmc", "operation", "reclaim", "sighting"},
		Outputs: []string{"machine", "event", "operation", "reclaim", "boot-window"},
		All:     allMachines,
		Every:   15 * time.Second,
		Concerns: func(r store.Reader, e store.Event) iter.Seq[string] {
			switch e.Table {
			case "leafport":
				return machineOnPort(r, e.Key)
			case "leafgeneration":
				return reclaims(r)
			case "sighting":
				return sighted(r, e.Key)
			default:
				return slices.Values([]string{e.Key}) // the uuid is the key of all the others
			}
		},
		Step: func(ctx context.Context, lead Lead, uuid string) (time.Duration, error) {
			id, did := newID(), false
			err := db.Update(ctx, func(tx *store.Tx) (err error) {
				if err := lead(tx); err != nil {
					return err
				}
				did, err = machine.Advance(tx, uuid, id)
				return err
			})
			if did {
				return time.Nanosecond, err // there may be another step
			}
			return 0, err
		},
	}
}

func allMachines(r store.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for m := range records.Machines.All(r) {
			if !yield(m.GetUuid()) {
				return
			}
		}
	}
}

// machineOnPort yields the machine that a port leads to.
func machineOnPort(r store.Reader, key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if c, ok := records.Connections.Peek(r, key); ok {
			yield(c.GetMachine())
		}
	}
}

// reclaims yields the machines that wait for leaves.
func reclaims(r store.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for rec := range records.Reclaims.All(r) {
			if !yield(rec.GetMachine()) {
				return
			}
		}
	}
}

// sighted yields the machines that were heard of.
func sighted(r store.Reader, key string) iter.Seq[string] {
	s, _ := records.Sightings.Peek(r, key)
	return maps.Keys(s.GetSeen())
}

package loop

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// leafSettle is how long a change waits for others that concern the same leaf:
// an allocation and a report write many records, and a leaf is better told once.
const leafSettle = 200 * time.Millisecond

// Leaves promises that the newest generation of every leaf stands for what the
// leaf is to be. The configuration itself is not stored: it is computed when
// the leaf asks (network.Leaf).
func Leaves(db *store.DB) Loop {
	return Loop{
		Name:     "leaf",
		Inputs:   []string{"allocation", "connection", "fabric", "ip", "leaf", "network", "switch"},
		Outputs:  []string{"leafgeneration"},
		All:      allLeaves,
		Every:    time.Minute,
		Settle:   leafSettle,
		Concerns: leavesOf,
		Step: func(ctx context.Context, lead Lead, id string) (time.Duration, error) {
			err := db.Update(ctx, func(tx *store.Tx) error {
				if err := lead(tx); err != nil {
					return err
				}
				_, err := network.NextGeneration(tx, id)
				return err
			})
			if errors.Is(err, fault.NotFound) {
				return 0, nil // a switch that is not a leaf, or not any more
			}
			return 0, err
		},
	}
}

func allLeaves(r store.Reader) iter.Seq[string] {
	return func(yield func(string) bool) {
		for l := range records.Leaves.All(r) {
			if !yield(l.GetSwitch()) {
				return
			}
		}
	}
}

// leavesOf yields the leaves whose configuration a change may be part of. What
// the record was before counts as much as what it is.
func leavesOf(r store.Reader, e store.Event) iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := map[string]bool{}
		once := func(id string) bool {
			if seen[id] {
				return true
			}
			seen[id] = true
			return yield(id)
		}
		switch e.Table {
		case "leaf": // its service ports are the image caches of all others
			once(e.Key)
			for _, value := range [][]byte{e.Old, e.Value} {
				if l, err := records.Leaves.Decode(value); err == nil && value != nil && !leavesOfPartition(r, l.GetPartition(), once) {
					return
				}
			}
		case "switch":
			once(e.Key)
		case "connection":
			once(records.SwitchOfPort(e.Key))
		case "allocation":
			leavesOfMachine(r, e.Key, once)
		case "fabric":
			leavesOfPartition(r, e.Key, once)
		case "network":
			leavesOfNetwork(r, e.Key, once)
		case "ip":
			for _, value := range [][]byte{e.Old, e.Value} {
				if ip, err := records.IPs.Decode(value); err == nil && value != nil && !leavesOfProject(r, ip.GetProject(), once) {
					return
				}
			}
		}
	}
}

func leavesOfPartition(r store.Reader, partition string, yield func(string) bool) bool {
	for l := range records.Leaves.By(r, "partition", partition) {
		if !yield(l.GetSwitch()) {
			return false
		}
	}
	return true
}

func leavesOfMachine(r store.Reader, machine string, yield func(string) bool) bool {
	for c := range records.Connections.By(r, "machine", machine) {
		if !yield(c.GetSwitch()) {
			return false
		}
	}
	return true
}

// leavesOfProject yields the leaves of a project's machines, which may announce
// the project's addresses.
func leavesOfProject(r store.Reader, project string, yield func(string) bool) bool {
	if project == "" {
		return true
	}
	for a := range records.Allocations.By(r, "project", project) {
		if !leavesOfMachine(r, a.GetMachine(), yield) {
			return false
		}
	}
	return true
}

// leavesOfNetwork yields the leaves of the machines in a network and in those
// that take their prefixes from it.
func leavesOfNetwork(r store.Reader, id string, yield func(string) bool) bool {
	for a := range records.Allocations.By(r, "network", id) {
		if !leavesOfMachine(r, a.GetMachine(), yield) {
			return false
		}
	}
	for n := range records.Networks.By(r, "parent", id) {
		for a := range records.Allocations.By(r, "network", n.GetId()) {
			if !leavesOfMachine(r, a.GetMachine(), yield) {
				return false
			}
		}
	}
	return true
}

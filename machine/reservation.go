package machine

import (
	"errors"
	"iter"
	"slices"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A Share is what one project has reserved of the machines of one size in one
// partition.
type Share struct {
	Reserved int // sum of its reservations
	Used     int // of them, by its allocations
}

// Remaining is how many machines are kept for the project.
func (s Share) Remaining() int { return s.Reserved - s.Used }

// Shares returns the projects' shares in a partition of reservations of one
// size. Their order does not matter. allocated counts a project's machines.
func Shares(reservations iter.Seq[*apiv2.SizeReservation], partition string, allocated func(project string) int) map[string]Share {
	shares := map[string]Share{}
	for r := range reservations {
		if slices.Contains(r.GetPartitions(), partition) {
			s := shares[r.GetProject()]
			s.Reserved += int(r.GetAmount())
			shares[r.GetProject()] = s
		}
	}
	for project, s := range shares {
		s.Used = min(s.Reserved, allocated(project))
		shares[project] = s
	}
	return shares
}

// MayTake reports whether a project may take one of the free machines: it has a
// machine left in its own share, or there are more free ones than are kept for
// others.
func MayTake(shares map[string]Share, project string, free int) bool {
	others := 0
	for p, s := range shares {
		if p != project {
			others += s.Remaining()
		}
	}
	return free > 0 && (shares[project].Remaining() > 0 || free > others)
}

// SharesOf returns the shares on record. Whoever decides by them must bump the
// guard record that Hot names.
func SharesOf(r store.Reader, partition, size string) map[string]Share {
	return Shares(records.SizeReservations.By(r, "size", size), partition, func(project string) int {
		return records.Allocations.Count(r, "share", records.ShareKey(partition, size, project))
	})
}

// CreateReservation adds a reservation.
func CreateReservation(tx *store.Tx, r *apiv2.SizeReservation) error {
	_, err := access.Open(tx, records.Sizes, r.GetSize())
	if err == nil {
		_, err = access.OpenProject(tx, r.GetProject())
	}
	if err != nil {
		return required(err)
	}
	if err := reserve(tx, r); err != nil {
		return err
	}
	return records.SizeReservations.Insert(tx, r)
}

// ChangeReservation edits a reservation.
func ChangeReservation(tx *store.Tx, id string, edit func(*apiv2.SizeReservation) error) (*apiv2.SizeReservation, error) {
	return records.SizeReservations.Change(tx, id, func(r *apiv2.SizeReservation) error {
		bumpPools(tx, r)
		if err := edit(r); err != nil {
			return err
		}
		return reserve(tx, r)
	})
}

// DeleteReservation deletes a reservation.
func DeleteReservation(tx *store.Tx, id string) (*apiv2.SizeReservation, error) {
	r, err := records.SizeReservations.Delete(tx, id)
	if err == nil {
		bumpPools(tx, r)
	}
	return r, err
}

func reserve(tx *store.Tx, r *apiv2.SizeReservation) error {
	if r.GetAmount() <= 0 {
		return invalid("amount must be a positive value")
	}
	if len(r.GetPartitions()) == 0 {
		return invalid("at least one partition id must be specified")
	}
	for _, p := range r.GetPartitions() {
		if _, err := access.Open(tx, records.Partitions, p); err != nil {
			return required(err)
		}
	}
	bumpPools(tx, r)
	return nil
}

// required turns "not found" of what a reservation needs into what the v2 API
// says.
func required(err error) error {
	if errors.Is(err, fault.NotFound) {
		return fault.New(fault.Precondition, "", err.Error(), "create it first")
	}
	return err
}

// bumpPools conflicts with every allocation that the reservation matters to.
func bumpPools(tx *store.Tx, r *apiv2.SizeReservation) {
	for _, p := range r.GetPartitions() {
		tx.Bump(pool(p, r.GetSize()))
	}
}

// pool names the guard record of the free machines of one size in one
// partition, which allocations bump, too.
func pool(partition, size string) string { return "allocate/" + records.Key(partition, size) }

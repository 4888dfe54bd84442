package api

import (
	"maps"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
)

// checkMeta does the optimistic locking of an update, inside its transaction.
// With the server's strategy, the record just read is what is changed. With
// the client's, which is the default, it must be the one the client saw. The
// noun and id name the record in the words of the v2 API.
func checkMeta(noun, id string, stored *apiv2.Meta, u *apiv2.UpdateMeta) error {
	switch {
	case u == nil:
		return fault.New(fault.Invalid, "", "update meta must be set", "")
	case u.GetLockingStrategy() == apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER:
		return nil
	case !u.GetUpdatedAt().AsTime().Equal(stored.GetUpdatedAt().AsTime()):
		return fault.Newf(fault.Conflict, "", "cannot update %s (%s): the entity was already modified, please retry", noun, id)
	}
	return nil
}

// checkMetaIfGiven is checkMeta for the records whose update the v2 API does not
// lock: only a client that says what it saw is held to it.
func checkMetaIfGiven(noun, id string, stored *apiv2.Meta, u *apiv2.UpdateMeta) error {
	if u.GetUpdatedAt() == nil {
		return nil
	}
	return checkMeta(noun, id, stored, u)
}

// updateLabels changes the labels of a record as a client asks; nil changes
// nothing.
func updateLabels(meta *apiv2.Meta, u *apiv2.UpdateLabels) {
	var labels map[string]string
	switch s := u.GetStrategy().(type) {
	case nil:
		return
	case *apiv2.UpdateLabels_Replace:
		labels = s.Replace.GetLabels()
	case *apiv2.UpdateLabels_Patch:
		labels = maps.Clone(meta.GetLabels().GetLabels())
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, s.Patch.GetUpdate().GetLabels())
		for _, k := range s.Patch.GetRemove() {
			delete(labels, k)
		}
	}
	meta.Labels = nil
	if len(labels) > 0 {
		meta.Labels = &apiv2.Labels{Labels: labels}
	}
}

// set changes a field if the client sent one.
func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// setOptional changes an optional field if the client sent one.
func setOptional[T any](field **T, to *T) {
	if to != nil {
		*field = to
	}
}

// newMeta returns the Meta of a new record: of what a client sends, only the
// labels count.
func newMeta(labels *apiv2.Labels) *apiv2.Meta { return &apiv2.Meta{Labels: labels} }

// setList replaces a list if the client sent one that is not empty.
func setList[T any](field *[]T, to []T) {
	if len(to) > 0 {
		*field = to
	}
}

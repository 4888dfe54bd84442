package access

import (
	"google.golang.org/protobuf/proto"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// A Parent is a record that others refer to, and that must not go while they
// do. Its door is closed while it has a deletion task.
type Parent interface {
	proto.Message
	GetMeta() *apiv2.Meta
}

// Open returns a record that something new is about to refer to; fault.NotFound
// if there is none, fault.Precondition if its door is closed. In a Tx it guards
// the record, so that a Tx that came through the door runs again once the door
// is closed: that is what Remove relies on.
func Open[T Parent](r store.Reader, t *store.Table[T], key string) (T, error) {
	rec, err := t.Get(r, key)
	if err == nil && rec.GetMeta().GetDeletionTaskId() != "" {
		err = fault.New(fault.Precondition, t.Name+" "+key, "is being deleted", "use another one, or delete it again to learn what keeps it")
	}
	return rec, err
}

// Close closes the door of a record, the first of two transactions to delete
// it. The task is any name; of several deletions the last one counts.
func Close[T Parent](tx *store.Tx, t *store.Table[T], key, task string) error {
	_, err := t.Change(tx, key, func(rec T) error {
		rec.GetMeta().DeletionTaskId = &task
		return nil
	})
	return err
}

// Remove deletes a record whose door is closed by the task, the second of two
// transactions, if unused, which looks at what refers to it, returns no error.
// If it does, Reopen.
func Remove[T Parent](tx *store.Tx, t *store.Table[T], key, task string, unused func() error) (T, error) {
	rec, err := t.Get(tx, key)
	if err != nil {
		return rec, err
	}
	if rec.GetMeta().GetDeletionTaskId() != task {
		return rec, fault.New(fault.Conflict, t.Name+" "+key, "is being deleted by somebody else", "wait for the other deletion")
	}
	if err := unused(); err != nil {
		return rec, err
	}
	rec, err = t.Delete(tx, key)
	if err == nil {
		rec.GetMeta().DeletionTaskId = nil
	}
	return rec, err
}

// Reopen opens the door again, unless another deletion has closed it since.
func Reopen[T Parent](tx *store.Tx, t *store.Table[T], key, task string) error {
	_, err := t.Change(tx, key, func(rec T) error {
		if rec.GetMeta().GetDeletionTaskId() == task {
			rec.GetMeta().DeletionTaskId = nil
		}
		return nil
	})
	return err
}

package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// remove deletes a record that others may refer to. It closes the door first,
// so that nothing new can refer to it while unused looks; also deletes what
// goes with it. A deletion that was cut off in between is finished by the next.
func remove[T access.Parent](
	ctx context.Context, s *Server, t *store.Table[T], id string, unused func(store.Reader, string) error, also ...func(*store.Tx, string) error,
) (T, error) {
	return removeBy(ctx, s, t, id, func(tx *store.Tx, id, task string) (T, error) {
		rec, err := access.Remove(tx, t, id, task, func() error { return unused(tx, id) })
		for _, f := range also {
			if err == nil {
				err = f(tx, id)
			}
		}
		return rec, err
	})
}

// removeBy is remove with a rule that calls access.Remove.
func removeBy[T access.Parent](ctx context.Context, s *Server, t *store.Table[T], id string, rule func(tx *store.Tx, id, task string) (T, error)) (T, error) {
	task := newID()
	var rec T
	if err := s.update(ctx, func(tx *store.Tx) error { return access.Close(tx, t, id, task) }); err != nil {
		return rec, err
	}
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		rec, err = rule(tx, id, task)
		return err
	})
	if err == nil || errors.Is(err, store.ErrUnknown) || errors.Is(err, fault.Conflict) {
		return rec, err
	}
	// also when the client is gone
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if again := s.update(ctx, func(tx *store.Tx) error { return access.Reopen(tx, t, id, task) }); again != nil {
		s.log.ErrorContext(ctx, "api: the door of a record that was not deleted stays closed", "record", t.Name+"/"+id, "error", again)
	}
	return rec, err
}

// drop returns a function that deletes the record with a parent's key, if there
// is one.
func drop[T proto.Message](t *store.Table[T]) func(*store.Tx, string) error {
	return func(tx *store.Tx, key string) error {
		if _, err := t.Delete(tx, key); err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		return nil
	}
}

// given returns an error if a request lacks the message that it is about.
func given[T any](msg *T, noun string) error {
	if msg == nil {
		return fault.Newf(fault.Invalid, "", "%s must be given", noun)
	}
	return nil
}

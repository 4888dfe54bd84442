package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// A stream shows that it is alive however much happens that does not concern
// it: whoever reads it would else give it up.
func TestFollowSignsWhileBusy(t *testing.T) {
	db := storetest.Open(t, records.Tables()...)
	s := &Server{db: db, cfg: Config{LifeSign: time.Second}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // ends with ctx
		for i := 0; ctx.Err() == nil; i++ {
			_ = db.Update(ctx, func(tx *store.Tx) error {
				return records.Sizes.Put(tx, &apiv2.Size{Id: "s", Name: new(fmt.Sprint(i))})
			})
		}
	}()
	done, busy := errors.New("done"), 0
	err := s.follow(ctx, func(_ store.Snapshot, sign bool) error {
		if sign {
			return done
		}
		if busy++; busy > 20 { // 4 s, at one call per 200 ms
			return errors.New("no sign")
		}
		return nil
	}, "size/")
	if !errors.Is(err, done) || busy < 2 {
		t.Errorf("%v after %d calls without a sign", err, busy)
	}
}

package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// newID returns a fresh uuid (RFC 9562, version 7: they sort by time).
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// perSweep bounds what one transaction deletes.
const perSweep = 100

// sweep deletes what has expired: tokens, one-time secrets, invitations, components,
// keys.
func (s *Server) sweep(ctx context.Context) error {
	for {
		n := 0
		err := s.db.Update(ctx, func(tx *store.Tx) error {
			n = 0
			for _, del := range expired(tx) {
				if n == perSweep {
					break
				}
				if err := del(); err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil || n < perSweep {
			return err
		}
	}
}

func expired(tx *store.Tx) (deletes []func() error) {
	now := tx.Now()
	for t := range records.Tokens.All(tx) {
		if now.After(t.GetToken().GetExpires().AsTime()) {
			deletes = append(deletes, func() error { _, err := records.Tokens.Delete(tx, t.GetToken().GetUuid()); return err })
		}
	}
	for e := range records.Enrolments.All(tx) {
		if now.After(e.GetExpires().AsTime()) {
			deletes = append(deletes, func() error { _, err := records.Enrolments.Delete(tx, e.GetHash()); return err })
		}
	}
	for i := range records.Invites.All(tx) {
		if now.After(i.GetExpires().AsTime()) {
			deletes = append(deletes, func() error {
				_, err := records.Invites.Delete(tx, records.InviteKey(i.GetKind(), i.GetHash()))
				return err
			})
		}
	}
	for c := range records.Components.All(tx) {
		if now.After(c.GetReportedAt().AsTime().Add(componentLife)) {
			key := records.ComponentKey(c.GetType(), c.GetIdentifier())
			deletes = append(deletes, func() error { _, err := records.Components.Delete(tx, key); return err })
		}
	}
	for k := range records.Keys.All(tx) {
		if now.After(k.GetExpires().AsTime()) {
			deletes = append(deletes, func() error { _, err := records.Keys.Delete(tx, records.Key(k.GetUse(), k.GetId())); return err })
		}
	}
	return deletes
}

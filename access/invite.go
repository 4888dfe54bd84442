package access

import (
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// InviteLife is how long an invitation can be accepted.
const InviteLife = 7 * 24 * time.Hour

// errNoInvite has the words of the v2 API.
var errNoInvite = fault.New(fault.NotFound, "", "the given invitation does not exist anymore", "")

// InviteName is the record a sealed secret is bound to.
func InviteName(secret string) string { return "invite/" + hash(secret) }

// Invite keeps an invitation for whoever has the fresh random secret. sealed is
// the secret, sealed under its InviteName.
func Invite[R ~int32](tx *store.Tx, g Group, of, secret string, sealed []byte, role R) (*privatev1.Invite, error) {
	if err := checkRole(role); err != nil {
		return nil, err
	}
	i := &privatev1.Invite{
		Kind:    g.noun,
		Hash:    hash(secret),
		Secret:  &privatev1.Sealed{Id: hash(secret), Value: sealed},
		Of:      of,
		Role:    int32(role),
		Expires: timestamppb.New(tx.Now().Add(InviteLife)),
	}
	return i, records.Invites.Insert(tx, i)
}

// Invites yields the invitations to a project or tenant, the expired ones too.
func (g Group) Invites(r store.Reader, of string) iter.Seq[*privatev1.Invite] {
	return records.Invites.By(r, "of", records.InviteKey(g.noun, of))
}

// Invited returns the invitation that a secret stands for at a time.
func (g Group) Invited(r store.Reader, secret string, now time.Time) (*privatev1.Invite, error) {
	i, err := records.Invites.Get(r, records.InviteKey(g.noun, hash(secret)))
	if err != nil || !now.Before(i.GetExpires().AsTime()) {
		return nil, errNoInvite
	}
	return i, nil
}

// Accept makes a user a member, and uses the invitation up.
func Accept(tx *store.Tx, g Group, secret, user string) (*privatev1.Invite, error) {
	i, err := g.Invited(tx, secret, tx.Now())
	if err != nil {
		return nil, err
	}
	if i.GetOf() == user {
		return nil, fault.Newf(fault.Invalid, "", "an owner cannot accept invitations to own %ss", g.noun)
	}
	if _, err := records.Invites.Delete(tx, records.InviteKey(g.noun, i.GetHash())); err != nil {
		return nil, err
	}
	_, err = AddMember(tx, g, i.GetOf(), user, i.GetRole())
	return i, err
}

// Uninvite deletes an invitation to this project or tenant.
func (g Group) Uninvite(tx *store.Tx, of, secret string) error {
	i, err := records.Invites.Get(tx, records.InviteKey(g.noun, hash(secret)))
	if err != nil || i.GetOf() != of {
		return errNoInvite
	}
	_, err = records.Invites.Delete(tx, records.InviteKey(g.noun, i.GetHash()))
	return err
}

// uninvite deletes all invitations. Those beyond what a transaction holds can
// do no harm: AddMember finds no project and no tenant to join.
func (g Group) uninvite(tx *store.Tx, of string) error {
	n := 0
	for i := range g.Invites(tx, of) {
		if n++; n > maxDissolve {
			break
		}
		if _, err := records.Invites.Delete(tx, records.InviteKey(g.noun, i.GetHash())); err != nil {
			return err
		}
	}
	return nil
}

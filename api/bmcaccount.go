package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Ingot's own account at a BMC is decided on and stored before anybody tells
// the BMC of it, so that there is no moment at which a BMC has a password that
// nobody knows: who was interrupted sets the same one again.

// newBMCPassword returns a password of 16 characters, which BMCs take whatever
// their bounds are, with the kinds of characters that some insist on. It has 75
// random bits.
func newBMCPassword() string {
	t := rand.Text()
	return t[:7] + "-" + strings.ToLower(t[7:14]) + "7"
}

// newBMCUser returns a name that no other BMC's account has.
func newBMCUser() string { return "ingot-" + strings.ToLower(rand.Text()[:8]) }

// sealAccount seals a user and a password under one key.
func (s *Server) sealAccount(key, user, password string) *privatev1.Sealed {
	return s.seal(key, user+"\n"+password)
}

// account returns what sealAccount sealed; nil if there is nothing.
func (s *Server) account(r store.Reader, key string) (*ingotv1.BMCAccount, error) {
	plain, err := s.unseal(r, key)
	if err != nil || plain == "" {
		return nil, err
	}
	user, password, _ := strings.Cut(plain, "\n")
	return &ingotv1.BMCAccount{User: user, Password: password}, nil
}

// keepOwn makes sure that Ingot has an account of its own for a BMC that shall
// have one, and none for others.
func (s *Server) keepOwn(tx *store.Tx, b *ingotv1.BMC, user, password string) error {
	own, former := records.BMCOwnKey(b.GetPartition(), b.GetId()), records.BMCFormerKey(b.GetPartition(), b.GetId())
	if b.GetOwnAccount() {
		if _, has := records.Secrets.Peek(tx, own); has {
			return nil
		}
		return records.Secrets.Put(tx, s.sealAccount(own, user, password))
	}
	for _, key := range []string{own, former} {
		if _, has := records.Secrets.Peek(tx, key); has {
			if _, err := records.Secrets.Delete(tx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rotate implements ingot.v1.
func (s bmcs) Rotate(ctx context.Context, req *connect.Request[ingotv1.BMCServiceRotateRequest]) (*connect.Response[ingotv1.BMCServiceRotateResponse], error) {
	partition, id := req.Msg.GetPartition(), req.Msg.GetId()
	next := newBMCPassword()
	var b *ingotv1.BMC
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		if b, err = records.BMCs.Get(tx, records.BMCKey(partition, id)); err != nil {
			return err
		}
		if !b.GetOwnAccount() {
			return fault.New(fault.Precondition, "bmc "+id, "has no account of Ingot's own", fmt.Sprintf("let it have one with 'ingot bmc update %s --partition %s --own-account'", id, partition))
		}
		if _, err := records.Secrets.Get(tx, records.BMCOwnKey(partition, id)); err != nil {
			return err
		}
		own, err := s.account(tx, records.BMCOwnKey(partition, id))
		if err != nil {
			return err
		}
		// A password that was never seen to work is not what the BMC has.
		status, known := records.BMCStatuses.Peek(tx, records.BMCKey(partition, id))
		_, former := records.Secrets.Peek(tx, records.BMCFormerKey(partition, id))
		if status.GetStatus().GetOwnAccount() || !former {
			if err := records.Secrets.Put(tx, s.sealAccount(records.BMCFormerKey(partition, id), own.GetUser(), own.GetPassword())); err != nil {
				return err
			}
		}
		if known {
			status.Status.OwnAccount = false
			if err := records.BMCStatuses.Put(tx, status); err != nil {
				return err
			}
		}
		return records.Secrets.Put(tx, s.sealAccount(records.BMCOwnKey(partition, id), own.GetUser(), next))
	}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.BMCServiceRotateResponse{Bmc: showBMC(s.view(ctx), b)}), nil
}

// credentials fills in how a site gets into a BMC: first with what worked last.
func (s *Server) credentials(r store.Reader, b *ingotv1.BMC, w *ingotv1.BMCWanted) (err error) {
	partition, id := b.GetPartition(), b.GetId()
	if w.Password, err = s.unseal(r, records.BMCPasswordKey(partition, id)); err != nil {
		return err
	}
	if w.Own, err = s.account(r, records.BMCOwnKey(partition, id)); err != nil || w.Own == nil {
		return err
	}
	status, _ := records.BMCStatuses.Peek(r, records.BMCKey(partition, id))
	if status.GetStatus().GetOwnAccount() {
		w.Accounts = []*ingotv1.BMCAccount{{User: w.GetUser(), Password: w.GetPassword()}}
		w.User, w.Password = w.GetOwn().GetUser(), w.GetOwn().GetPassword()
		return nil
	}
	w.Accounts = []*ingotv1.BMCAccount{w.GetOwn()}
	former, err := s.account(r, records.BMCFormerKey(partition, id))
	if former != nil {
		w.Accounts = append(w.Accounts, former)
	}
	return err
}

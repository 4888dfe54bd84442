package site

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/bmc"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/secret"
)

// endpoint is where a BMC is, with one of its accounts.
func endpoint(want *ingotv1.BMCWanted, a *ingotv1.BMCAccount) bmc.Endpoint {
	scheme := "https://"
	if want.GetDriver() == ingotv1.BMCDriver_BMC_DRIVER_IPMI {
		scheme = "ipmi://"
	}
	return bmc.Endpoint{Address: scheme + want.GetAddress(), User: a.GetUser(), Password: secret.New(a.GetPassword()), CA: []byte(want.GetCa())}
}

// first is the account of a BMC that is tried first.
func first(want *ingotv1.BMCWanted) *ingotv1.BMCAccount {
	return &ingotv1.BMCAccount{User: want.GetUser(), Password: want.GetPassword()}
}

// endpoints are the ways into a BMC, the best first.
func endpoints(want *ingotv1.BMCWanted) []bmc.Endpoint {
	all := []bmc.Endpoint{endpoint(want, first(want))}
	for _, a := range want.GetAccounts() {
		all = append(all, endpoint(want, a))
	}
	return all
}

// enter logs in to a BMC by what it speaks.
func enter(ctx context.Context, e bmc.Endpoint) (driver, error) {
	if strings.HasPrefix(e.Address, "ipmi:") {
		return bmc.OpenIPMI(ctx, e)
	}
	return bmc.Open(ctx, e)
}

func alike(a, b bmc.Endpoint) bool {
	return a.Address == b.Address && a.User == b.User && a.Password.Equal(b.Password) && string(a.CA) == string(b.CA)
}

// own makes the account that shall be used, if the session is not that one's,
// and returns a session of it. If that does not succeed the one that there is
// serves on, and it is not tried again before the next: BMCs lock those out who
// try too often.
func (b *BMCs) own(ctx context.Context, want *ingotv1.BMCWanted, s *session) (*session, error) {
	e := endpoint(want, want.GetOwn())
	if want.GetOwn() == nil || alike(s.at, e) {
		return s, nil
	}
	if proto.Equal(s.failed, want.GetOwn()) {
		return s, s.failedFor
	}
	err := s.c.SetAccount(ctx, e.User, e.Password)
	var r driver
	if err == nil {
		r, err = enter(ctx, e)
	}
	if err != nil {
		s.failed, s.failedFor = want.GetOwn(), err
		return s, err
	}
	b.leave(ctx, want.GetId())
	b.cfg.Log.Info("a BMC has an account of its own", "bmc", want.GetId(), "user", e.User)
	return b.keep(want.GetId(), &session{at: e, c: r}), nil
}

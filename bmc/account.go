package bmc

import (
	"context"
	"net/http"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/secret"
)

// A Keeper keeps the accounts of a BMC.
type Keeper interface {
	// SetAccount makes sure that there is an administrator with this name and
	// password, whatever was there before. Doing it again changes nothing else.
	SetAccount(ctx context.Context, user string, password secret.String) error
}

const (
	accountServicePath = "/redfish/v1/AccountService"
	accountsPath       = accountServicePath + "/Accounts"
	administrator      = "Administrator" // predefined (DSP0266, "Roles")
)

// accountServiceDoc is an AccountService.
type accountServiceDoc struct {
	MinPasswordLength, MaxPasswordLength int
	Accounts                             link
}

// accountDoc is a ManagerAccount. Some BMCs have a fixed number of them, of
// which the free ones have no name.
type accountDoc struct {
	link
	UserName, RoleId string //nolint:revive // as Redfish has it
	Enabled          bool
}

// SetAccount implements Keeper.
func (r *Redfish) SetAccount(ctx context.Context, user string, password secret.String) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	what := "set the account " + user
	p := r.pass(ctx, unlimited)
	at := accountsPath
	if s := read[accountServiceDoc](p, accountServicePath, always); s != nil {
		n := len(password.Reveal())
		if n < s.MinPasswordLength || s.MaxPasswordLength > 0 && n > s.MaxPasswordLength {
			return fault.Newf(fault.Unimplemented, r.object, "%s: takes passwords of %d to %d characters, not of %d", what, s.MinPasswordLength, s.MaxPasswordLength, n)
		}
		if s.Accounts.ID != "" {
			at = s.Accounts.ID
		}
	}
	delete(r.known, at)
	accounts := members[accountDoc](p, at, always)
	switch {
	case p.gone != nil:
		return p.gone
	case len(accounts) == 0:
		return fault.New(fault.Unimplemented, r.object, what+": shows no accounts", "use the operator's account only")
	}
	fill := map[string]any{"UserName": user, "Password": password.Reveal(), "RoleId": administrator, "Enabled": true}
	err := r.fill(ctx, what, at, accounts, user, fill)
	if err = explain(r.object, what, err); err != nil && strings.Contains(err.Error(), password.Reveal()) {
		return fault.New(fault.KindOf(err), r.object, what+": refused", "") // a BMC may repeat what it was given
	}
	return err
}

// fill changes the account that has the user's name; if there is none it makes
// one or, where that is not how it is done, fills in a free one.
func (r *Redfish) fill(ctx context.Context, what, at string, accounts []*accountDoc, user string, fill map[string]any) error {
	change := func(a *accountDoc) error {
		delete(r.known, a.ID)
		return r.change(ctx, what, func(p *pass) (resource, error) {
			read[accountDoc](p, a.ID, always) // for its tag
			return resource{at: a.ID, change: fill}, p.gone
		})
	}
	for _, a := range accounts {
		if a.UserName == user {
			delete(fill, "UserName")
			return change(a)
		}
	}
	err := r.send(ctx, what, http.MethodPost, at, "", fill)
	if s := statusOf(err); s != http.StatusMethodNotAllowed && s != http.StatusNotImplemented && s != http.StatusNotFound {
		return err
	}
	for _, a := range accounts {
		// The first slot is often one that must stay as it is.
		if a.UserName == "" && !strings.HasSuffix(strings.TrimSuffix(a.ID, "/"), "/1") {
			return change(a)
		}
	}
	return fault.New(fault.Exhausted, r.object, what+": has no free account", "delete one that nobody uses in the BMC")
}

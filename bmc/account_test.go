package bmc_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lab"
	"github.com/ingot-cloud/ingot/secret"
)

// An account is made, changed, and works, however a BMC has its accounts.
func TestAccount(t *testing.T) {
	for _, q := range []lab.Quirk{"", lab.FilledSlots, lab.WantsTag, lab.Busy} {
		t.Run("with "+string(q), func(t *testing.T) {
			b := newBoard(t)
			if q != "" {
				if err := b.SetQuirk(q, true); err != nil {
					t.Fatal(err)
				}
			}
			r, ctx := b.open(t), t.Context()
			for _, password := range []string{"first-Password-1", "first-Password-1", "other-Password-2"} {
				if err := r.SetAccount(ctx, "ingot-a", secret.New(password)); err != nil {
					t.Fatal(err)
				}
				e := b.endpoint
				e.User, e.Password = "ingot-a", secret.New(password)
				own, err := bmc.Open(ctx, e)
				if err != nil {
					t.Fatalf("log in with %s: %v", password, err)
				}
				own.Close(ctx)
			}
			if got := b.Accounts(); !slices.Equal(got, []string{"admin", "ingot-a"}) {
				t.Errorf("accounts %v", got)
			}
		})
	}
}

func TestAccountRefused(t *testing.T) {
	b := newBoard(t)
	r, ctx := b.open(t), t.Context()
	if err := r.SetAccount(ctx, "ingot-a", secret.New("much-too-long-a-Password-1")); !errors.Is(err, fault.Unimplemented) || !strings.Contains(err.Error(), "8 to 20 characters") || strings.Contains(err.Error(), "much-too") {
		t.Errorf("a password that is too long: %v", err)
	}
	for i := range 5 {
		if err := r.SetAccount(ctx, "ingot-"+string(rune('b'+i)), secret.New("first-Password-1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetAccount(ctx, "ingot-z", secret.New("first-Password-1")); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("one account too many: %v", err)
	}
}

package lab

import (
	"net/http"
	"slices"

	"github.com/ingot-cloud/ingot/fault"
)

// A Quirk is something that a BMC does otherwise than a client would like.
// Real ones have all of these, some by design, some by mistake, and some only
// on bad days. Quirks are switched on and off while the BMC serves.
type Quirk string

// The quirks of BMCs.
const (
	// IgnoresPower: every reset is accepted, and the power stays as it is.
	IgnoresPower Quirk = "ignores-power"
	// IgnoresOverride: the boot override is accepted and shown, and the
	// firmware starts in its own order.
	IgnoresOverride Quirk = "ignores-override"
	// SharesConsole: who gets out of the serial console gets to the BMC's own
	// command line, or so the BMC says.
	SharesConsole Quirk = "shares-console"
)

// Quirks lists them all, in the order of their names.
func Quirks() []Quirk {
	return []Quirk{IgnoresOverride, IgnoresPower, SharesConsole}
}

// SetQuirk switches a quirk on or off.
func (b *BMC) SetQuirk(q Quirk, on bool) error {
	if !slices.Contains(Quirks(), q) {
		return fault.Newf(fault.NotFound, "quirk "+string(q), "there are %v", Quirks())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if on {
		b.quirks[q] = true
	} else {
		delete(b.quirks, q)
	}
	return nil
}

// has reports whether a quirk is on.
func (b *BMC) has(q Quirk) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.quirks[q]
}

// override returns the override that the BMC shows.
func (b *BMC) override() Override {
	if !b.has(IgnoresOverride) {
		return b.cfg.Order.Override()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pretended
}

// setOverride makes o the override, or pretends to.
func (b *BMC) setOverride(o Override) error {
	if !b.has(IgnoresOverride) {
		return b.cfg.Order.SetOverride(o)
	}
	b.mu.Lock()
	b.pretended = o
	b.mu.Unlock()
	return b.cfg.Order.SetOverride(Override{})
}

// setPower does what a reset asks for, or pretends to.
func (b *BMC) setPower(r *http.Request, t ResetType) error {
	if b.has(IgnoresPower) {
		return nil
	}
	wasOn := b.cfg.Power.On()
	if err := b.cfg.Power.SetPower(r.Context(), t); err != nil {
		return err
	}
	if started := t == ForceRestart || t == PowerCycle || !wasOn && b.cfg.Power.On(); started {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.pretended.Once {
			b.pretended = Override{}
		}
	}
	return nil
}

package lab

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A Quirk is something that a BMC does otherwise than a client would like.
// Real ones have all of these, some by design, some by mistake, and some only
// on bad days. Quirks are switched on and off while the BMC serves.
type Quirk string

// The quirks of BMCs.
const (
	// Busy: a change is refused with 503 the first time it is asked for.
	Busy Quirk = "busy"
	// DeniesMedium: the drive says that it is empty when it is not.
	DeniesMedium Quirk = "denies-medium"
	// Drops: every seventh request ends without an answer.
	Drops Quirk = "drops"
	// FilledSlots: there are no new accounts, only empty ones to fill in.
	FilledSlots Quirk = "account-slots"
	// IgnoresPower: every reset is accepted, and the power stays as it is.
	IgnoresPower Quirk = "ignores-power"
	// IgnoresOverride: the boot override is accepted and shown, and the
	// firmware starts in its own order.
	IgnoresOverride Quirk = "ignores-override"
	// MediaAsTask: a medium is promised, and inserted while its task runs.
	MediaAsTask Quirk = "media-as-task"
	// MediaOnSystem: the drive belongs to the system only.
	MediaOnSystem Quirk = "media-on-system"
	// OnlyOnce: the boot override is for one start, and nothing else.
	OnlyOnce Quirk = "only-once"
	// SharesConsole: who gets out of the serial console gets to the BMC's own
	// command line, or so the BMC says.
	SharesConsole Quirk = "shares-console"
	// Silent: every request ends without an answer.
	Silent Quirk = "silent"
	// Slow: every answer takes SlowBy.
	Slow Quirk = "slow"
	// WantsProtocol: a medium needs its protocol in a property of its own.
	WantsProtocol Quirk = "wants-protocol"
	// WantsTag: a change needs the tag (ETag) of what is changed.
	WantsTag Quirk = "wants-tag"
)

// SlowBy is how long a slow BMC takes for an answer.
const SlowBy = 3 * time.Second

// Quirks lists them all, in the order of their names.
func Quirks() []Quirk {
	all := []Quirk{
		Busy, DeniesMedium, Drops, FilledSlots, IgnoresPower, IgnoresOverride, MediaAsTask, MediaOnSystem, OnlyOnce, SharesConsole, Silent, Slow, WantsProtocol, WantsTag,
	}
	slices.Sort(all)
	return all
}

// moody does to a request what quirks do to all of them, and reports whether
// that was the answer.
func (b *BMC) moody(w http.ResponseWriter, r *http.Request) bool {
	if b.has(Slow) {
		select {
		case <-r.Context().Done():
		case <-time.After(SlowBy):
		}
	}
	if b.has(Silent) || b.has(Drops) && b.requests.Load()%7 == 0 {
		panic(http.ErrAbortHandler)
	}
	change := r.Method == http.MethodPatch || r.Method == http.MethodPost && !strings.HasPrefix(r.URL.Path, sessionsPath)
	if !change || !b.has(Busy) {
		return false
	}
	b.mu.Lock()
	b.refused = !b.refused
	refuse := b.refused
	b.mu.Unlock()
	if refuse {
		w.Header().Set("Retry-After", "0")
		b.fail(w, http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", "The service is temporarily unavailable. Retry in 0 seconds.")
	}
	return refuse
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

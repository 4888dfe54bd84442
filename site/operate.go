package site

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// controller is what enforcing and operating need of a BMC.
type controller interface {
	bmc.Booter
	bmc.Loader
	bmc.Lamp
	power
}

type power interface {
	bmc.Switcher
	State(ctx context.Context) (bmc.State, error)
}

// outcome is how an operation ended, as it is kept until it is reported.
type outcome struct {
	Error string    `json:"error,omitempty"`
	Off   time.Time `json:"off,omitzero"` // when power was seen to be off
}

// operate carries out the wanted operation unless that was done before, and
// reports how it ended.
func (b *BMCs) operate(ctx context.Context, c controller, want *ingotv1.BMCWanted) error {
	op := want.GetOperation()
	if op.GetId() == "" {
		return nil
	}
	kept := filepath.Join(b.cfg.Dir, op.GetId()+".json")
	var end outcome
	switch text, err := os.ReadFile(kept); {
	case err == nil:
		if err := json.Unmarshal(text, &end); err != nil {
			end = outcome{Error: "operation " + op.GetId() + ": its record on the site is damaged; it was carried out"}
		}
	case errors.Is(err, fs.ErrNotExist):
		var off time.Time
		off, err := b.act(ctx, c, op.GetAction(), want)
		if ctx.Err() != nil {
			return ctx.Err() // not ended: it is carried out again
		}
		end.Off = off
		if err != nil {
			end.Error = err.Error()
		}
		text, err := json.Marshal(end)
		if err != nil {
			return err
		}
		if err := os.WriteFile(kept, text, 0o600); err != nil {
			return unavailable("operation "+op.GetId(), "was carried out but cannot be recorded", err)
		}
		b.cfg.Log.Info("operation carried out", "bmc", want.GetId(), "operation", op.GetId(), "action", op.GetAction(), "error", end.Error)
	default:
		return unavailable("operation "+op.GetId(), "cannot be looked up", err)
	}
	done := &ingotv1.SiteServiceDoneRequest{Partition: b.cfg.Partition, Operation: op.GetId(), Error: end.Error}
	if !end.Off.IsZero() {
		done.PowerOffSeen = timestamppb.New(end.Off)
	}
	if _, err := b.cfg.API.Done(ctx, connect.NewRequest(done)); err != nil {
		return unavailable("operation "+op.GetId(), "cannot be reported", err)
	}
	return b.forget()
}

// forget removes records of operations that ended long ago, now and then: there
// may be as many as BMCs.
func (b *BMCs) forget() error {
	b.mu.Lock()
	due := time.Since(b.forgot) >= time.Hour
	if due {
		b.forgot = time.Now()
	}
	b.mu.Unlock()
	if !due {
		return nil
	}
	all, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 7*24*time.Hour && strings.HasSuffix(e.Name(), ".json") {
			if err := os.Remove(filepath.Join(b.cfg.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// act carries out one action, in order: medium, override, power. It returns
// when power was seen to be off, if the action turns it off.
func (b *BMCs) act(ctx context.Context, c controller, a ingotv1.OperationAction, want *ingotv1.BMCWanted) (off time.Time, err error) {
	switch a {
	case ingotv1.OperationAction_OPERATION_ACTION_ON:
		return off, b.powerOn(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_OFF:
		return b.powerOff(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_SHUTDOWN:
		return b.shutdown(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_RESET:
		return off, c.SetPower(ctx, bmc.Reset)
	case ingotv1.OperationAction_OPERATION_ACTION_INTERRUPT:
		return off, c.SetPower(ctx, bmc.NMI)
	case ingotv1.OperationAction_OPERATION_ACTION_CYCLE:
		return b.cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM:
		is, err := c.State(ctx)
		if err != nil {
			return off, err
		}
		w := &ingotv1.BMCWanted{Id: want.GetId(), Medium: true, BootMedium: want.GetBootMedium()}
		if _, err := b.enforce(ctx, c, w, is); err != nil {
			return off, err
		}
		return b.cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_BOOT_FROM_DISK:
		if err := c.SetBoot(ctx, bmc.None, bmc.Disabled); err != nil {
			return off, err
		}
		return b.cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_BOOT_TO_BIOS:
		if err := c.SetBoot(ctx, bmc.Setup, bmc.Once); err != nil {
			return off, err
		}
		return b.cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_LED_ON:
		return off, c.SetLED(ctx, true)
	case ingotv1.OperationAction_OPERATION_ACTION_LED_OFF:
		return off, c.SetLED(ctx, false)
	default:
		return off, fault.Newf(fault.Unimplemented, "action", "%v is not known to this site", a).Do("update the site's ingotd")
	}
}

// cycle takes the power away, sees that it is gone, and gives it back.
func (b *BMCs) cycle(ctx context.Context, c power) (off time.Time, err error) {
	if off, err = b.powerOff(ctx, c); err != nil {
		return off, err
	}
	return off, b.powerOn(ctx, c)
}

func (b *BMCs) powerOn(ctx context.Context, c power) error {
	if err := c.SetPower(ctx, bmc.PowerOn); err != nil {
		return err
	}
	return see(ctx, c, bmc.On, b.cfg.Switch)
}

func (b *BMCs) powerOff(ctx context.Context, c power) (time.Time, error) {
	if err := c.SetPower(ctx, bmc.PowerOff); err != nil {
		return time.Time{}, err
	}
	if err := see(ctx, c, bmc.Off, b.cfg.Switch); err != nil {
		return time.Time{}, err
	}
	return time.Now(), nil
}

// shutdown asks the operating system to end, and takes the power away from one
// that has not done so within the grace, or cannot be asked.
func (b *BMCs) shutdown(ctx context.Context, c power) (time.Time, error) {
	switch err := c.SetPower(ctx, bmc.Shutdown); {
	case err == nil:
		if see(ctx, c, bmc.Off, b.cfg.Grace) == nil {
			return time.Now(), nil
		}
	case !errors.Is(err, fault.Unimplemented) && !errors.Is(err, fault.Invalid):
		return time.Time{}, err
	}
	return b.powerOff(ctx, c)
}

// see waits until a server has power, or has none.
func see(ctx context.Context, c power, want bmc.Power, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var seen bmc.Power
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		if is, err := c.State(ctx); err == nil {
			if seen = is.Power; seen == want {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fault.Newf(fault.Unavailable, "power", "is still %q %v after it was turned %s", seen, within, strings.ToLower(string(want))).
				Do("turn the server " + strings.ToLower(string(want)) + " by hand and check its BMC")
		}
		pause(ctx, wait)
	}
}

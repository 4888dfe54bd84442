package site

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// BMCs looks at the partition's BMCs and keeps media, boot order and power as
// wanted (MEP-20, virtual media enforcement). It reads before it writes, and
// leaves alone what the control plane does not enforce.
type BMCs struct {
	cfg BMCsConfig
}

// BMCsConfig of BMCs.
type BMCsConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	// Dir is where finished operations are remembered, so that a power action
	// is not repeated because its report was lost.
	Dir string
	// Medium returns the boot medium that is served, nil if there is none, and
	// a channel that is closed when there is another one.
	Medium func() (*ingotv1.Medium, <-chan struct{})
	// Every is how often each BMC is looked at; a minute if zero.
	Every time.Duration
	Log   *slog.Logger
}

// NewBMCs returns BMCs that have looked at none yet.
func NewBMCs(c BMCsConfig) (*BMCs, error) {
	if c.Every == 0 {
		c.Every = time.Minute
	}
	return &BMCs{cfg: c}, os.MkdirAll(c.Dir, 0o700)
}

// Name implements Part.
func (b *BMCs) Name() string { return "bmc" }

// Run implements Part. Each BMC has a goroutine of its own, because one that
// answers slowly must not hold up the others; it ends when the BMC is no
// longer wanted, or with ctx.
func (b *BMCs) Run(ctx context.Context, wanted Wanted) {
	var all sync.WaitGroup
	defer all.Wait()
	workers := map[string]context.CancelFunc{}
	for ctx.Err() == nil {
		w, moved := wanted()
		named := map[string]bool{}
		for _, want := range w.GetBmcs() {
			named[want.GetId()] = true
			if workers[want.GetId()] == nil {
				own, stop := context.WithCancel(ctx)
				workers[want.GetId()] = stop
				all.Go(func() { b.attend(own, want.GetId(), wanted) })
			}
		}
		for id, stop := range workers {
			if !named[id] {
				stop()
				delete(workers, id)
			}
		}
		select {
		case <-ctx.Done():
		case <-moved:
		}
	}
	for _, stop := range workers {
		stop()
	}
}

// attend looks after one BMC until ctx ends.
func (b *BMCs) attend(ctx context.Context, id string, wanted Wanted) {
	find := func() (*ingotv1.BMCWanted, <-chan struct{}) {
		w, moved := wanted()
		for _, want := range w.GetBmcs() {
			if want.GetId() == id {
				return want, moved
			}
		}
		return nil, moved
	}
	failures := 0
	for ctx.Err() == nil {
		want, moved := find()
		if want == nil {
			return
		}
		again := b.cfg.Every
		_, remade := b.cfg.Medium()
		if err := b.Step(ctx, want); err != nil && ctx.Err() == nil {
			failures++
			again = min(again, time.Second<<min(failures, 6))
			b.cfg.Log.Warn("a BMC is not as wanted", "bmc", id, "again", again, "error", err)
		} else {
			failures = 0
		}
		// Another wanted state is only of interest if it changes this BMC.
		t := time.NewTimer(again)
		for waiting := true; waiting && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-t.C:
				waiting = false
			case <-remade:
				waiting = false
			case <-moved:
				var now *ingotv1.BMCWanted
				now, moved = find()
				waiting = now != nil && sameWanted(now, want)
			}
		}
		t.Stop()
	}
}

func sameWanted(a, b *ingotv1.BMCWanted) bool {
	return a.GetAddress() == b.GetAddress() && a.GetUser() == b.GetUser() && a.GetPassword() == b.GetPassword() && a.GetCa() == b.GetCa() &&
		a.GetEnforce() == b.GetEnforce() && a.GetMedium() == b.GetMedium() && a.GetOperation().GetId() == b.GetOperation().GetId()
}

// timeout bounds one look at one BMC, operation included.
const timeout = 5 * time.Minute

// Step looks at one BMC, makes it as wanted, carries out its operation if
// there is one, and reports. What it found is reported in any case.
func (b *BMCs) Step(ctx context.Context, want *ingotv1.BMCWanted) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	report := &ingotv1.BMCReport{Id: want.GetId(), Status: &ingotv1.BMCStatus{}}
	err := b.look(ctx, want, report)
	if err != nil {
		report.Status.LastError = err.Error()
		report.Status.LastErrorTime = timestamppb.Now()
	}
	_, told := b.cfg.API.Report(ctx, connect.NewRequest(&ingotv1.SiteServiceReportRequest{
		Partition: b.cfg.Partition, Reports: []*ingotv1.BMCReport{report},
	}))
	if told != nil {
		told = unavailable("bmc "+want.GetId(), "cannot be reported", told)
	}
	return errors.Join(err, told)
}

func (b *BMCs) look(ctx context.Context, want *ingotv1.BMCWanted, report *ingotv1.BMCReport) error {
	c, err := bmc.Open(ctx, endpoint(want))
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) // a session left open is one less for the next
	inv, err := c.Inventory(ctx)
	if err != nil {
		return err
	}
	describe(report, want, inv)
	// A BMC that was put into another server must not act on the new one.
	if want.GetMachine() != "" && report.GetMachine() != want.GetMachine() {
		return misplaced(want, report.GetMachine())
	}
	touched := want.GetOperation().GetId() != ""
	if want.GetEnforce() {
		wrote, err := b.enforce(ctx, c, want, inv.State)
		if err != nil {
			return err
		}
		touched = touched || wrote
	}
	if err := b.operate(ctx, c, want); err != nil {
		return err
	}
	if !touched {
		return nil // the inventory has said how things are
	}
	now, err := c.State(ctx)
	if err != nil {
		return err
	}
	setState(report, now)
	return nil
}

// enforce brings medium and boot override about. An override that lasts is
// asked for first; BMCs that know only the next boot get that one again and
// again. It reports whether it wrote anything.
func (b *BMCs) enforce(ctx context.Context, c controller, want *ingotv1.BMCWanted, is bmc.State) (wrote bool, err error) {
	if !want.GetMedium() {
		if is.BootDuration == bmc.Disabled || is.Boot == bmc.None {
			return false, nil
		}
		return true, c.SetBoot(ctx, bmc.None, bmc.Disabled)
	}
	medium, _ := b.cfg.Medium()
	if medium.GetUrl() == "" {
		return false, fault.New(fault.Precondition, "partition "+b.cfg.Partition, "has no boot medium yet", "look at the site's boot part and the partition's boot configuration")
	}
	if !is.Inserted || is.Media != medium.GetUrl() {
		if err := c.Insert(ctx, medium.GetUrl()); err != nil {
			return true, err
		}
		wrote = true
	}
	if is.Boot == bmc.CD && is.BootDuration != bmc.Disabled {
		return wrote, nil
	}
	if err = c.SetBoot(ctx, bmc.CD, bmc.Continuous); err != nil {
		err = c.SetBoot(ctx, bmc.CD, bmc.Once)
	}
	return true, err
}

// controller is what enforcing and operating need of a BMC.
type controller interface {
	bmc.Booter
	bmc.Loader
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

// forget removes records of operations that ended long ago.
func (b *BMCs) forget() error {
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
		return off, c.SetPower(ctx, bmc.PowerOn)
	case ingotv1.OperationAction_OPERATION_ACTION_OFF:
		return powerOff(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_RESET:
		return off, c.SetPower(ctx, bmc.Reset)
	case ingotv1.OperationAction_OPERATION_ACTION_CYCLE:
		return cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM:
		is, err := c.State(ctx)
		if err != nil {
			return off, err
		}
		w := &ingotv1.BMCWanted{Id: want.GetId(), Medium: true}
		if _, err := b.enforce(ctx, c, w, is); err != nil {
			return off, err
		}
		return cycle(ctx, c)
	case ingotv1.OperationAction_OPERATION_ACTION_BOOT_FROM_DISK:
		if err := c.SetBoot(ctx, bmc.None, bmc.Disabled); err != nil {
			return off, err
		}
		return cycle(ctx, c)
	default:
		return off, fault.Newf(fault.Unimplemented, "action", "%v is not known to this site", a).Do("update the site's ingotd")
	}
}

// cycle takes the power away, sees that it is gone, and gives it back.
func cycle(ctx context.Context, c power) (off time.Time, err error) {
	if off, err = powerOff(ctx, c); err != nil {
		return off, err
	}
	return off, c.SetPower(ctx, bmc.PowerOn)
}

// offTimeout is how long a server may take to lose power.
const offTimeout = 90 * time.Second

func powerOff(ctx context.Context, c power) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, offTimeout)
	defer cancel()
	if err := c.SetPower(ctx, bmc.PowerOff); err != nil {
		return time.Time{}, err
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		is, err := c.State(ctx)
		if err == nil && is.Power == bmc.Off {
			return time.Now(), nil
		}
		if ctx.Err() != nil {
			return time.Time{}, fault.Newf(fault.Unavailable, "power", "is still %q %v after it was turned off", is.Power, offTimeout).
				Do("turn the server off by hand and check its BMC")
		}
		pause(ctx, wait)
	}
}

// describe fills in what the inventory says.
func describe(r *ingotv1.BMCReport, want *ingotv1.BMCWanted, inv bmc.Inventory) {
	r.Machine = strings.ToLower(inv.UUID)
	r.Status.LastSeen = timestamppb.New(inv.ReadAt)
	r.Status.Vendor, r.Status.Model, r.Status.FirmwareVersion = inv.Manufacturer, inv.Model, inv.Firmware
	r.Report = &apiv2.MachineBMCReport{
		Bmc: &apiv2.MachineBMC{
			Address: want.GetAddress(), User: want.GetUser(), Interface: "redfish",
			Version: inv.Firmware, PowerState: strings.ToUpper(string(inv.Power)),
		},
		Bios:      &apiv2.MachineBios{Version: inv.BIOS},
		Fru:       &apiv2.MachineFRU{ProductManufacturer: &inv.Manufacturer, ProductPartNumber: &inv.Model, ProductSerial: &inv.Serial},
		UpdatedAt: timestamppb.New(inv.ReadAt),
	}
	r.Status.Macs = inv.BMCMACs
	if len(inv.BMCMACs) > 0 {
		r.Report.Bmc.Mac = inv.BMCMACs[0]
	}
	setState(r, inv.State)
}

func setState(r *ingotv1.BMCReport, s bmc.State) {
	r.Status.PowerState = string(s.Power)
	r.Report.Bmc.PowerState = strings.ToUpper(string(s.Power))
	r.Status.Medium = &ingotv1.BootMediumStatus{
		Inserted: s.Inserted, Url: s.Media, OverrideTarget: string(s.Boot), OverrideEnabled: string(s.BootDuration), Checked: timestamppb.Now(),
	}
}

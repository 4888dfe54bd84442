package site

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

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

	mu     sync.Mutex
	open   map[string]*session // by the BMC's id
	forgot time.Time           // when old records were last removed
}

// BMCsConfig of BMCs.
type BMCsConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	// Dir is where finished operations are remembered, so that a power action
	// is not repeated because its report was lost.
	Dir string
	// Medium returns the boot medium of a kind that is served, nil if there is
	// none, and a channel that is closed when there is another one.
	Medium func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{})
	// Every is how often each BMC is looked at; a minute if zero.
	Every time.Duration
	// Grace is how long an operating system may take to shut down before the
	// power is taken away; two minutes if zero.
	Grace time.Duration
	// Switch is how long a server may take to lose or get power; 90 s if zero.
	Switch time.Duration
	Log    *slog.Logger
}

// NewBMCs returns BMCs that have looked at none yet.
func NewBMCs(c BMCsConfig) (*BMCs, error) {
	if c.Every == 0 {
		c.Every = time.Minute
	}
	if c.Grace == 0 {
		c.Grace = 2 * time.Minute
	}
	if c.Switch == 0 {
		c.Switch = 90 * time.Second
	}
	return &BMCs{cfg: c, open: map[string]*session{}}, os.MkdirAll(c.Dir, 0o700)
}

// Name implements Part.
func (b *BMCs) Name() string { return "bmc" }

// Run implements Part. Each BMC has a goroutine of its own, because one that
// answers slowly must not hold up the others; it ends when the BMC is no
// longer wanted, or with ctx. It is told of what changes for its own BMC only:
// a thousand that look through what is wanted of a thousand at every change
// would be busy with nothing else.
func (b *BMCs) Run(ctx context.Context, wanted Wanted) {
	type worker struct {
		want *ingotv1.BMCWanted
		news chan *ingotv1.BMCWanted // the newest that was not seen yet
		stop context.CancelFunc
	}
	var all sync.WaitGroup
	defer all.Wait()
	workers := map[string]*worker{}
	for ctx.Err() == nil {
		w, moved := wanted()
		named := map[string]bool{}
		for _, want := range w.GetBmcs() {
			id := want.GetId()
			named[id] = true
			at := workers[id]
			if at == nil {
				own, stop := context.WithCancel(ctx)
				at = &worker{news: make(chan *ingotv1.BMCWanted, 1), stop: stop}
				workers[id] = at
				all.Go(func() { b.attend(own, id, at.news) })
			} else if proto.Equal(at.want, want) {
				continue
			}
			at.want = want
			select {
			case <-at.news: // it is out of date
			default:
			}
			at.news <- want
		}
		for id, at := range workers {
			if !named[id] {
				at.stop()
				delete(workers, id)
			}
		}
		select {
		case <-ctx.Done():
		case <-moved:
		}
	}
	for _, at := range workers {
		at.stop()
	}
}

// settle is how soon a BMC is looked at again of which not everything is known.
const settle = time.Second

// attend looks after one BMC until ctx ends.
func (b *BMCs) attend(ctx context.Context, id string, news <-chan *ingotv1.BMCWanted) {
	defer b.leave(ctx, id)
	var want *ingotv1.BMCWanted
	select {
	case want = <-news:
	case <-ctx.Done():
		return
	}
	failures := 0
	for ctx.Err() == nil {
		again := b.cfg.Every
		_, remade := b.cfg.Medium(want.GetBootMedium())
		complete, err := b.Step(ctx, want)
		switch {
		case err != nil && ctx.Err() == nil:
			failures++
			again = min(again, time.Second<<min(failures, 6))
			b.cfg.Log.Warn("a BMC is not as wanted", "bmc", id, "again", again, "error", err)
		case !complete:
			again = min(again, settle)
			fallthrough
		default:
			failures = 0
		}
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-remade:
		case want = <-news:
		}
		t.Stop()
	}
}

// A session is kept with a BMC from one look to the next: logging in and out
// each time would be two of five requests, and half of what many BMCs have in
// their audit logs.
type session struct {
	at bmc.Endpoint
	c  driver
	// failed is the own account that could not be made, and why.
	failed    *ingotv1.BMCAccount
	failedFor error
}

// driver is what a site needs of a BMC.
type driver interface {
	bmc.Inspector
	bmc.Keeper
	bmc.Truster
	controller
	Close(ctx context.Context)
}

// visit returns a session with the BMC: the one that was kept, unless the BMC
// or its accounts are others now. It reports whether it is a kept one.
func (b *BMCs) visit(ctx context.Context, want *ingotv1.BMCWanted) (s *session, kept bool, err error) {
	ways := endpoints(want)
	b.mu.Lock()
	s = b.open[want.GetId()]
	b.mu.Unlock()
	if s != nil && slices.ContainsFunc(ways, func(e bmc.Endpoint) bool { return alike(e, s.at) }) {
		return s, true, nil
	}
	b.leave(ctx, want.GetId())
	for _, e := range ways {
		var r driver
		if r, err = enter(ctx, e); err == nil {
			return b.keep(want.GetId(), &session{at: e, c: r}), false, nil
		}
		if !errors.Is(err, fault.Unauthenticated) {
			break // others would end in the same way
		}
	}
	return nil, false, err
}

func (b *BMCs) keep(id string, s *session) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[id] = s
	return s
}

// leaveTimeout bounds a logout.
const leaveTimeout = 10 * time.Second

// leave ends the session with a BMC, if there is one, also after ctx ended: a
// session left open is one less for the next.
func (b *BMCs) leave(ctx context.Context, id string) {
	b.mu.Lock()
	s := b.open[id]
	delete(b.open, id)
	b.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	s.c.Close(ctx)
}

// timeout bounds one look at one BMC, operation included.
const timeout = 5 * time.Minute

// Step looks at one BMC, makes it as wanted, carries out its operation if
// there is one, and reports. What it found is reported in any case. It returns
// whether everything about the BMC is known by now.
func (b *BMCs) Step(ctx context.Context, want *ingotv1.BMCWanted) (complete bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	report := &ingotv1.BMCReport{Id: want.GetId(), Status: &ingotv1.BMCStatus{}}
	complete, err = b.look(ctx, want, report)
	if err != nil {
		report.Status.LastError = err.Error()
		report.Status.LastErrorTime = timestamppb.Now()
	}
	if err == nil && !complete && want.GetMachine() != "" && want.GetOperation().GetId() == "" {
		return false, nil // half of what is known already would be no news; the rest follows soon
	}
	_, told := b.cfg.API.Report(ctx, connect.NewRequest(&ingotv1.SiteServiceReportRequest{
		Partition: b.cfg.Partition, Reports: []*ingotv1.BMCReport{report},
	}))
	if told != nil {
		told = unavailable("bmc "+want.GetId(), "cannot be reported", told)
	}
	return complete, errors.Join(err, told)
}

// scan reads what is at a BMC. A session that is over is replaced: it idled, or
// the BMC has restarted.
func (b *BMCs) scan(ctx context.Context, want *ingotv1.BMCWanted) (*session, bmc.Inventory, error) {
	for {
		s, kept, err := b.visit(ctx, want)
		if err != nil {
			return nil, bmc.Inventory{}, err
		}
		inv, err := s.c.Scan(ctx)
		if kept && errors.Is(err, fault.Unauthenticated) {
			b.leave(ctx, want.GetId())
			continue
		}
		return s, inv, err
	}
}

func (b *BMCs) look(ctx context.Context, want *ingotv1.BMCWanted, report *ingotv1.BMCReport) (complete bool, err error) {
	s, inv, err := b.scan(ctx, want)
	if err != nil {
		return false, err
	}
	describe(report, want, inv)
	// A BMC that was put into another server must not act on the new one.
	if want.GetMachine() != "" && report.GetMachine() != want.GetMachine() {
		return inv.Complete, misplaced(want, report.GetMachine())
	}
	s, err = b.own(ctx, want, s)
	c := s.c
	report.Status.OwnAccount = alike(s.at, endpoint(want, want.GetOwn()))
	if err != nil {
		report.Status.OwnAccountError = err.Error()
	}
	// A BMC that takes no medium can still be asked to switch the power.
	touched, trusted := want.GetOperation().GetId() != "", false
	defer func() { b.qualify(report.GetStatus().GetMedium(), trusted) }()
	var unable error
	if want.GetEnforce() {
		var wrote bool
		if trusted, unable = b.trust(ctx, c, want); unable == nil {
			wrote, unable = b.enforce(ctx, c, want, inv.State)
		}
		touched = touched || wrote
	}
	if unable != nil && want.GetOperation().GetAction() == ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM {
		return inv.Complete, unable // it can wait, and would fail for the same reason
	}
	if err := errors.Join(unable, b.operate(ctx, c, want)); err != nil || !touched {
		return inv.Complete, err // the scan has said how things are
	}
	now, err := c.State(ctx)
	if err != nil {
		return inv.Complete, err
	}
	setState(report, now)
	return inv.Complete, nil
}

// enforce brings medium and boot override about. An override that lasts is
// asked for first; BMCs that know only the next boot get that one again and
// again. It reports whether it wrote anything.
func (b *BMCs) enforce(ctx context.Context, c controller, want *ingotv1.BMCWanted, is bmc.State) (wrote bool, err error) {
	if is.Boot == bmc.Setup && is.BootDuration == bmc.Once {
		return false, nil // somebody asked for the firmware's menu, and it did not come up yet
	}
	if !want.GetMedium() {
		if is.BootDuration == bmc.Disabled || is.Boot == bmc.None {
			return false, nil
		}
		return true, c.SetBoot(ctx, bmc.None, bmc.Disabled)
	}
	if want.GetBootMedium() == ingotv1.BootMedium_BOOT_MEDIUM_STICK {
		return bootFrom(ctx, c, bmc.USB, is)
	}
	medium, _ := b.cfg.Medium(want.GetBootMedium())
	if medium.GetUrl() == "" {
		return false, fault.New(fault.Precondition, "partition "+b.cfg.Partition, "has no boot medium yet", "look at the site's boot part and the partition's boot configuration")
	}
	if !is.Inserted || is.Media != medium.GetUrl() {
		if err := c.Insert(ctx, medium.GetUrl()); err != nil {
			return true, err
		}
		wrote = true
	}
	set, err := bootFrom(ctx, c, bmc.CD, is)
	return wrote || set, err
}

// bootFrom sets the boot override, and reports whether it had to.
func bootFrom(ctx context.Context, c bmc.Booter, from bmc.Target, is bmc.State) (wrote bool, err error) {
	if is.Boot == from && is.BootDuration != bmc.Disabled {
		return false, nil
	}
	if err = c.SetBoot(ctx, from, bmc.Continuous); err != nil {
		err = c.SetBoot(ctx, from, bmc.Once)
	}
	return true, err
}

// trust has the server's firmware trust the authority that the medium needs,
// and reports whether it does. A BMC that cannot bring that about is no error:
// iPXE may have been built with the authority.
func (b *BMCs) trust(ctx context.Context, c bmc.Truster, want *ingotv1.BMCWanted) (bool, error) {
	if !want.GetMedium() || want.GetAuthority() == "" {
		return true, nil
	}
	switch added, err := c.Trust(ctx, []byte(want.GetAuthority())); {
	case errors.Is(err, fault.Unimplemented):
		return false, nil
	case err != nil:
		return false, err
	case added:
		b.cfg.Log.Info("the firmware was given the partition's authority", "bmc", want.GetId())
	}
	return true, nil
}

// qualify says what the medium is that a BMC presents, and whether it is
// trusted.
func (b *BMCs) qualify(is *ingotv1.BootMediumStatus, trusted bool) {
	if is == nil {
		return
	}
	is.Trusted = trusted
	for _, kind := range []ingotv1.BootMedium{ingotv1.BootMedium_BOOT_MEDIUM_UKI, ingotv1.BootMedium_BOOT_MEDIUM_IPXE} {
		if m, _ := b.cfg.Medium(kind); m.GetUrl() != "" && m.GetUrl() == is.GetUrl() && is.GetInserted() {
			is.Kind = kind
		}
	}
}

// Package agent is what the boot image does on a server: find the network,
// prove who it is, report the hardware, wipe the disks, wait for an
// allocation, install it and start it.
//
// It decides nothing. The control plane tells it what to do next; it does
// that, retries what can be retried, and reports every step with the time it
// took, or the reason why it failed and what a person can do about it.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Config is what an agent is started with. It comes with the boot medium.
type Config struct {
	// Boot is where metal-boot answers in the boot network, with the scheme.
	Boot *url.URL
	// CA is the partition's certificate authority, from inside the medium.
	CA *x509.CertPool
	// Version of the agent, for the record.
	Version string
	// Log writes to the console. It never sees a secret.
	Log *slog.Logger
}

// An Agent works through its stages, one Step at a time. It is not safe for
// concurrent use.
type Agent struct {
	cfg    Config
	stages []stage
	now    int // index of the current stage
	tries  int // of the current stage, failed

	api     *api
	network *Network
	uuid    string
	bootID  string
	disks   []*ingotv1.Disk // as registered
	wipe    []string        // by kernel name
	wipes   []*ingotv1.Wipe // what became of disks in this boot
	proven  int             // how many of them the control plane knows
	install *ingotv1.Installation
	system  *System // installed, ready to start
	reboot  string  // why the control plane wants a reboot

	background func(func(context.Context)) // runs until Run returns

	pending []*ingotv1.AgentServiceReportRequest // steps that nobody heard of yet
}

// A stage is one step of the way. When run returns nil the agent goes on to
// the next one.
type stage struct {
	step ingotv1.AgentStep
	run  func(*Agent, context.Context) error
	// limit is how often it may fail in a row before the machine reboots and
	// everything starts again.
	limit int
}

// New returns an agent that has done nothing yet.
func New(cfg Config) *Agent {
	return &Agent{cfg: cfg, stages: stages}
}

// stages in order. The limits allow for about ten minutes of trouble.
var stages = []stage{
	{ingotv1.AgentStep_AGENT_STEP_LINK, (*Agent).linkUp, 20},
	{ingotv1.AgentStep_AGENT_STEP_ADDRESS, (*Agent).findAddress, 20},
	{ingotv1.AgentStep_AGENT_STEP_TIME, (*Agent).setClock, 40},
	{ingotv1.AgentStep_AGENT_STEP_TOKEN, (*Agent).identify, 40},
	{ingotv1.AgentStep_AGENT_STEP_REGISTER, (*Agent).register, 40},
	{ingotv1.AgentStep_AGENT_STEP_WIPE, (*Agent).wipeDisks, 40},
	{ingotv1.AgentStep_AGENT_STEP_WAIT, (*Agent).wait, 1 << 30},
	{ingotv1.AgentStep_AGENT_STEP_CHECK, (*Agent).examine, 2},
	{ingotv1.AgentStep_AGENT_STEP_PARTITION, (*Agent).partition, 2},
	{ingotv1.AgentStep_AGENT_STEP_FILESYSTEM, (*Agent).makeFilesystems, 2},
	{ingotv1.AgentStep_AGENT_STEP_IMAGE, (*Agent).writeImage, 5},
	{ingotv1.AgentStep_AGENT_STEP_CONFIGURE, (*Agent).configure, 2},
	{ingotv1.AgentStep_AGENT_STEP_BOOTLOADER, (*Agent).installBootloader, 2},
	{ingotv1.AgentStep_AGENT_STEP_KEXEC, (*Agent).finish, 40},
}

// ErrReboot is returned by Run when the machine shall reboot: the control
// plane wants it, or a stage has failed too often.
var ErrReboot = errors.New("reboot")

// Run works through the stages until the installed system can start, and
// returns it. It returns an error that wraps ErrReboot when the machine has to
// reboot instead, and the context's error when that ends.
func (a *Agent) Run(ctx context.Context) (*System, error) {
	aside, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	a.background = func(f func(context.Context)) { group.Go(func() { f(aside) }) }
	for a.now < len(a.stages) {
		failed := a.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case a.reboot != "":
			return nil, fmt.Errorf("%w: %s", ErrReboot, a.reboot)
		case failed == nil:
			continue
		case a.tries >= a.stages[a.now].limit:
			return nil, fmt.Errorf("%w: %w", ErrReboot, failed)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(backOff(a.tries)):
		}
	}
	return a.system, nil
}

// backOff grows from a quarter of a second to fifteen seconds.
func backOff(tries int) time.Duration {
	return min(15*time.Second, 250*time.Millisecond<<min(tries-1, 10))
}

// Step runs the current stage once. A nil error means that the agent has moved
// on to the next one.
func (a *Agent) Step(ctx context.Context) error {
	s := a.stages[a.now]
	if a.tries == 0 {
		a.report(ctx, s.step, ingotv1.StepState_STEP_STATE_BEGUN, "", 0)
	}
	start := time.Now()
	err := s.run(a, ctx)
	took := time.Since(start)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.tries++
		if fatal(err) {
			a.tries = s.limit
		}
		a.cfg.Log.Error("step failed", "step", stepName(s.step), "try", a.tries, "error", err)
		// A step has failed when nobody tries it again; until then it is slow.
		state, message := ingotv1.StepState_STEP_STATE_PROGRESS, fmt.Sprintf("try %d: %v", a.tries, err)
		if a.tries >= s.limit {
			state, message = ingotv1.StepState_STEP_STATE_FAILED, err.Error()
		}
		a.report(ctx, s.step, state, message, took)
		return err
	}
	a.cfg.Log.Info("step done", "step", stepName(s.step), "took", took.Round(time.Millisecond))
	a.report(ctx, s.step, ingotv1.StepState_STEP_STATE_DONE, "", took)
	a.now, a.tries = a.now+1, 0
	return nil
}

// fatal reports whether another try in this boot cannot help: what was asked for
// is wrong, or a disk is worn out.
func fatal(err error) bool { return errors.Is(err, fault.Invalid) || errors.Is(err, errNotWiped) }

// report tells the control plane about a step, or keeps it until the agent has
// an identity. Reports are for people: losing one never stops the machine.
func (a *Agent) report(ctx context.Context, step ingotv1.AgentStep, state ingotv1.StepState, message string, took time.Duration) {
	const most = 1024 // the contract's limit
	if len(message) > most {
		message = message[:most]
	}
	r := &ingotv1.AgentServiceReportRequest{Step: step, State: state, Message: message}
	if took > 0 {
		r.Took = durationpb.New(took)
	}
	a.send(ctx, r)
}

// progress tells how far a step is, in percent, and the time left.
func (a *Agent) progress(ctx context.Context, step ingotv1.AgentStep, percent int, left time.Duration, message string) {
	a.send(ctx, &ingotv1.AgentServiceReportRequest{
		Step: step, State: ingotv1.StepState_STEP_STATE_PROGRESS, Message: message,
		Percent: uint32(min(100, max(0, percent))), TimeLeft: durationpb.New(left),
	})
}

const mostPending = 64

func (a *Agent) send(ctx context.Context, r *ingotv1.AgentServiceReportRequest) {
	if len(a.pending) < mostPending {
		a.pending = append(a.pending, r)
	}
	if a.bootID == "" || a.api == nil || !a.api.known() {
		return
	}
	for len(a.pending) > 0 {
		r := a.pending[0]
		r.Uuid, r.BootId = a.uuid, a.bootID
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.api.report(ctx, r)
		cancel()
		if err != nil {
			a.cfg.Log.Warn("report is kept for later", "step", stepName(r.GetStep()), "error", err)
			return
		}
		a.pending = a.pending[1:]
	}
}

func stepName(s ingotv1.AgentStep) string {
	return nameOf(s.String(), "AGENT_STEP_")
}

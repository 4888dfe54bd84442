package leaf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A Device is the switch itself: Linux, or the simulator's.
type Device interface {
	// Check lets the device's own parsers read what would be applied.
	Check(context.Context, Files) error
	// Apply makes it so and reads it back. It is idempotent.
	Apply(context.Context, Files) error
	// Ports says what the ports are now.
	Ports(context.Context) ([]Port, error)
}

// Config says which switch an agent runs on and whom it serves.
type Config struct {
	// Switch is the name under which the leaf was enrolled.
	Switch    string
	Partition string
	// ManagementIP is the address an operator reaches the switch at.
	ManagementIP string
	// Management are interfaces that are no front panel ports; a
	// configuration that names one of them is refused.
	Management []string
	// Uplinks are the ports that lead to other switches.
	Uplinks []string
	// OS and Version are the releases of the switch's system and of the agent.
	OS, Version string
	FRR         FRRVersion
	// Dir is the folder for what has to survive a restart.
	Dir string
	// API is the control plane, with the leaf's own identity.
	API ingotv1connect.LeafServiceClient
	// Device is the switch.
	Device Device
	// Neighbors and Boot may be nil: then no LLDP is spoken, and no server is
	// served.
	Neighbors *Neighbors
	Boot      *boot.Server
	Log       *slog.Logger
}

// An Agent keeps one switch as the control plane wants it.
type Agent struct {
	cfg  Config
	kick chan struct{}

	mu     sync.Mutex
	wanted *ingotv1.LeafConfiguration // the newest one that was offered

	// What follows belongs to Step.
	effective  *ingotv1.LeafConfiguration // the last one that was read back
	registered string                     // the ports that were announced
	complained string
}

// New returns an agent that knows the last good configuration, if there is
// one in its folder. Its first Step applies that, whether or not the control
// plane can be reached.
func New(cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	a := &Agent{cfg: cfg, kick: make(chan struct{}, 1)}
	good, err := loadConfiguration(cfg.Dir)
	if err != nil {
		return nil, err
	}
	a.wanted = good
	if cfg.Neighbors != nil {
		cfg.Neighbors.Changed = a.Kick
	}
	return a, nil
}

// Kick asks Run for a Step soon.
func (a *Agent) Kick() {
	select {
	case a.kick <- struct{}{}:
	default: // one is due already
	}
}

// Offer hands over a configuration from the control plane. One that is not
// newer than the newest known is refused: it may have been delayed, or come
// from a backup.
func (a *Agent) Offer(c *ingotv1.LeafConfiguration) error {
	object := "configuration of switch " + c.GetSwitch()
	if c.GetSwitch() != a.cfg.Switch {
		return fault.New(fault.Invalid, object, "is not for "+a.cfg.Switch, "")
	}
	if c.GetGeneration() == nil {
		return fault.New(fault.Invalid, object, "has no generation", "")
	}
	for _, p := range c.GetPorts() {
		if slices.Contains(a.cfg.Management, p.GetName()) {
			return fault.New(fault.Invalid, "port "+p.GetName(), "is a management port of this switch", "remove it from the switch's ports")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wanted != nil && !client.Newer(c.GetGeneration(), a.wanted.GetGeneration()) {
		return fault.Newf(fault.Conflict, object, "generation %s is not newer than %s", number(c.GetGeneration()), number(a.wanted.GetGeneration()))
	}
	a.wanted = c
	a.Kick()
	return nil
}

func number(g *ingotv1.Generation) string { return fmt.Sprintf("%d.%d", g.GetEpoch(), g.GetN()) }

// newest is the newest configuration that was offered.
func (a *Agent) newest() *ingotv1.LeafConfiguration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted
}

// Step makes the switch what it shall be, as far as it can, and reports what
// it is. It does nothing that is done already, and may fail at any point: the
// next one goes on from there.
func (a *Agent) Step(ctx context.Context) error {
	failed := a.converge(ctx)
	if a.cfg.Boot != nil && a.effective.GetBoot() != nil {
		b := a.effective.GetBoot()
		if err := a.certify(ctx, b); err != nil {
			failed = errors.Join(failed, err)
		}
		if err := a.cfg.Boot.Configure(b); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return errors.Join(failed, a.tell(ctx, failed))
}

// converge applies the newest configuration, or what is in effect again if
// the newest is not one this switch can be.
func (a *Agent) converge(ctx context.Context) error {
	c := a.newest()
	if c == nil {
		return nil
	}
	f, err := a.prepare(ctx, c)
	if err != nil {
		if a.effective == nil || a.effective == c {
			return err
		}
		f, again := Render(a.effective, a.cfg.FRR)
		if again == nil {
			again = a.cfg.Device.Apply(ctx, f)
		}
		return errors.Join(err, again)
	}
	if err := a.cfg.Device.Apply(ctx, f); err != nil {
		return err
	}
	if a.effective == c {
		return nil
	}
	if err := saveConfiguration(a.cfg.Dir, c); err != nil {
		return err
	}
	a.effective = c
	a.cfg.Log.Info("configuration in effect", "generation", number(c.GetGeneration()))
	return nil
}

// prepare renders a configuration and, unless it is in effect already, has it
// checked.
func (a *Agent) prepare(ctx context.Context, c *ingotv1.LeafConfiguration) (Files, error) {
	f, err := Render(c, a.cfg.FRR)
	if err == nil && a.effective != c {
		err = a.cfg.Device.Check(ctx, f)
	}
	return f, err
}

// tell announces the switch when its ports are new to the control plane, and
// reports how it is.
func (a *Agent) tell(ctx context.Context, failed error) error {
	ports, err := a.cfg.Device.Ports(ctx)
	if err != nil {
		return err
	}
	ports = slices.DeleteFunc(ports, func(p Port) bool { return slices.Contains(a.cfg.Management, p.Name) })
	if a.cfg.Neighbors != nil {
		var names []string
		for _, p := range ports {
			names = append(names, p.Name)
		}
		a.cfg.Neighbors.Watch(names)
	}
	if err := a.register(ctx, ports); err != nil {
		return err
	}
	r := &ingotv1.LeafServiceReportRequest{
		Switch: a.cfg.Switch, Partition: a.cfg.Partition, Generation: a.effective.GetGeneration(),
	}
	if failed != nil {
		r.Error = text4096(failed.Error())
	}
	for _, p := range ports {
		r.Ports = append(r.Ports, a.report(p))
	}
	_, err = a.cfg.API.Report(ctx, connect.NewRequest(r))
	return unreachable(err)
}

func unreachable(err error) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "control plane", "cannot be told", err)
}

// text4096 shortens a text to what a report takes.
func text4096(s string) string {
	if len(s) > 4096 {
		s = s[:4093] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func (a *Agent) report(p Port) *ingotv1.PortReport {
	r := &ingotv1.PortReport{
		Name: p.Name, Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN, Vrf: p.VRF, Class: p.Class, Bgp: p.BGP,
	}
	if p.Up {
		r.Status = apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP
	}
	if a.cfg.Neighbors != nil {
		r.Neighbor = a.cfg.Neighbors.On(p.Name, time.Now())
	}
	return r
}

// register announces the switch with its ports, once and whenever they change.
func (a *Agent) register(ctx context.Context, ports []Port) error {
	s := &apiv2.Switch{
		Id: a.cfg.Switch, Partition: a.cfg.Partition, ManagementIp: a.cfg.ManagementIP,
		ReplaceMode: apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_OPERATIONAL,
		Os:          &apiv2.SwitchOS{Version: a.cfg.OS, MetalCoreVersion: a.cfg.Version},
	}
	var key strings.Builder
	for _, p := range ports {
		s.Nics = append(s.Nics, &apiv2.SwitchNic{Name: p.Name, Identifier: p.Name, Mac: p.MAC.String()})
		fmt.Fprintf(&key, "%s %s\n", p.Name, p.MAC)
	}
	if key.String() == a.registered {
		return nil
	}
	if len(ports) == 0 {
		return fault.New(fault.Precondition, "switch "+a.cfg.Switch, "has no front panel ports", "name the interfaces that are not ports with --management")
	}
	_, err := a.cfg.API.Register(ctx, connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{
		Switch: s, Uplinks: a.cfg.Uplinks, FrrVersion: a.cfg.FRR.String(),
	}))
	if err != nil {
		return unreachable(err)
	}
	a.registered = key.String()
	a.cfg.Log.Info("registered", "switch", a.cfg.Switch, "ports", len(ports))
	return nil
}

const (
	// reconcileEvery is how often the switch is compared with what it shall
	// be when nothing happens.
	reconcileEvery = 10 * time.Second
	// silence is how long a stream may say nothing before it counts as dead.
	silence = time.Minute
	// backoffLeast and backoffMost bound the wait after a failure.
	backoffLeast, backoffMost = 500 * time.Millisecond, 10 * time.Second
)

// Run steps whenever something happened, and every ten seconds, until ctx
// ends. Besides, it follows the control plane's wishes, speaks LLDP and serves
// metal-boot; all of that ends with ctx.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.follow(ctx) })
	if a.cfg.Neighbors != nil {
		g.Go(func() error { return a.cfg.Neighbors.Run(ctx) })
	}
	if a.cfg.Boot != nil {
		g.Go(func() error { return a.cfg.Boot.Run(ctx) })
	}
	g.Go(func() error {
		wait := backoffLeast
		for {
			next := reconcileEvery
			if err := a.Step(ctx); err != nil {
				next, wait = wait, min(2*wait, backoffMost)
				a.complain(ctx, err)
			} else {
				wait, a.complained = backoffLeast, ""
			}
			select {
			case <-ctx.Done():
				return nil
			case <-a.kick:
			case <-time.After(next):
			}
		}
	})
	return g.Wait()
}

// complain logs an error when it is not the one before.
func (a *Agent) complain(ctx context.Context, err error) {
	if s := err.Error(); s != a.complained && ctx.Err() == nil {
		a.complained = s
		a.cfg.Log.Error("not as it shall be", "switch", a.cfg.Switch, "error", s)
	}
}

// follow keeps a stream of configurations open, whatever the control plane
// answers, until ctx ends.
func (a *Agent) follow(ctx context.Context) error {
	f := client.Follower{
		Retry: client.Retry{Min: backoffLeast, Max: backoffMost}, Silence: silence, Always: true,
		Lost: func(err error) { a.cfg.Log.Warn("no configuration stream", "switch", a.cfg.Switch, "error", err) },
	}
	_ = client.Follow(ctx, f, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.LeafServiceConfigureResponse], error) {
		return a.cfg.API.Configure(ctx, connect.NewRequest(&ingotv1.LeafServiceConfigureRequest{
			Switch: a.cfg.Switch, Partition: a.cfg.Partition, Have: a.newest().GetGeneration(),
		}))
	}, func(m *ingotv1.LeafServiceConfigureResponse) error {
		if c := m.GetConfiguration(); c != nil {
			if err := a.Offer(c); err != nil {
				a.cfg.Log.Warn("configuration refused", "error", err)
			}
		}
		return nil
	}) // ctx has ended
	return nil
}

// ManagementIP returns the address of this machine from which it reaches the
// given host and port.
func ManagementIP(ctx context.Context, hostport string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", hostport) // sends nothing
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, "control plane "+hostport, "has no route", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("").String(), nil
}

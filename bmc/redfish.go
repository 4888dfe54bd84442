package bmc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/ingot-cloud/ingot/fault"
)

// Redfish is a session with a BMC that speaks Redfish (DMTF DSP0266). It may be
// used for as long as its calls succeed; after fault.Unauthenticated (the
// session has expired, or the BMC has restarted) open another. One call is
// under way at a time.
type Redfish struct {
	object string // names the BMC in errors
	client *gofish.APIClient
	expand string // how collections are asked for with their members; empty if they are not
	spent  int    // requests before the first scan

	system string             // where the server is; empty until it was found
	drive  string             // where its virtual CD drive is; empty until it was found
	known  map[string]reading // what was read so far, by path
	// understates is that the drive says it is empty while it holds an image.
	understates bool
}

var (
	_ Inspector = (*Redfish)(nil)
	_ Switcher  = (*Redfish)(nil)
	_ Booter    = (*Redfish)(nil)
	_ Loader    = (*Redfish)(nil)
	_ Lamp      = (*Redfish)(nil)
	_ Keeper    = (*Redfish)(nil)
	_ Talker    = (*Redfish)(nil)
)

const (
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = time.Minute
	// loadTimeout does so where the BMC may fetch an image before it answers.
	loadTimeout = 10 * time.Minute
)

// Open logs in to a BMC: with a session or, where the BMC has none to give,
// with the password at each request. It must be closed: BMCs have few sessions.
func Open(ctx context.Context, e Endpoint) (*Redfish, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	base, object, err := e.parse()
	if err != nil {
		return nil, err
	}
	h, err := e.httpClient()
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, object, "its certificate authority", err)
	}
	config := gofish.ClientConfig{
		Endpoint: base, Username: e.User, Password: e.Password.Reveal(),
		HTTPClient: h, NoModifyTransport: true, ReuseConnections: true,
	}
	r := &Redfish{object: object, spent: 2, known: map[string]reading{}}
	r.client, err = gofish.ConnectContext(ctx, config)
	if status := statusOf(err); status != 0 && status != http.StatusUnauthorized {
		// No session service, or too many sessions that others left open.
		config.BasicAuth = true
		r.spent = 3
		r.client, err = gofish.ConnectContext(ctx, config)
	}
	if err != nil {
		h.CloseIdleConnections()
		return nil, explain(object, "log in", err)
	}
	switch x := r.client.Service.ProtocolFeaturesSupported.ExpandQuery; {
	case x.NoLinks:
		r.expand = "."
	case x.ExpandAll:
		r.expand = "*"
	}
	return r, nil
}

// Close logs out.
func (r *Redfish) Close(ctx context.Context) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	if s, err := r.client.GetSession(); err != nil || s.ID == "" { // the password at each request
		r.client.HTTPClient.CloseIdleConnections()
		return
	}
	r.client.WithContext(ctx).Logout()
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// statusOf returns the HTTP status of a BMC's answer that is an error; 0 if it
// is another error, or none.
func statusOf(err error) int {
	var said *schemas.Error
	if errors.As(err, &said) {
		return said.HTTPReturnedStatusCode
	}
	return 0
}

// State implements Inspector.
func (r *Redfish) State(ctx context.Context) (State, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	p := r.pass(ctx, unlimited)
	system, err := p.system()
	if err != nil {
		return State{}, err
	}
	drive := p.drive(system, p.manager(system))
	if p.gone != nil {
		return State{}, p.gone
	}
	return r.state(system, drive), nil
}

func (r *Redfish) state(system *systemDoc, drive *driveDoc) State {
	s := State{
		Power: Power(system.PowerState), Boot: cmp.Or(system.Boot.Target, None),
		BootDuration: Duration(cmp.Or(system.Boot.Enabled, string(Disabled))),
	}
	if s.Boot == usbCD {
		s.Boot = CD
	}
	if drive != nil {
		s.HasMedia, s.Inserted, s.Media = true, r.inserted(drive), drive.Image
	}
	return s
}

// inserted reports whether a drive holds a medium. Where the BMC does not say,
// or was caught saying no in spite of one, an image does.
func (r *Redfish) inserted(drive *driveDoc) bool {
	if drive.Inserted != nil && !r.understates {
		return *drive.Inserted
	}
	return drive.Image != ""
}

func macs(cards []*cardDoc) []string {
	var all []string
	for _, c := range cards {
		mac := strings.ToLower(trim(cmp.Or(c.MACAddress, c.PermanentMACAddress)))
		if mac != "" && !slices.Contains(all, mac) {
			all = append(all, mac)
		}
	}
	return all
}

// trim drops the spaces that firmware pads its strings with.
func trim(s string) string { return strings.TrimSpace(s) }

// usbCD is what Supermicro calls its virtual CD drive as a source to boot from;
// "Cd" is one that is built in.
const usbCD Target = "UsbCd"

// resetTypes are what an action is called in Redfish, the best first.
var resetTypes = map[PowerAction][]schemas.ResetType{
	PowerOn:  {schemas.OnResetType, schemas.ForceOnResetType},
	PowerOff: {schemas.ForceOffResetType},
	Shutdown: {schemas.GracefulShutdownResetType},
	Cycle:    {schemas.PowerCycleResetType},
	Reset:    {schemas.ForceRestartResetType},
	NMI:      {schemas.NmiResetType},
}

// SetPower implements Switcher.
func (r *Redfish) SetPower(ctx context.Context, a PowerAction) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	p := r.pass(ctx, unlimited)
	system, err := p.system()
	if err != nil {
		return err
	}
	switch is := Power(system.PowerState); {
	case a == PowerOn && is == On, (a == PowerOff || a == Shutdown) && is == Off:
		return nil
	case (a == Reset || a == NMI) && is == Off:
		return fault.Newf(fault.Precondition, r.object, "cannot %s a server that is off", a)
	}
	want, ok := resetTypes[a]
	if !ok {
		return fault.Newf(fault.Invalid, r.object, "there is no %s", a)
	}
	can := system.Actions.Reset.ResetTypes
	if info := system.Actions.Reset.Info; len(can) == 0 && info != "" {
		if doc := read[actionInfoDoc](p, info, hardly); doc != nil {
			for _, parameter := range doc.Parameters {
				if parameter.Name == "ResetType" {
					can = parameter.AllowableValues
				}
			}
		}
	}
	for _, t := range want {
		if len(can) == 0 || slices.Contains(can, string(t)) {
			at := cmp.Or(system.Actions.Reset.Target, system.ID+"/Actions/ComputerSystem.Reset")
			return explain(r.object, a.String(), r.send(ctx, a.String(), http.MethodPost, at, "", map[string]any{"ResetType": t}))
		}
	}
	return fault.Newf(fault.Unimplemented, r.object, "cannot %s its server; it offers %v", a, can)
}

// SetBoot implements Booter.
func (r *Redfish) SetBoot(ctx context.Context, t Target, d Duration) error {
	if d == Disabled || t == None {
		t, d = None, Disabled
	}
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	return r.change(ctx, fmt.Sprintf("set boot from %s (%s)", t, d), func(p *pass) (resource, error) {
		system, err := p.system()
		if err != nil {
			return resource{}, err
		}
		have := r.state(system, nil)
		if have.BootDuration == d && (d == Disabled || have.Boot == t) {
			return resource{}, nil
		}
		t := t
		if t == CD && strings.EqualFold(trim(system.Manufacturer), "supermicro") && slices.Contains(system.Boot.Targets, usbCD) {
			t = usbCD
		}
		if can := system.Boot.Targets; t != None && len(can) > 0 && !slices.Contains(can, t) {
			return resource{}, fault.Newf(fault.Unimplemented, r.object, "cannot boot from %s; it offers %v", t, can)
		}
		boot := map[string]any{"BootSourceOverrideEnabled": d}
		if d != Disabled { // some BMCs refuse a mode or a target that has no effect
			boot["BootSourceOverrideTarget"], boot["BootSourceOverrideMode"] = t, "UEFI"
		}
		return resource{system.ID, system.Settings.SettingsObject.ID, map[string]any{"Boot": boot}}, nil
	})
}

// SetLED implements Lamp.
func (r *Redfish) SetLED(ctx context.Context, on bool) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	return r.change(ctx, "switch the LED", func(p *pass) (resource, error) {
		system, err := p.system()
		if err != nil {
			return resource{}, err
		}
		// Either may have the lamp, and the newer property is the better one.
		if to, has := system.lamp.set(on); has {
			return resource{at: system.ID, change: to}, nil
		}
		if len(system.Links.Chassis) > 0 {
			if c := read[chassisDoc](p, system.Links.Chassis[0].ID, always); c != nil {
				if to, has := c.lamp.set(on); has {
					return resource{at: c.ID, change: to}, nil
				}
			}
		}
		if p.gone != nil {
			return resource{}, p.gone
		}
		return resource{}, fault.New(fault.Unimplemented, r.object, "shows no LED that could be switched", "")
	})
}

// led is the state of a lamp in our words. Where there are both properties the
// newer one counts: some light the LED to show that all is well.
func (l lamp) led() LED {
	active := l.LocationIndicatorActive
	switch {
	case active != nil && *active, active == nil && (l.IndicatorLED == "Lit" || l.IndicatorLED == "Blinking"):
		return LEDOn
	case active != nil, l.IndicatorLED == "Off":
		return LEDOff
	}
	return ""
}

// set returns the change that switches a lamp, nil if it is so already, and
// whether there is one.
func (l lamp) set(on bool) (change map[string]any, has bool) {
	switch is := l.led(); {
	case is == "":
		return nil, false
	case is == LEDOn == on:
		return nil, true
	case l.LocationIndicatorActive != nil:
		return map[string]any{"LocationIndicatorActive": on}, true
	case on:
		return map[string]any{"IndicatorLED": "Blinking"}, true
	default:
		return map[string]any{"IndicatorLED": "Off"}, true
	}
}

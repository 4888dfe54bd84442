package bmc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	ipmi "github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/secret"
)

// IPMI is a session with a BMC that speaks IPMI 2.0 over the network, for what
// has no Redfish. It knows no virtual media: its server boots from a USB stick
// with the same image. One call is under way at a time.
type IPMI struct {
	object string
	client *ipmi.Client
	read   time.Time // when the inventory was
	known  Inventory
}

var (
	_ Inspector = (*IPMI)(nil)
	_ Switcher  = (*IPMI)(nil)
	_ Booter    = (*IPMI)(nil)
	_ Loader    = (*IPMI)(nil)
	_ Lamp      = (*IPMI)(nil)
	_ Keeper    = (*IPMI)(nil)
	_ Truster   = (*IPMI)(nil)
)

const (
	// ipmiPort is where BMCs speak IPMI.
	ipmiPort = 623
	// packetTimeout is how long a BMC may take to answer a packet, which is
	// then sent once more.
	packetTimeout = 3 * time.Second
)

// OpenIPMI logs in to a BMC at ipmi://host[:port]. The session must be closed.
// Only the cipher suites that authenticate with HMAC (17 and 3) are used: never
// one that lets in without a password.
func OpenIPMI(ctx context.Context, e Endpoint) (*IPMI, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	u, err := url.Parse(e.Address)
	if err != nil || u.Scheme != "ipmi" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, fault.New(fault.Invalid, "bmc address", "is not of the form ipmi://host[:port]", "")
	}
	port, err := strconv.Atoi(cmp.Or(u.Port(), strconv.Itoa(ipmiPort)))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "bmc "+u.Host, "its port", err)
	}
	i := &IPMI{object: "bmc " + u.Host}
	if i.client, err = ipmi.NewClient(u.Hostname(), port, e.User, e.Password.Reveal()); err != nil {
		return nil, fault.Wrap(fault.Invalid, i.object, "its account", err)
	}
	i.client.WithTimeout(packetTimeout).WithRetry(1).WithCipherSuiteID(types.CipherSuiteID17, types.CipherSuiteID3)
	if err := i.client.Connect(ctx); err != nil {
		_ = i.client.Close(ctx) // there is no session, but a socket
		return nil, i.explain("log in", err, e.Password)
	}
	return i, nil
}

// Close logs out.
func (i *IPMI) Close(ctx context.Context) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	_ = i.client.Close(ctx) // who does not answer ends the session by itself
}

// Scan implements Inspector. FRU and versions are read once an hour.
func (i *IPMI) Scan(ctx context.Context) (Inventory, error) {
	if time.Since(i.read) >= hardly {
		return i.Inventory(ctx)
	}
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	inv := i.known
	inv.ReadAt = time.Now()
	return inv, i.status(ctx, &inv)
}

// Inventory implements Inspector. Only the state must be there: what else a
// BMC does not tell is left out.
func (i *IPMI) Inventory(ctx context.Context) (Inventory, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	inv := Inventory{ReadAt: time.Now(), Complete: true}
	if err := i.status(ctx, &inv); err != nil {
		return Inventory{}, err
	}
	if g, err := i.client.GetSystemGUID(ctx); err == nil {
		inv.UUID = systemUUID(g.GUID)
	}
	if d, err := i.client.GetDeviceID(ctx); err == nil {
		inv.Firmware = fmt.Sprintf("%d.%02x", d.MajorFirmwareRevision, d.MinorFirmwareRevision)
	}
	if f, err := i.client.GetFRU(ctx, 0, ""); err == nil {
		fru(f, &inv)
	}
	if err := ctx.Err(); err != nil {
		return Inventory{}, i.explain("read the inventory", err, secret.String{})
	}
	i.known, i.read = inv, inv.ReadAt
	return inv, nil
}

// fru fills in what the server's field replaceable unit says of itself.
func fru(f *types.FRU, inv *Inventory) {
	text := func(b []byte) string { return trim(strings.Trim(strings.ToValidUTF8(string(b), ""), "\x00")) }
	if p := f.ProductInfoArea; p != nil {
		inv.Manufacturer, inv.Model, inv.Serial = text(p.Manufacturer), text(p.Name), text(p.SerialNumber)
		inv.Parts.Product = text(p.PartModel)
	}
	if c := f.ChassisInfoArea; c != nil {
		inv.Parts.Chassis, inv.Parts.ChassisSerial = text(c.PartNumber), text(c.SerialNumber)
	}
	if b := f.BoardInfoArea; b != nil {
		inv.Parts.BoardManufacturer, inv.Parts.Board, inv.Parts.BoardSerial = text(b.Manufacturer), text(b.PartNumber), text(b.SerialNumber)
	}
}

// systemUUID is the GUID of a system as its SMBIOS has it. The standard wants
// the whole of it in reverse; most BMCs send what is in SMBIOS, and some the
// order of RFC 9562. Where the version of a UUID stands tells.
func systemUUID(g [16]byte) string {
	version := func(b byte) bool { v := b >> 4; return v >= 1 && v <= 5 }
	var b [16]byte
	switch {
	case version(g[7]): // as SMBIOS: the first three fields in little endian
		b = g
		binary.BigEndian.PutUint32(b[0:], binary.LittleEndian.Uint32(g[0:]))
		binary.BigEndian.PutUint16(b[4:], binary.LittleEndian.Uint16(g[4:]))
		binary.BigEndian.PutUint16(b[6:], binary.LittleEndian.Uint16(g[6:]))
	case version(g[6]):
		b = g
	default: // all in reverse
		for n := range g {
			b[n] = g[15-n]
		}
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// status reads what may have changed.
func (i *IPMI) status(ctx context.Context, inv *Inventory) error {
	s, err := i.client.GetChassisStatus(ctx)
	if err != nil {
		return i.explain("read the power", err, secret.String{})
	}
	inv.State = State{Power: Off, Boot: None, BootDuration: Disabled}
	if s.PowerIsOn {
		inv.Power = On
	}
	if s.ChassisIdentifySupported {
		inv.LED = LEDOff
		if s.ChassisIdentifyState != chassis.ChassisIdentifyStateOff {
			inv.LED = LEDOn
		}
	}
	inv.Sensors = nil
	for _, part := range []struct {
		name   string
		broken bool
	}{{"power", s.PowerFault || s.PowerOverload}, {"fans", s.CollingFanFault}, {"drives", s.DriveFault}} {
		health := "OK"
		if part.broken {
			health = "Critical"
		}
		inv.Sensors = append(inv.Sensors, Sensor{Part: Part{Name: part.name, State: "Enabled", Health: health}})
	}
	var flags types.BootOptionParam_BootFlags
	if err := i.client.GetSystemBootOptionsParamFor(ctx, &flags); err == nil && flags.BootFlagsValid {
		for target, selector := range selectors {
			if selector == flags.BootDeviceSelector && target != None {
				inv.Boot, inv.BootDuration = target, Once
				if flags.Persist {
					inv.BootDuration = Continuous
				}
			}
		}
	}
	return nil
}

// State implements Inspector.
func (i *IPMI) State(ctx context.Context) (State, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	var inv Inventory
	err := i.status(ctx, &inv)
	return inv.State, err
}

// controls are what an action is called in IPMI.
var controls = map[PowerAction]chassis.ChassisControl{
	PowerOn: chassis.ChassisControlPowerUp, PowerOff: chassis.ChassisControlPowerDown, Shutdown: chassis.ChassisControlSoftShutdown,
	Cycle: chassis.ChassisControlPowerCycle, Reset: chassis.ChassisControlHardReset, NMI: chassis.ChassisControlDiagnosticInterrupt,
}

// SetPower implements Switcher.
func (i *IPMI) SetPower(ctx context.Context, a PowerAction) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	is, err := i.State(ctx)
	if err != nil {
		return err
	}
	switch {
	case a == PowerOn && is.Power == On, (a == PowerOff || a == Shutdown) && is.Power == Off:
		return nil
	case (a == Reset || a == NMI) && is.Power == Off:
		return fault.Newf(fault.Precondition, i.object, "cannot %s a server that is off", a)
	case a == Cycle && is.Power == Off:
		a = PowerOn // a cycle of what is off is an error to most BMCs
	}
	control, ok := controls[a]
	if !ok {
		return fault.Newf(fault.Invalid, i.object, "there is no %s", a)
	}
	_, err = i.client.ChassisControl(ctx, control)
	return i.explain(a.String(), err, secret.String{})
}

// selectors are what a target is called in IPMI.
var selectors = map[Target]types.BootDeviceSelector{
	None: types.BootDeviceSelectorNoOverride, CD: types.BootDeviceSelectorForceCDROM,
	Disk: types.BootDeviceSelectorForceHardDrive, Setup: types.BootDeviceSelectorForceBIOSSetup,
}

// SetBoot implements Booter.
func (i *IPMI) SetBoot(ctx context.Context, t Target, d Duration) error {
	if d == Disabled {
		t = None
	}
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	selector, ok := selectors[t]
	if !ok {
		return fault.Newf(fault.Unimplemented, i.object, "cannot boot from %s", t)
	}
	return i.explain("set boot from "+string(t), i.client.SetBootDevice(ctx, selector, types.BIOSBootTypeEFI, d == Continuous), secret.String{})
}

// SetLED implements Lamp.
func (i *IPMI) SetLED(ctx context.Context, on bool) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	_, err := i.client.ChassisIdentify(ctx, 0, on)
	return i.explain("switch the LED", err, secret.String{})
}

// Insert implements Loader: there is no drive.
func (i *IPMI) Insert(context.Context, string) error {
	return fault.New(fault.Unimplemented, i.object, "speaks IPMI, which has no virtual media", "boot the server from a USB stick with the partition's boot medium")
}

// Eject implements Loader: there is no drive.
func (i *IPMI) Eject(ctx context.Context) error { return i.Insert(ctx, "") }

// SetAccount implements Keeper: accounts are not made over IPMI.
func (i *IPMI) SetAccount(context.Context, string, secret.String) error {
	return fault.New(fault.Unimplemented, i.object, "speaks IPMI, over which no account is made", "use the operator's account only")
}

// Trust implements Truster: a firmware takes no authorities over IPMI.
func (i *IPMI) Trust(context.Context, []byte) (bool, error) {
	return false, fault.New(fault.Unimplemented, i.object, "speaks IPMI, over which its server's firmware takes no certificates", "boot the unified kernel image from a USB stick")
}

// explain makes a fault of an error of the IPMI library.
func (i *IPMI) explain(what string, err error, password secret.String) error {
	if err == nil {
		return nil
	}
	text := shorten(err.Error())
	if p := password.Reveal(); p != "" {
		text = strings.ReplaceAll(text, p, "***")
	}
	var network *net.OpError
	switch {
	case strings.Contains(err.Error(), "RAKP authentication failed"), strings.Contains(err.Error(), "Unauthorized name"): // the library has no types for them
		return fault.New(fault.Unauthenticated, i.object, what+": refused", "check the BMC's user and password, and that the user may use IPMI over LAN")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fault.Wrap(fault.Unavailable, i.object, what, err)
	case errors.As(err, &network):
		return fault.Wrap(fault.Unavailable, i.object, what, network).Do("check that the BMC has power, speaks IPMI over LAN, and is reachable from here")
	}
	return fault.Newf(fault.Unavailable, i.object, "%s: %s", what, text)
}

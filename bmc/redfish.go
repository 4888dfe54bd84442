package bmc

import (
	"context"
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

	system string // where the server is; known after the first Inventory or State
	drive  string // where its virtual CD drive is; empty if it has none
	found  bool
}

var (
	_ Inspector = (*Redfish)(nil)
	_ Switcher  = (*Redfish)(nil)
	_ Booter    = (*Redfish)(nil)
	_ Loader    = (*Redfish)(nil)
	_ Talker    = (*Redfish)(nil)
)

const (
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = time.Minute
	// loadTimeout does so where the BMC may fetch an image before it answers.
	loadTimeout = 10 * time.Minute
)

// Open logs in to a BMC. The session must be closed: BMCs have few.
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
	client, err := gofish.ConnectContext(ctx, gofish.ClientConfig{
		Endpoint: base, Username: e.User, Password: e.Password.Reveal(),
		HTTPClient: h, NoModifyTransport: true, ReuseConnections: true, AutoExpand: true,
	})
	if err != nil {
		h.CloseIdleConnections()
		return nil, explain(object, "log in", err)
	}
	return &Redfish{object: object, client: client}, nil
}

// Close logs out.
func (r *Redfish) Close(ctx context.Context) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	r.client.WithContext(ctx).Logout()
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// Inventory reads everything.
func (r *Redfish) Inventory(ctx context.Context) (Inventory, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	c := r.client.WithContext(ctx)
	inv := Inventory{ReadAt: time.Now()}

	system, manager, drive, err := r.find(c)
	if err != nil {
		return Inventory{}, err
	}
	inv.State = state(system, drive)
	inv.UUID, inv.Serial, inv.BIOS = trim(system.UUID), trim(system.SerialNumber), trim(system.BiosVersion)
	inv.Manufacturer, inv.Model = trim(system.Manufacturer), trim(system.Model)
	cards, err := system.EthernetInterfaces()
	if err != nil {
		return Inventory{}, explain(r.object, "read the server's network cards", err)
	}
	inv.MACs = macs(cards)
	if manager != nil {
		inv.Firmware = trim(manager.FirmwareVersion)
		if cards, err = manager.EthernetInterfaces(); err != nil {
			return Inventory{}, explain(r.object, "read the BMC's network cards", err)
		}
		inv.BMCMACs = macs(cards)
	}
	return inv, nil
}

// find reads the server, the BMC's own resource if there is one, and the
// virtual CD drive if there is one, and remembers where they are.
func (r *Redfish) find(c *gofish.APIClient) (*schemas.ComputerSystem, *schemas.Manager, *schemas.VirtualMedia, error) {
	systems, err := c.Service.Systems()
	if err != nil {
		return nil, nil, nil, explain(r.object, "read the server", err)
	}
	if len(systems) != 1 {
		return nil, nil, nil, fault.Newf(fault.Unimplemented, r.object, "has %d servers; a BMC of exactly one is supported", len(systems))
	}
	system := systems[0]
	managers, err := c.Service.Managers()
	if err != nil {
		return nil, nil, nil, explain(r.object, "read the BMC", err)
	}
	byPath(managers)
	var manager *schemas.Manager
	for _, m := range managers {
		// A service may have more managers, of enclosures and cards.
		if manager == nil || m.ManagerType == schemas.BMCManagerType && manager.ManagerType != schemas.BMCManagerType {
			manager = m
		}
	}
	var media []*schemas.VirtualMedia
	if manager != nil {
		if media, err = manager.VirtualMedia(); err != nil {
			return nil, nil, nil, explain(r.object, "read virtual media", err)
		}
	}
	drive := cdDrive(media)
	if drive == nil { // since Redfish 2020.4 they belong to the system
		if media, err = system.VirtualMedia(); err != nil {
			return nil, nil, nil, explain(r.object, "read virtual media", err)
		}
		drive = cdDrive(media)
	}
	r.system, r.drive, r.found = system.ODataID, "", true
	if drive != nil {
		r.drive = drive.ODataID
	}
	return system, manager, drive, nil
}

// cdDrive picks the first drive that takes CD images.
func cdDrive(media []*schemas.VirtualMedia) *schemas.VirtualMedia {
	byPath(media)
	for _, m := range media {
		for _, t := range m.MediaTypes {
			if t == schemas.CDVirtualMediaType || t == schemas.DVDVirtualMediaType {
				return m
			}
		}
	}
	return nil
}

// State reads what may have changed.
func (r *Redfish) State(ctx context.Context) (State, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	system, drive, err := r.read(r.client.WithContext(ctx))
	if err != nil {
		return State{}, err
	}
	return state(system, drive), nil
}

// read reads the server and its drive, where they were found before.
func (r *Redfish) read(c *gofish.APIClient) (*schemas.ComputerSystem, *schemas.VirtualMedia, error) {
	if !r.found {
		system, _, drive, err := r.find(c)
		return system, drive, err
	}
	system, err := r.readSystem(c)
	if err != nil {
		return nil, nil, err
	}
	drive, err := r.readDrive(c)
	return system, drive, err
}

func (r *Redfish) readSystem(c *gofish.APIClient) (*schemas.ComputerSystem, error) {
	if !r.found {
		system, _, _, err := r.find(c)
		return system, err
	}
	system, err := schemas.GetObject[schemas.ComputerSystem](c, r.system)
	if err != nil {
		return nil, explain(r.object, "read the server", err)
	}
	return system, nil
}

func (r *Redfish) readDrive(c *gofish.APIClient) (*schemas.VirtualMedia, error) {
	if !r.found {
		_, _, drive, err := r.find(c)
		return drive, err
	}
	if r.drive == "" {
		return nil, nil
	}
	drive, err := schemas.GetObject[schemas.VirtualMedia](c, r.drive)
	if err != nil {
		return nil, explain(r.object, "read the virtual CD drive", err)
	}
	return drive, nil
}

func state(system *schemas.ComputerSystem, drive *schemas.VirtualMedia) State {
	s := State{
		Power: Power(system.PowerState), Boot: Target(system.Boot.BootSourceOverrideTarget),
		BootDuration: Duration(system.Boot.BootSourceOverrideEnabled),
	}
	if s.Boot == "" {
		s.Boot = None
	}
	if s.BootDuration == "" {
		s.BootDuration = Disabled
	}
	if drive != nil {
		s.HasMedia, s.Inserted, s.Media = true, inserted(drive), drive.Image
	}
	return s
}

// inserted reports whether a drive holds a medium. Where the BMC does not say,
// an image does.
func inserted(drive *schemas.VirtualMedia) bool {
	if drive.Inserted != nil {
		return *drive.Inserted
	}
	return drive.Image != ""
}

func macs(cards []*schemas.EthernetInterface) []string {
	byPath(cards)
	var all []string
	for _, c := range cards {
		mac := c.MACAddress
		if mac == "" {
			mac = c.PermanentMACAddress
		}
		if mac = strings.ToLower(mac); mac != "" && !slices.Contains(all, mac) {
			all = append(all, mac)
		}
	}
	return all
}

// byPath puts members of a collection in order: the library fetches them side
// by side and returns them as they come.
func byPath[T interface{ GetODataID() string }](members []T) {
	slices.SortFunc(members, func(a, b T) int { return strings.Compare(a.GetODataID(), b.GetODataID()) })
}

// trim drops the spaces that firmware pads its strings with.
func trim(s string) string { return strings.TrimSpace(s) }

// resetTypes are what an action is called in Redfish, the best first.
var resetTypes = map[PowerAction][]schemas.ResetType{
	PowerOn:  {schemas.OnResetType, schemas.ForceOnResetType},
	PowerOff: {schemas.ForceOffResetType},
	Shutdown: {schemas.GracefulShutdownResetType},
	Cycle:    {schemas.PowerCycleResetType},
	Reset:    {schemas.ForceRestartResetType},
	NMI:      {schemas.NmiResetType},
}

// SetPower acts on the power.
func (r *Redfish) SetPower(ctx context.Context, a PowerAction) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	c := r.client.WithContext(ctx)
	system, err := r.readSystem(c)
	if err != nil {
		return err
	}
	switch p := Power(system.PowerState); {
	case a == PowerOn && p == On, (a == PowerOff || a == Shutdown) && p == Off:
		return nil
	case (a == Reset || a == NMI) && p == Off:
		return fault.Newf(fault.Precondition, r.object, "cannot %s a server that is off", a)
	}
	can, err := system.GetSupportedResetTypes()
	if err != nil {
		return explain(r.object, "read what it can do to the power", err)
	}
	want, ok := resetTypes[a]
	if !ok {
		return fault.Newf(fault.Invalid, r.object, "there is no %s", a)
	}
	for _, t := range want {
		if len(can) == 0 || slices.Contains(can, t) {
			task, err := system.Reset(t)
			if err != nil {
				return explain(r.object, a.String(), err)
			}
			return r.wait(ctx, c, a.String(), task)
		}
	}
	return fault.Newf(fault.Unimplemented, r.object, "cannot %s its server; it offers %v", a, can)
}

// SetBoot sets the override of the boot order.
func (r *Redfish) SetBoot(ctx context.Context, t Target, d Duration) error {
	if d == Disabled || t == None {
		t, d = None, Disabled
	}
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	c := r.client.WithContext(ctx)
	var err error
	for range 2 { // the server may change between reading and writing
		var system *schemas.ComputerSystem
		if system, err = r.readSystem(c); err != nil {
			return err
		}
		have := state(system, nil)
		if have.BootDuration == d && (d == Disabled || have.Boot == t) {
			return nil
		}
		allowed := system.Boot.AllowableBootSourceOverrideTargetValues
		if t != None && len(allowed) > 0 && !slices.Contains(allowed, schemas.BootSource(t)) {
			return fault.Newf(fault.Unimplemented, r.object, "cannot boot from %s; it offers %v", t, allowed)
		}
		change := &schemas.Boot{
			BootSourceOverrideEnabled: schemas.BootSourceOverrideEnabled(d), BootSourceOverrideTarget: schemas.BootSource(t),
			BootSourceOverrideMode: schemas.UEFIBootSourceOverrideMode,
		}
		if d == Disabled { // some BMCs refuse a mode or a target that has no effect
			change.BootSourceOverrideMode, change.BootSourceOverrideTarget = "", ""
		}
		if err = system.SetBoot(change); !schemas.Is412PreconditionFailed(err) {
			break
		}
	}
	if err != nil {
		return explain(r.object, fmt.Sprintf("set boot from %s (%s)", t, d), err)
	}
	return nil
}

// Insert makes the image at url the medium in the drive.
func (r *Redfish) Insert(ctx context.Context, url string) error {
	ctx, cancel := bounded(ctx, loadTimeout)
	defer cancel()
	c := r.client.WithContext(ctx)
	drive, err := r.readDrive(c)
	switch {
	case err != nil:
		return err
	case drive == nil:
		return r.noDrive()
	case inserted(drive) && drive.Image == url:
		return nil
	case inserted(drive):
		if err := r.eject(ctx, c, drive); err != nil {
			return err
		}
	}
	yes := true
	task, err := drive.InsertMedia(&schemas.VirtualMediaInsertMediaParameters{Image: url, Inserted: &yes, WriteProtected: &yes})
	if err != nil {
		return explain(r.object, "insert "+url, err)
	}
	return r.wait(ctx, c, "insert "+url, task)
}

// Eject empties the drive.
func (r *Redfish) Eject(ctx context.Context) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	c := r.client.WithContext(ctx)
	drive, err := r.readDrive(c)
	switch {
	case err != nil:
		return err
	case drive == nil:
		return r.noDrive()
	case !inserted(drive):
		return nil
	}
	return r.eject(ctx, c, drive)
}

func (r *Redfish) eject(ctx context.Context, c *gofish.APIClient, drive *schemas.VirtualMedia) error {
	task, err := drive.EjectMedia()
	if err != nil {
		return explain(r.object, "eject the virtual CD", err)
	}
	return r.wait(ctx, c, "eject the virtual CD", task)
}

func (r *Redfish) noDrive() error {
	return fault.New(fault.Unimplemented, r.object, "has no virtual CD drive", "check the BMC's licence, or boot the server from a USB stick with the same image")
}

// taskPoll is how often a task is asked about when the BMC does not say.
const taskPoll = 500 * time.Millisecond

// wait waits for what the BMC has only promised (DSP0266, "Tasks"): the task
// monitor answers 202 until it is done.
func (r *Redfish) wait(ctx context.Context, c *gofish.APIClient, what string, task *schemas.TaskMonitorInfo) error {
	if task == nil || task.TaskMonitor == "" {
		return nil
	}
	for {
		pause := time.Until(task.RetryAfter)
		if pause <= 0 {
			pause = taskPoll
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, r.object, what+": not done in time", ctx.Err())
		case <-time.After(pause):
		}
		next, err := ask(c, task.TaskMonitor)
		if err != nil {
			return explain(r.object, what, err)
		}
		if next == nil {
			return nil
		}
		task.RetryAfter = next.RetryAfter
	}
}

// ask asks a task monitor once; it returns nil when the task is done.
func ask(c *gofish.APIClient, monitor string) (*schemas.TaskMonitorInfo, error) {
	resp, err := c.Get(monitor)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return nil, nil
	}
	if next := schemas.ParseTaskMonitorInfo(c, resp); next != nil {
		return next, nil
	}
	return &schemas.TaskMonitorInfo{}, nil
}

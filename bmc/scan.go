package bmc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"

	"github.com/ingot-cloud/ingot/fault"
)

// MaxRequests is the number of requests that a scan makes at most, the login
// before the first one included. BMCs have slow processors, and a site has
// thousands of BMCs.
const MaxRequests = 5

// How long what was read stays good enough. What is younger is not read again.
const (
	always    = 0
	sensors   = 2 * time.Minute
	hardly    = time.Hour
	forGood   = time.Duration(1<<63 - 1) // until its collection is read again
	notThere  = 10 * time.Minute         // what could not be read
	maxAnswer = 8 << 20                  // more than the largest document
)

// Where the standard puts things (DSP0266, "URIs").
const (
	servicePath  = "/redfish/v1"
	systemsPath  = "/redfish/v1/Systems"
	managersPath = "/redfish/v1/Managers"
)

// A reading is a document that was read, or that could not be.
type reading struct {
	doc any    // pointer to one of the documents, or *membership; nil if there is none
	tag string // its ETag, if it has one
	at  time.Time
}

// membership is a collection.
type membership struct {
	paths    []string
	expanded bool // its members were read with it
}

// A pass is one walk through a BMC's documents with a number of requests to
// spend. Documents that are known and young enough are not read again, and of
// those that are not, the most overdue are read first.
type pass struct {
	r       *Redfish
	c       *gofish.APIClient
	now     time.Time
	left    int // requests that may still be made; negative for any number
	lacking bool
	overdue []overdue
	failed  error // the last document that could not be read
	gone    error // the BMC no longer answers
}

// overdue is a document that could be younger.
type overdue struct {
	by   float64 // its age in ages that it should not exceed
	read func()
}

// unlimited is for passes that shall end with an answer.
const unlimited = -1

func (r *Redfish) pass(ctx context.Context, requests int) *pass {
	return &pass{r: r, c: r.client.WithContext(ctx), now: time.Now(), left: requests}
}

// Scan implements Inspector.
func (r *Redfish) Scan(ctx context.Context) (Inventory, error) {
	requests := MaxRequests - r.spent
	r.spent = 0
	return r.inspect(ctx, requests)
}

// Inventory implements Inspector.
func (r *Redfish) Inventory(ctx context.Context) (Inventory, error) { return r.inspect(ctx, unlimited) }

func (r *Redfish) inspect(ctx context.Context, requests int) (Inventory, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	p := r.pass(ctx, requests)
	inv, err := p.walk()
	if err != nil {
		return Inventory{}, err
	}
	slices.SortStableFunc(p.overdue, func(a, b overdue) int { return cmp.Compare(b.by, a.by) })
	again := p.overdue
	p.overdue = nil
	for _, o := range again {
		if p.left != 0 {
			o.read()
		}
	}
	if len(again) > 0 {
		inv, err = p.walk()
	}
	if p.gone != nil {
		return Inventory{}, p.gone
	}
	inv.Complete = !p.lacking
	return inv, err
}

// walk makes an inventory of what is known or can be read. Its order is that
// of worth: what comes first is known after the first scan.
func (p *pass) walk() (Inventory, error) {
	p.lacking = false
	system, err := p.system()
	if err != nil {
		return Inventory{}, err
	}
	inv := Inventory{ReadAt: p.now}
	manager := p.manager(system)
	drive := p.drive(system, manager)
	inv.State = p.r.state(system, drive)
	inv.UUID, inv.Serial, inv.BIOS = trim(system.UUID), trim(system.SerialNumber), trim(system.BiosVersion)
	inv.Manufacturer, inv.Model = trim(system.Manufacturer), trim(system.Model)
	inv.Parts.Product = trim(cmp.Or(system.PartNumber, system.SKU, system.Model))
	if manager != nil {
		inv.Firmware = trim(manager.FirmwareVersion)
	}
	inv.LED = system.lamp.led()
	if chassis := p.chassis(system); chassis != nil {
		inv.Parts.Chassis, inv.Parts.ChassisSerial = trim(cmp.Or(chassis.PartNumber, chassis.SKU)), trim(chassis.SerialNumber)
		if inv.LED == "" {
			inv.LED = chassis.lamp.led()
		}
		p.power(chassis, &inv)
		p.thermal(chassis, &inv)
	}
	if manager != nil {
		inv.BMCMACs = macs(members[cardDoc](p, manager.EthernetInterfaces.ID, hardly))
	}
	inv.MACs = macs(members[cardDoc](p, system.EthernetInterfaces.ID, hardly))
	return inv, nil
}

// system reads the server, the one document that must be there.
func (p *pass) system() (*systemDoc, error) {
	if p.r.system == "" {
		var physical []*systemDoc
		all := members[systemDoc](p, systemsPath, hardly)
		for _, s := range all {
			if t := s.SystemType; t == "" || t == "Physical" {
				physical = append(physical, s)
			}
		}
		switch {
		case p.gone != nil:
			return nil, p.gone
		case len(all) == 0 && p.failed != nil:
			return nil, p.failed
		case p.lacking:
			return nil, fault.Newf(fault.Unavailable, p.r.object, "its server was not found in %d requests", MaxRequests)
		case len(physical) != 1:
			return nil, fault.Newf(fault.Unimplemented, p.r.object, "has %d servers; a BMC of exactly one is supported", len(physical))
		}
		p.r.system = physical[0].ID
	}
	s := read[systemDoc](p, p.r.system, always)
	if p.gone != nil {
		return nil, p.gone
	}
	if s == nil {
		was := p.r.system
		p.r.system = "" // it may have got another name
		delete(p.r.known, was)
		delete(p.r.known, systemsPath)
		if p.failed != nil {
			return nil, p.failed
		}
		return nil, fault.Newf(fault.Unavailable, p.r.object, "shows nothing of its server at %s", was)
	}
	return s, nil
}

// manager reads the BMC's own resource: that which manages the server, or the
// first one of a BMC. There are managers of enclosures and cards, too.
func (p *pass) manager(s *systemDoc) *managerDoc {
	var all []*managerDoc
	for _, l := range s.Links.ManagedBy {
		if m := read[managerDoc](p, l.ID, hardly); m != nil {
			all = append(all, m)
		}
	}
	if len(s.Links.ManagedBy) == 0 {
		all = members[managerDoc](p, managersPath, hardly)
	}
	for _, m := range all {
		if m.ManagerType == "BMC" {
			return m
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// drive reads the first virtual drive that takes CD images. It belongs to the
// manager or, since Redfish 2020.4, to the system.
func (p *pass) drive(s *systemDoc, m *managerDoc) *driveDoc {
	if p.r.drive != "" {
		if d := read[driveDoc](p, p.r.drive, always); d != nil {
			return d
		}
	}
	collections := []string{s.VirtualMedia.ID}
	if m != nil {
		collections = []string{m.VirtualMedia.ID, s.VirtualMedia.ID}
	}
	for _, at := range collections {
		for _, d := range members[driveDoc](p, at, hardly) {
			if slices.ContainsFunc(d.MediaTypes, func(t string) bool { return t == "CD" || t == "DVD" }) {
				p.r.drive = d.ID
				return read[driveDoc](p, d.ID, always)
			}
		}
	}
	return nil
}

func (p *pass) chassis(s *systemDoc) *chassisDoc {
	if len(s.Links.Chassis) == 0 {
		return nil
	}
	return read[chassisDoc](p, s.Links.Chassis[0].ID, hardly)
}

// power fills in what the server consumes and how its supplies are. The older
// resource is preferred where there are both: it knows averages.
func (p *pass) power(c *chassisDoc, inv *Inventory) {
	if c.Power.ID != "" {
		if d := read[powerDoc](p, c.Power.ID, always); d != nil {
			for i, control := range d.PowerControl {
				if m := control.PowerMetrics; i == 0 && (control.PowerConsumedWatts != 0 || m.AverageConsumedWatts != 0) {
					inv.Consumed = &Consumption{
						Average: float32(cmp.Or(m.AverageConsumedWatts, control.PowerConsumedWatts)),
						Min:     float32(m.MinConsumedWatts), Max: float32(m.MaxConsumedWatts), Minutes: float32(m.IntervalInMin),
					}
				}
			}
			inv.Supplies = supplies(d.PowerSupplies)
			return
		}
	}
	if d := read[metricsDoc](p, c.EnvironmentMetrics.ID, always); d != nil && d.PowerWatts.Reading != 0 {
		inv.Consumed = &Consumption{Average: float32(d.PowerWatts.Reading)}
	}
	if d := read[powerSubsystemDoc](p, c.PowerSubsystem.ID, hardly); d != nil {
		var all []supplyDoc
		for _, s := range members[supplyDoc](p, d.PowerSupplies.ID, sensors) {
			all = append(all, *s)
		}
		inv.Supplies = supplies(all)
	}
}

// supplies leaves out empty bays.
func supplies(docs []supplyDoc) []Part {
	var all []Part
	for _, d := range docs {
		if part := d.Status.part("power supply", d.Name); part.State != "Absent" {
			all = append(all, part)
		}
	}
	return all
}

// part names a part with its health.
func (h health) part(kind, name string) Part {
	return Part{Name: strings.TrimSpace(kind + " " + trim(name)), State: trim(h.State), Health: trim(h.Health)}
}

// thermal fills in what fans and thermometers show.
func (p *pass) thermal(c *chassisDoc, inv *Inventory) {
	add := func(part Part, reading number, unit string) {
		if part.State != "Absent" && part.State != "Disabled" {
			inv.Sensors = append(inv.Sensors, Sensor{Part: part, Reading: float32(reading), Unit: unit})
		}
	}
	if c.Thermal.ID != "" {
		if d := read[thermalDoc](p, c.Thermal.ID, sensors); d != nil {
			for _, t := range d.Temperatures {
				add(t.Status.part("temperature", t.Name), t.ReadingCelsius, "°C")
			}
			for _, f := range d.Fans {
				add(f.Status.part("fan", cmp.Or(f.Name, f.FanName)), f.Reading, cmp.Or(f.ReadingUnits, "RPM"))
			}
			return
		}
	}
	d := read[thermalSubsystemDoc](p, c.ThermalSubsystem.ID, hardly)
	if d == nil {
		return
	}
	if t := read[thermalMetricsDoc](p, d.ThermalMetrics.ID, sensors); t != nil {
		for _, one := range t.TemperatureReadingsCelsius {
			name := cmp.Or(one.DeviceName, one.DataSourceURI)
			add(health{}.part("temperature", name[strings.LastIndex(name, "/")+1:]), one.Reading, "°C")
		}
	}
	for _, f := range members[fanDoc](p, d.Fans.ID, sensors) {
		if f.SpeedPercent.SpeedRPM != 0 {
			add(f.Status.part("fan", f.Name), f.SpeedPercent.SpeedRPM, "RPM")
		} else {
			add(f.Status.part("fan", f.Name), f.SpeedPercent.Reading, "Percent")
		}
	}
}

// read returns the document at a path, not older than age if the requests
// last; nil if there is none.
func read[T any](p *pass, at string, age time.Duration) *T {
	if at == "" || p.gone != nil {
		return nil
	}
	p.want(at, age, func() { get[T](p, at) })
	doc, _ := p.r.known[at].doc.(*T)
	return doc
}

// members is read for a collection. With $expand its members come with it.
func members[T any](p *pass, at string, age time.Duration) []*T {
	if at == "" || p.gone != nil {
		return nil
	}
	p.want(at, age, func() { collect[T](p, at) })
	c, _ := p.r.known[at].doc.(*membership)
	if c == nil {
		return nil
	}
	if c.expanded {
		age = forGood
	}
	var all []*T
	for _, path := range c.paths {
		if doc := read[T](p, path, age); doc != nil {
			all = append(all, doc)
		}
	}
	return all
}

// want has a document fetched now, later or not at all.
func (p *pass) want(at string, age time.Duration, fetch func()) {
	have, known := p.r.known[at]
	if known && have.doc == nil {
		age = max(age, notThere)
	}
	switch old := p.now.Sub(have.at); {
	case known && (old < age || old == 0):
	case p.left == 0:
		p.lacking = p.lacking || !known
	case !known || age == always:
		fetch()
	default:
		p.overdue = append(p.overdue, overdue{float64(old) / float64(age), fetch})
	}
}

// keep remembers what a path holds: nothing if doc is nil.
func (p *pass) keep(at string, doc any, tag string) { p.r.known[at] = reading{doc, tag, p.now} }

// despite remembers what a path holds after it could not be read: what it held
// if the BMC has a problem, nothing if it says so.
func (p *pass) despite(at string, err error) {
	switch old := p.r.known[at]; {
	case p.gone != nil: // that says nothing about the document
	case statusOf(err) >= http.StatusInternalServerError:
		p.keep(at, old.doc, old.tag)
	default:
		p.keep(at, nil, "")
	}
}

// get fetches a document.
func get[T any](p *pass, at string) {
	body, tag, err := p.fetch(at)
	if err != nil {
		p.despite(at, err)
		return
	}
	p.keep(at, whole[T](body, at), tag)
}

// whole is a document from its text; nil if that is none.
func whole[T any](body []byte, at string) any {
	doc := new(T)
	if decode(body, doc) != nil {
		return nil
	}
	if l, ok := any(doc).(interface{ located(at string) }); ok {
		l.located(at)
	}
	return doc
}

// collect fetches a collection, with its members where the BMC can.
func collect[T any](p *pass, at string) {
	query := ""
	if p.r.expand != "" {
		query = "?$expand=" + p.r.expand
	}
	body, _, err := p.fetch(at + query)
	if err != nil && query != "" && p.gone == nil && p.left != 0 {
		body, _, err = p.fetch(at) // what it promised it does not do, at least not here
	}
	if err != nil {
		p.despite(at, err)
		return
	}
	var doc struct{ Members []json.RawMessage }
	if decode(body, &doc) != nil {
		p.keep(at, nil, "")
		return
	}
	c := &membership{}
	for _, raw := range doc.Members {
		var m memberDoc
		if decode(raw, &m) != nil || m.At == "" || slices.Contains(c.paths, m.At) {
			continue
		}
		c.paths = append(c.paths, m.At)
		if m.Name != "" || m.Id != "" {
			c.expanded = true
			p.keep(m.At, whole[T](raw, m.At), m.Tag)
		}
	}
	slices.Sort(c.paths)
	p.keep(at, c, "")
}

// errElsewhere says that a document is not at the BMC.
var errElsewhere = errors.New("is not a path of this BMC")

// fetch makes one request. An error that is the BMC's own answer is about this
// document only; others, and that we are not logged in, are about all.
func (p *pass) fetch(at string) (body []byte, tag string, err error) {
	if !strings.HasPrefix(at, "/") { // it would name another host
		return nil, "", errElsewhere
	}
	p.left--
	resp, err := p.c.Get(at)
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err == nil {
			return body, resp.Header.Get("ETag"), nil
		}
	}
	p.failed = explain(p.r.object, "read "+strings.TrimPrefix(at, servicePath), err)
	if status := statusOf(err); status == 0 || status == http.StatusUnauthorized {
		p.gone = p.failed
	}
	return nil, "", err
}

package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ingot-cloud/ingot/fault"
)

// A Fault is something that breaks in a data centre, and how it is mended.
type Fault struct {
	// Name is what it is called; Takes is what it strikes: a "wire", a
	// "server", a "leaf", or nothing.
	Name, Takes string
	// Does says in one line what happens.
	Does string

	strike func(ctx context.Context, d *DataCenter, on string) error
	mend   func(ctx context.Context, d *DataCenter, on string) error // nil: it mends itself
}

// Lasts reports whether the fault stays until it is mended.
func (f Fault) Lasts() bool { return f.mend != nil }

// Faults lists what can break, in the order of the names.
func Faults() []Fault {
	all := []Fault{
		{Name: "wire", Takes: "wire", Does: "every frame is lost, the ports keep their carrier", strike: onWire((*Wire).Cut), mend: onWire((*Wire).Mend)},
		{Name: "ra", Takes: "wire", Does: "router advertisements are lost", strike: onWire(losing("ipv6 icmp 134")), mend: onWire((*Wire).Mend)},
		{Name: "dns", Takes: "wire", Does: "DNS is lost", strike: onWire(losing("ipv6 udp 53", "ipv6 tcp 53")), mend: onWire((*Wire).Mend)},
		{Name: "https", Takes: "wire", Does: "HTTPS is lost: metal-boot and the image cache", strike: onWire(losing("ipv6 tcp 443")), mend: onWire((*Wire).Mend)},
		{Name: "lldp", Takes: "wire", Does: "LLDP is lost", strike: onWire(losing("lldp")), mend: onWire((*Wire).Mend)},
		{Name: "link", Takes: "wire", Does: "the server's port loses its carrier", strike: setLink(false), mend: setLink(true)},
		{Name: "leaf", Takes: "leaf", Does: "the switch has no power; it comes back as a new one", strike: leafOff, mend: leafOn},
		{Name: "leaf-agent", Takes: "leaf", Does: "ingot-leaf is killed and starts again", strike: onLeaf("kill -9 $(pidof ingot-leaf)")},
		{Name: "frr", Takes: "leaf", Does: "FRR's bgpd is killed and starts again", strike: onLeaf("kill -9 $(pidof bgpd); sleep 1; /usr/lib/frr/bgpd -d -F datacenter -A 127.0.0.1 </dev/null >/dev/null 2>&1")},
		{Name: "site", Does: "the management server has no power; it comes back as a new one", strike: siteOff, mend: siteOn},
		{Name: "api", Does: "the control plane is killed", strike: apiOff, mend: apiOn},
		{Name: "origin", Does: "the web server that images come from answers 503", strike: origin(originDown), mend: origin(originWell)},
		{Name: "image", Does: "every file from the origin has a wrong bit", strike: origin(originLies), mend: origin(originWell)},
		{Name: "power", Takes: "server", Does: "the server loses power, and gets it back by hand", strike: powerLoss, mend: powerBack},
	}
	for _, q := range Quirks() {
		all = append(all, Fault{Name: string(q), Takes: "server", Does: "its BMC has this quirk", strike: quirk(q, true), mend: quirk(q, false)})
	}
	slices.SortFunc(all, func(a, b Fault) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func faultOf(name, on string) (Fault, error) {
	for _, f := range Faults() {
		if f.Name != name {
			continue
		}
		if (f.Takes == "") != (on == "") {
			return f, fault.New(fault.Invalid, "fault "+name, "strikes "+orNothing(f.Takes), "'ingot-lab break' lists the faults")
		}
		return f, nil
	}
	return Fault{}, fault.New(fault.NotFound, "fault "+name, "not known", "'ingot-lab break' lists the faults")
}

func orNothing(takes string) string {
	if takes == "" {
		return "nothing in particular"
	}
	return "a " + takes
}

// Break makes something fail.
func (d *DataCenter) Break(ctx context.Context, name, on string) error {
	f, err := faultOf(name, on)
	if err != nil {
		return err
	}
	return f.strike(ctx, d, on)
}

// Mend undoes Break. What is not broken stays as it is.
func (d *DataCenter) Mend(ctx context.Context, name, on string) error {
	f, err := faultOf(name, on)
	if err != nil || f.mend == nil {
		return err
	}
	return f.mend(ctx, d, on)
}

type act = func(ctx context.Context, d *DataCenter, on string) error

func onWire(do func(*Wire)) act {
	return func(_ context.Context, d *DataCenter, on string) error {
		w, err := d.wireOf(on)
		if err == nil {
			do(w)
		}
		return err
	}
}

// wireOf returns the wire of a name.
func (d *DataCenter) wireOf(name string) (*Wire, error) {
	if w := d.Wires[name]; w != nil {
		return w, nil
	}
	return nil, fault.Newf(fault.NotFound, "wire "+name, "there are %s", strings.Join(slices.Sorted(maps.Keys(d.Wires)), ", "))
}

func losing(kinds ...string) func(*Wire) { return func(w *Wire) { w.Lose(kinds...) } }

// numberOf returns the number of a server of a name like "m1".
func (d *DataCenter) numberOf(name string) (int, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "m"))
	if err != nil || n < 1 || n > len(d.Servers) {
		return 0, fault.Newf(fault.NotFound, "server "+name, "there are m1 to %s", serverName(len(d.Servers)))
	}
	return n, nil
}

func (d *DataCenter) server(name string) (*Server, error) {
	n, err := d.numberOf(name)
	if err != nil {
		return nil, err
	}
	return d.Servers[n-1], nil
}

func leafNumber(name string) (int, error) {
	if i := slices.Index(leafNames, name); i >= 0 {
		return i, nil
	}
	return 0, fault.Newf(fault.NotFound, "leaf "+name, "there are %s", strings.Join(leafNames, ", "))
}

func setLink(up bool) act {
	return func(_ context.Context, d *DataCenter, on string) error {
		name, leaf, _ := strings.Cut(on, "-")
		s, err := d.server(name)
		if err != nil {
			return err
		}
		i, err := leafNumber(leaf)
		if err != nil || !s.VM.On() { // all ports have link again when it starts
			return err
		}
		return s.VM.SetLink(i, up)
	}
}

func leafOff(_ context.Context, d *DataCenter, on string) error {
	i, err := leafNumber(on)
	if err != nil {
		return err
	}
	return d.Leaves[i].PowerOff()
}

func leafOn(ctx context.Context, d *DataCenter, on string) error {
	i, err := leafNumber(on)
	if err != nil || d.Leaves[i].On() {
		return err
	}
	return d.startLeaf(ctx, i)
}

// onLeaf runs a command on a leaf.
func onLeaf(command string) act {
	return func(ctx context.Context, d *DataCenter, on string) error {
		if _, err := leafNumber(on); err != nil {
			return err
		}
		if out, err := d.SSH(ctx, on, command); err != nil {
			return fmt.Errorf("%s: %w: %s", on, err, strings.TrimSpace(out))
		}
		return nil
	}
}

func siteOff(_ context.Context, d *DataCenter, _ string) error { return d.Site.PowerOff() }

func siteOn(ctx context.Context, d *DataCenter, _ string) error {
	if d.Site.On() {
		return nil
	}
	return d.startSite(ctx)
}

func apiOff(_ context.Context, d *DataCenter, _ string) error { return d.control.kill() }

func apiOn(ctx context.Context, d *DataCenter, _ string) error {
	select {
	case <-d.control.ended:
		return d.control.start(ctx)
	default:
		return nil
	}
}

func origin(ails int32) act {
	return func(_ context.Context, d *DataCenter, _ string) error {
		d.ill.Store(ails)
		return nil
	}
}

func powerLoss(_ context.Context, d *DataCenter, on string) error {
	s, err := d.server(on)
	if err != nil {
		return err
	}
	return s.VM.PowerOff()
}

func powerBack(ctx context.Context, d *DataCenter, on string) error {
	s, err := d.server(on)
	if err != nil {
		return err
	}
	return s.VM.PowerOn(ctx)
}

func quirk(q Quirk, on bool) act {
	return func(_ context.Context, d *DataCenter, name string) error {
		s, err := d.server(name)
		if err != nil {
			return err
		}
		return s.BMC.SetQuirk(q, on)
	}
}

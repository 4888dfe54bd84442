package leaf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Linux is a switch whose data plane is the Linux kernel, whose routing is
// FRR and whose filters are nftables. It needs root.
type Linux struct {
	// Vtysh and Nft are the programs; empty means "vtysh" and "nft" in PATH.
	Vtysh, Nft string
	// Sockets is the folder of the daemons' sockets; empty means /var/run/frr.
	Sockets string
	// Dir is a folder for what is handed to them.
	Dir string
	// Log may be nil.
	Log *slog.Logger

	// unresolved is since when tunnels lack their far end, by VNI.
	unresolved map[uint32]time.Time
}

// FRRVersion asks the running FRR for its release. It fails with
// fault.Unavailable while FRR is not running.
func (l *Linux) FRRVersion(ctx context.Context) (FRRVersion, error) {
	out, err := l.ask(ctx, zebra, "show version")
	if err != nil {
		return FRRVersion{}, err
	}
	_, rest, _ := strings.Cut(out, "FRRouting ")
	return ParseFRRVersion(rest)
}

// Check lets FRR's and nftables' own parsers read what would be loaded. It
// changes nothing.
func (l *Linux) Check(ctx context.Context, f Files) error {
	if err := l.load(ctx, "check.conf", f.FRR, l.vtysh, "-C", "-f"); err != nil {
		return fault.Wrap(fault.Invalid, "frr", "refuses the configuration", err).Do("report this with the version of FRR")
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fault.Wrap(fault.Internal, "kernel", "cannot be read", err)
	}
	present := map[string]bool{}
	for _, link := range links {
		present[link.Attrs().Name] = true
	}
	if err := l.load(ctx, "check.nft", f.Ruleset(present, nil).Text, l.nft, "-c", "-f"); err != nil {
		return fault.Wrap(fault.Invalid, "nftables", "refuses the ruleset", err).Do("report this with the version of nftables")
	}
	return nil
}

// Apply makes the switch hold what f says, and reads it back. It changes only
// what differs, and may be repeated at any time and after any failure.
//
// The order keeps every port closed that shall be: a port's boot ACL is bound
// before the port enters the boot VRF and stays until it has left; a server
// hears that its router leaves before it does; BGP leaves a VRF before the VRF
// goes and enters it after it came.
func (l *Linux) Apply(ctx context.Context, f Files) error {
	have, err := readNet()
	if err != nil {
		return err
	}
	bound, err := l.bound(ctx)
	if err != nil {
		return err
	}
	present, hold := map[string]bool{}, map[string]bool{}
	for _, link := range f.Kernel.Links {
		is, ok := have.links[link.Name]
		present[link.Name] = ok
		hold[link.Name] = ok && inBoot(bound.class[link.Name]) && have.master(is) != link.VRF
	}
	if bound, err = l.bind(ctx, f.Ruleset(present, hold), bound); err != nil {
		return err
	}
	if err := l.route(ctx, f, func(d Delta) string { return d.Withdraw }); err != nil {
		return err
	}
	for _, link := range f.Kernel.Links {
		if hold[link.Name] {
			l.farewell(ctx, have, link.Name)
		}
	}
	kernelErr := f.Kernel.settle()
	routeErr := l.route(ctx, f, func(d Delta) string { return d.Announce })
	if err := errors.Join(kernelErr, routeErr); err != nil {
		// What could be done is in effect; but a port that may still be where
		// it was keeps its filter.
		return err
	}
	if _, err = l.bind(ctx, f.Ruleset(present, nil), bound); err != nil {
		return err
	}
	return l.verify(ctx, f)
}

// inBoot reports whether ports of a class are in the boot VRF.
func inBoot(c ingotv1.PortClass) bool {
	return c == ingotv1.PortClass_PORT_CLASS_BOOT || c == ingotv1.PortClass_PORT_CLASS_SERVICE
}

// farewell tells the server behind a port that its router and prefix are no
// more. If it does not hear, no harm is done: the lifetimes end by themselves.
func (l *Linux) farewell(ctx context.Context, have *netState, name string) {
	for _, p := range have.addrs[name] {
		if !p.Addr().Is6() {
			continue
		}
		if err := withdrawRouter(ctx, name, p.Masked()); err != nil && l.Log != nil {
			l.Log.Warn("a server is not told that its router leaves", "port", name, "error", err)
		}
	}
}

// verify reads FRR and the kernel back; bind has done so with the filters.
func (l *Linux) verify(ctx context.Context, f Files) error {
	running, err := l.running(ctx)
	if err != nil {
		return err
	}
	if d := diffFRR(running, f.FRR); !d.Empty() {
		return fault.New(fault.Precondition, "frr", "does not run what was loaded, it lacks: "+first(d.Announce)+"; has too much: "+first(d.Withdraw), "look into FRR's log")
	}
	have, err := readNet()
	if err != nil {
		return err
	}
	if c := f.Kernel.compare(have); len(c) > 0 {
		return fault.New(fault.Precondition, "kernel", "does not keep: "+c[0].what, "look who else configures this interface")
	}
	return l.renew(ctx, f, have, time.Now())
}

// bind loads a ruleset unless it is bound already, so that counters live on,
// and reads it back.
func (l *Linux) bind(ctx context.Context, r Ruleset, bound binding) (binding, error) {
	if bound.is(r) {
		return bound, nil
	}
	if err := l.load(ctx, "load.nft", r.Text, l.nft, "-f"); err != nil {
		return bound, fault.Wrap(fault.Precondition, "nftables", "does not load the ruleset", err)
	}
	bound, err := l.bound(ctx)
	if err == nil && !bound.is(r) {
		err = fault.New(fault.Precondition, "nftables", "does not hold the ruleset that was loaded", "look who else changes table netdev "+table)
	}
	return bound, err
}

// A binding is what is read back of the kernel's filters.
type binding struct {
	id    string
	rules map[string]int               // by chain
	class map[string]ingotv1.PortClass // by port
}

func (b binding) is(r Ruleset) bool {
	if b.id != r.ID || len(b.rules) != len(r.Rules) || len(b.class) != len(r.Rules) {
		return false
	}
	for chain, n := range r.Rules {
		if b.rules[chain] != n {
			return false
		}
	}
	return true
}

// bound lists Ingot's table. Without one, nothing is bound.
func (l *Linux) bound(ctx context.Context) (binding, error) {
	out, err := l.nft(ctx, "list", "table", "netdev", table)
	if err != nil {
		// The table does not exist at first; if nft is broken, this fails too.
		if _, err := l.nft(ctx, "list", "tables", "netdev"); err != nil {
			return binding{}, fault.Wrap(fault.Unavailable, "nftables", "does not answer", err)
		}
	}
	return parseBinding(out), nil
}

var (
	commentLine = regexp.MustCompile(`^comment "(.*)"$`)
	chainLine   = regexp.MustCompile(`^chain (\S+) \{$`)
	hookLine    = regexp.MustCompile(`^type filter hook ingress devices? =? ?\{? ?"?([^" ]+)"?`)
)

// parseBinding reads what `nft list table` prints.
func parseBinding(out string) binding {
	b := binding{rules: map[string]int{}, class: map[string]ingotv1.PortClass{}}
	chain := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if m := commentLine.FindStringSubmatch(line); m != nil && chain == "" {
			b.id = m[1]
		} else if m := chainLine.FindStringSubmatch(line); m != nil {
			chain = m[1]
			b.rules[chain] = 0
		} else if line == "}" {
			chain = ""
		} else if m := hookLine.FindStringSubmatch(line); m != nil {
			class, _, _ := strings.Cut(chain, "-")
			b.class[m[1]] = ingotv1.PortClass(ingotv1.PortClass_value["PORT_CLASS_"+strings.ToUpper(class)])
		} else if chain != "" && line != "" && !strings.HasPrefix(line, "type filter ") {
			b.rules[chain]++
		}
	}
	return b
}

// A program of the switch, with the arguments; it returns what it printed.
type program func(ctx context.Context, args ...string) (string, error)

func (l *Linux) vtysh(ctx context.Context, args ...string) (string, error) {
	return run(ctx, l.Vtysh, "vtysh", args)
}

func (l *Linux) nft(ctx context.Context, args ...string) (string, error) {
	return run(ctx, l.Nft, "nft", args)
}

func run(ctx context.Context, name, otherwise string, args []string) (string, error) {
	if name == "" {
		name = otherwise
	}
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		// vtysh says what is wrong on either.
		why := strings.Join(strings.Fields(errOut.String()+" "+out.String()), " ")
		return out.String(), fmt.Errorf("%s: %w: %.500s", filepath.Base(name), err, why)
	}
	return out.String(), nil
}

// load writes a text to a file and hands its name to a program.
func (l *Linux) load(ctx context.Context, name, text string, p program, args ...string) error {
	path := filepath.Join(l.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := p(ctx, append(args, path)...)
	return err
}

// Ports says how the front panel ports are: all interfaces with a device of
// their own, so neither loopback nor bridges, tunnels and VRFs.
func (l *Linux) Ports(ctx context.Context) ([]Port, error) {
	have, err := readNet()
	if err != nil {
		return nil, err
	}
	bound, err := l.bound(ctx)
	if err != nil {
		return nil, err
	}
	sessions, err := l.sessions(ctx)
	if err != nil {
		return nil, err
	}
	var ports []Port
	for _, name := range sortedNames(have.links) {
		link := have.links[name]
		a := link.Attrs()
		if _, err := os.Stat("/sys/class/net/" + name + "/device"); err != nil {
			continue
		}
		p := Port{
			Name: name, MAC: a.HardwareAddr, VRF: have.master(link), Class: bound.class[name],
			Up: a.Flags&net.FlagUp != 0 && (a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown), BGP: sessions[name],
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int { return natural(a.Name, b.Name) })
	return ports, nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/beevik/ntp"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lldp"
)

// Network is a server's view of the boot network: its ports, what the routers
// said, and who is at the other end of each wire.
type Network struct {
	Ports []net.Interface

	mu        sync.Mutex
	neighbors map[string]lldp.Frame // by port
	resolvers []netip.Addr
	domains   []string
	heard     chan struct{} // closed and replaced when something was heard
	self      lldp.Frame
}

// portSettings make a port learn its address, and nothing else, from router
// advertisements. SLAAC with an interface identifier from the MAC address
// (RFC 4291, appendix A) keeps the address the same in firmware and kernel.
// Optimistic DAD (RFC 4429) lets the address be used while it is being probed.
var portSettings = []struct{ name, value string }{
	{"disable_ipv6", "0"},
	{"accept_ra", "2"},
	{"accept_ra_defrtr", "1"},
	{"autoconf", "1"},
	{"addr_gen_mode", "0"},
	{"use_tempaddr", "0"},
	{"optimistic_dad", "1"},
	{"use_optimistic", "1"},
	{"router_solicitation_delay", "0"},
	{"router_solicitation_interval", "1"},
}

// linkUp brings every Ethernet port up and starts to listen on it. It returns
// when at least one has a carrier.
func (a *Agent) linkUp(ctx context.Context) error {
	if a.network == nil {
		n, err := bringUp(a.cfg.identity())
		if err != nil {
			return err
		}
		a.network = n
		a.background(n.Run)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		for _, p := range a.network.Ports {
			if b, err := os.ReadFile("/sys/class/net/" + p.Name + "/carrier"); err == nil && strings.TrimSpace(string(b)) == "1" {
				return nil
			}
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return fault.Newf(fault.Unavailable, "network", "no carrier on any of %d ports", len(a.network.Ports)).
				Do("check the cables and that the leaf's ports are up")
		}
	}
}

// identity is what the server tells its neighbours about itself.
func (c Config) identity() lldp.Frame {
	uuid, err := systemUUID(rootFS)
	if err != nil {
		uuid = "unknown"
	}
	return lldp.Frame{ChassisID: uuid, SystemName: uuid, SystemDescription: "Ingot boot image " + c.Version, TTL: 30 * time.Second}
}

// bringUp brings the server's ports up.
func bringUp(self lldp.Frame) (*Network, error) {
	ports, err := ethernetPorts()
	if err != nil {
		return nil, err
	}
	if len(ports) == 0 {
		return nil, fault.New(fault.Unavailable, "network", "the server has no Ethernet port that this kernel can drive", "look at the boot image's modules")
	}
	for _, p := range ports {
		for _, s := range portSettings {
			// Kernels differ in which settings they have; the ones that
			// matter show in the address that does not come.
			_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", p.Name, s.name), []byte(s.value), 0)
		}
		link, err := netlink.LinkByName(p.Name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return nil, fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return &Network{Ports: ports, neighbors: map[string]lldp.Frame{}, heard: make(chan struct{}), self: self}, nil
}

// Run collects what routers and neighbours say until ctx ends.
func (n *Network) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range n.Ports {
		all.Go(func() { n.hearRouters(ctx, p) })
		all.Go(func() { n.meetNeighbors(ctx, p) })
	}
	all.Wait()
}

// ethernetPorts returns the server's physical Ethernet ports by name.
func ethernetPorts() ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var ports []net.Interface
	for _, i := range all {
		if _, err := os.Stat("/sys/class/net/" + i.Name + "/device"); err == nil && len(i.HardwareAddr) == 6 {
			ports = append(ports, i)
		}
	}
	return ports, nil
}

// findAddress waits for a global address that is not tentative, and for the
// name server that came with it.
func (a *Agent) findAddress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		addr, duplicate, err := globalAddress(a.network.Ports)
		if err != nil {
			return err
		}
		resolvers, domains := a.network.Resolvers()
		if addr.IsValid() && len(resolvers) > 0 {
			a.cfg.Log.Info("address", "address", addr, "resolvers", resolvers)
			return writeResolvConf("/etc/resolv.conf", resolvers, domains)
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return noAddress(addr, duplicate, a.network)
		}
	}
}

// noAddress says which of the things that had to happen did not.
func noAddress(addr netip.Addr, duplicate string, n *Network) error {
	switch {
	case duplicate != "":
		return fault.New(fault.Unavailable, "address "+duplicate, "is used by somebody else on this port",
			"look for two servers with the same MAC address")
	case addr.IsValid():
		return fault.New(fault.Unavailable, "router advertisement", "names no DNS server", "look at the leaf's port configuration")
	default:
		return fault.Newf(fault.Unavailable, "router advertisement", "none came on %d ports in 30 s", len(n.Ports)).
			Do("look at the timeline of the leaves: the port must be in class boot")
	}
}

// globalAddress returns an address that can be used, and one that turned out
// to be taken, if any.
func globalAddress(ports []net.Interface) (usable netip.Addr, duplicate string, err error) {
	for _, p := range ports {
		link, err := netlink.LinkByIndex(p.Index)
		if err != nil {
			return netip.Addr{}, "", fmt.Errorf("port %s: %w", p.Name, err)
		}
		addrs, err := netlink.AddrList(link, unix.AF_INET6)
		if err != nil {
			return netip.Addr{}, "", fmt.Errorf("port %s: %w", p.Name, err)
		}
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			tentative := a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
			switch {
			case !ip.IsGlobalUnicast():
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				duplicate = ip.String()
			case !tentative && !usable.IsValid():
				usable = ip
			}
		}
	}
	return usable, duplicate, nil
}

// hearRouters asks for router advertisements until one came with a name
// server: the kernel takes the address from them but ignores RFC 8106.
func (n *Network) hearRouters(ctx context.Context, port net.Interface) {
	var conn *ndp.Conn
	for conn == nil { // needs a carrier and a link-local address
		var err error
		if conn, _, err = ndp.Listen(&port, ndp.LinkLocal); err != nil && !sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	asked := time.Time{}
	for ctx.Err() == nil {
		if r, _ := n.Resolvers(); len(r) == 0 && time.Since(asked) > time.Second {
			asked = time.Now()
			_ = conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2"))
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		m, _, _, err := conn.ReadFrom()
		if errors.Is(err, os.ErrDeadlineExceeded) || err != nil && sleep(ctx, 10*time.Millisecond) {
			continue
		}
		if ra, ok := m.(*ndp.RouterAdvertisement); ok {
			n.advertised(ra)
		}
	}
}

func (n *Network) advertised(ra *ndp.RouterAdvertisement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range ra.Options {
		switch o := o.(type) {
		case *ndp.RecursiveDNSServer:
			for _, s := range o.Servers {
				if o.Lifetime > 0 && isServer(s) && !slices.Contains(n.resolvers, s) && len(n.resolvers) < 3 {
					n.resolvers = append(n.resolvers, s)
				}
			}
		case *ndp.DNSSearchList:
			for _, d := range o.DomainNames {
				if o.Lifetime > 0 && isDomain.MatchString(d) && !slices.Contains(n.domains, d) && len(n.domains) < 6 {
					n.domains = append(n.domains, d)
				}
			}
		}
	}
	n.news()
}

// isServer reports whether an address can be asked. What a router says goes into
// a file, and so do its domains.
func isServer(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

var isDomain = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$`)

// meetNeighbors says who we are, every second, and remembers who the other
// end is. A second is often, but a server in the boot image is new on its port
// and the installation waits for the leaf to know it.
func (n *Network) meetNeighbors(ctx context.Context, port net.Interface) {
	conn, err := lldp.Open(port)
	if err != nil {
		return // shows as a port without neighbour
	}
	defer conn.Close()
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		self := n.self
		self.PortID, self.PortDescription = port.HardwareAddr.String(), port.Name
		for {
			_ = conn.Send(self) // fails while the link is down
			if !sleep(ctx, time.Second) {
				return
			}
		}
	})
	for ctx.Err() == nil {
		f, err := conn.Receive(ctx)
		if err != nil {
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		n.mu.Lock()
		n.neighbors[port.Name] = f
		n.news()
		n.mu.Unlock()
	}
}

// news wakes everybody who waits for something to be heard. n.mu is held.
func (n *Network) news() {
	close(n.heard)
	n.heard = make(chan struct{})
}

// Resolvers returns the name servers and search domains that were advertised.
func (n *Network) Resolvers() ([]netip.Addr, []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.resolvers), slices.Clone(n.domains)
}

// Neighbors returns what was last heard on each port, by port name.
func (n *Network) Neighbors() map[string]lldp.Frame {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make(map[string]lldp.Frame, len(n.neighbors))
	for k, v := range n.neighbors {
		out[k] = v
	}
	return out
}

// AwaitNeighbors waits until every port with a carrier has a neighbour, or
// until the time is over.
func (n *Network) AwaitNeighbors(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		n.mu.Lock()
		missing, heard := 0, n.heard
		for _, p := range n.Ports {
			if _, ok := n.neighbors[p.Name]; !ok {
				missing++
			}
		}
		n.mu.Unlock()
		if missing == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-heard:
		}
	}
}

func writeResolvConf(path string, resolvers []netip.Addr, domains []string) error {
	var b strings.Builder
	for _, r := range resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", r)
	}
	if len(domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(domains, " "))
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// setClock asks metal-boot for the time, because nothing can be verified with
// a wrong clock. A false answer gains an attacker nothing but an outage: the
// certificate authority comes with the medium.
func (a *Agent) setClock(ctx context.Context) error {
	r, err := ntp.QueryWithOptions(a.cfg.Boot.Hostname(), ntp.QueryOptions{Timeout: 2 * time.Second})
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, "time", "metal-boot does not tell it", err).Do("look at metal-boot on the leaves")
	}
	const tolerable = 200 * time.Millisecond
	if r.ClockOffset.Abs() < tolerable {
		return nil
	}
	now := unix.NsecToTimespec(time.Now().Add(r.ClockOffset).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	a.cfg.Log.Info("clock set", "offset", r.ClockOffset.Round(time.Millisecond))
	return nil
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

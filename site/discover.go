package site

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Discovery finds BMCs by the leases that a DHCP server of the management
// network gave them (MEP-15). It asks each address that is not known to be a
// BMC's for Redfish, without credentials, and reports those that answer.
// Ingot itself has no DHCP.
type Discovery struct {
	cfg   DiscoveryConfig
	files map[string]leaseFile
	tries map[netip.Addr]try
}

// DiscoveryConfig of a Discovery.
type DiscoveryConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	// Files are lease files as ParseLeases reads them. They are read again
	// when they have changed.
	Files []string
	// Port is where BMCs serve Redfish that are not known yet; 443 if zero.
	Port uint16
	// Every is how soon an address that did not answer is asked again, a
	// minute if zero. The time doubles up to an hour.
	Every time.Duration
	Log   *slog.Logger
}

// leaseFile is a file as it was read last.
type leaseFile struct {
	changed time.Time
	size    int64
	leases  []Lease
}

// try is what asking an address came to.
type try struct {
	mac   string // the card it was leased to
	times int
	next  time.Time
}

// NewDiscovery returns a Discovery that has found nothing yet.
func NewDiscovery(c DiscoveryConfig) *Discovery {
	if c.Port == 0 {
		c.Port = 443
	}
	if c.Every == 0 {
		c.Every = time.Minute
	}
	return &Discovery{cfg: c, files: map[string]leaseFile{}, tries: map[netip.Addr]try{}}
}

// Name implements Part.
func (d *Discovery) Name() string { return "discovery" }

// Run implements Part.
func (d *Discovery) Run(ctx context.Context, wanted Wanted) {
	follow(ctx, d.cfg.Log, d.Name(), wanted, d.Step)
}

const (
	// look is how often lease files are looked at.
	look = 5 * time.Second
	// probes is how many addresses are asked at a time.
	probes = 32
	// leaseFileSize is far more than a management network needs.
	leaseFileSize = 64 << 20
	// slowest is how rarely an address that never answers is asked, in
	// doublings of Every.
	slowest = 6
)

// Step reads what has changed, and asks the addresses of cards that are not
// known or have moved.
func (d *Discovery) Step(ctx context.Context, w *ingotv1.SiteWanted) (time.Duration, error) {
	leases, failed := d.read()
	now := time.Now()
	for a := range d.tries {
		if !slices.ContainsFunc(leases, func(l Lease) bool { return l.Address == a }) {
			delete(d.tries, a)
		}
	}
	due := slices.DeleteFunc(open(leases, w.GetKnown()), func(l Lease) bool {
		t := d.tries[l.Address]
		return t.mac == l.MAC && now.Before(t.next)
	})
	found := make([]*ingotv1.BMCDiscovered, len(due))
	var all errgroup.Group
	all.SetLimit(probes)
	for i, l := range due {
		t := d.tries[l.Address]
		if t.mac != l.MAC {
			t = try{mac: l.MAC}
		}
		t.next = now.Add(d.cfg.Every << t.times)
		t.times = min(t.times+1, slowest)
		d.tries[l.Address] = t
		all.Go(func() error {
			found[i] = d.ask(ctx, l, port(w.GetKnown(), l.MAC, d.cfg.Port))
			return nil
		})
	}
	_ = all.Wait() // each says for itself what it found
	return min(look, d.cfg.Every), errors.Join(failed, d.report(ctx, due, found))
}

// report tells of the BMCs that were found, one address for each.
func (d *Discovery) report(ctx context.Context, due []Lease, found []*ingotv1.BMCDiscovered) error {
	var bmcs []*ingotv1.BMCDiscovered
	for _, f := range found {
		if f != nil && (len(bmcs) == 0 || bmcs[len(bmcs)-1].GetMac() != f.GetMac()) {
			bmcs = append(bmcs, f)
		}
	}
	for some := range slices.Chunk(bmcs, 1000) { // what one call takes
		_, err := d.cfg.API.Discovered(ctx, connect.NewRequest(&ingotv1.SiteServiceDiscoveredRequest{Partition: d.cfg.Partition, Bmcs: some}))
		if err == nil {
			continue
		}
		if code := connect.CodeOf(err); code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded {
			for i, l := range due { // the control plane is away: the BMCs are to be reported when it is back
				if found[i] != nil {
					delete(d.tries, l.Address)
				}
			}
		}
		return unavailable("discovery", "what was found cannot be reported", err)
	}
	return nil
}

// open returns the leases of cards that are not known, or not at any address
// that is leased to them now.
func open(leases []Lease, known []*ingotv1.BMCKnown) []Lease {
	settled := map[string]bool{}
	for _, k := range known {
		for _, mac := range k.GetOthers() {
			settled[mac] = true
		}
		host, _, _ := net.SplitHostPort(k.GetAddress())
		settled[k.GetMac()] = settled[k.GetMac()] || slices.ContainsFunc(leases, func(l Lease) bool { return l.MAC == k.GetMac() && l.Address.String() == host })
	}
	return slices.DeleteFunc(slices.Clone(leases), func(l Lease) bool { return settled[l.MAC] })
}

// port returns where the BMC of a card is to be asked.
func port(known []*ingotv1.BMCKnown, mac string, otherwise uint16) string {
	for _, k := range known {
		if _, port, err := net.SplitHostPort(k.GetAddress()); err == nil && k.GetMac() == mac {
			return port
		}
	}
	return strconv.Itoa(int(otherwise))
}

// ask looks for Redfish at the address of a lease; nil if there is none. That
// is no error: most leases may be of switches and power distribution units.
func (d *Discovery) ask(ctx context.Context, l Lease, port string) *ingotv1.BMCDiscovered {
	address := net.JoinHostPort(l.Address.String(), port)
	s, err := bmc.Probe(ctx, address)
	if err != nil {
		d.cfg.Log.Debug("no BMC answers at a lease", "mac", l.MAC, "address", address, "error", err)
		return nil
	}
	d.cfg.Log.Info("a BMC answers at a lease", "mac", l.MAC, "address", address, "vendor", s.Vendor, "product", s.Product)
	found := &ingotv1.BMCDiscovered{Mac: l.MAC, Address: address, Vendor: s.Vendor, Product: s.Product, Hostname: hostname(l.Hostname)}
	if !s.Trusted {
		found.Certificate = string(s.Certificate)
	}
	return found
}

// hostname leaves out what is no name: it comes from whoever asked for the
// lease.
func hostname(name string) string {
	if len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return ""
	}
	return name
}

// read returns the leases of all files that are in force. A file that cannot
// be read counts as it was before: servers write theirs while we read.
func (d *Discovery) read() ([]Lease, error) {
	var all []Lease
	var failed error
	now := time.Now()
	for _, name := range d.cfg.Files {
		was := d.files[name]
		is, err := readLeases(name, was, now)
		if err != nil {
			failed = errors.Join(failed, err)
			is = was
		}
		d.files[name] = is
		for _, l := range is.leases {
			if l.Expires.IsZero() || l.Expires.After(now) {
				all = append(all, l)
			}
		}
	}
	return newestLeases(all), failed
}

// readLeases reads a file unless it is as it was.
func readLeases(name string, was leaseFile, now time.Time) (leaseFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return was, fault.Wrap(fault.Precondition, "lease file "+name, "cannot be opened", err).Do("check --lease-file, and that ingotd may read it")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return was, fault.Wrap(fault.Precondition, "lease file "+name, "cannot be looked at", err)
	}
	if info.ModTime().Equal(was.changed) && info.Size() == was.size {
		return was, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, leaseFileSize+1))
	if err != nil {
		return was, fault.Wrap(fault.Precondition, "lease file "+name, "cannot be read", err)
	}
	if len(text) > leaseFileSize {
		return was, fault.Newf(fault.Invalid, "lease file "+name, "is larger than %d MiB", leaseFileSize>>20)
	}
	is := leaseFile{changed: info.ModTime(), size: info.Size()}
	is.leases, err = ParseLeases(name, text, now)
	return is, err
}

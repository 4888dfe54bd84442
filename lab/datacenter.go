package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"time"
)

// A Plan says what a data centre is made of. The zero value of a field means
// what its comment says.
type Plan struct {
	Dir     string // folder of everything the data centre keeps
	Bin     string // folder of ingotd, ingot, ingot-leaf and ingot-agent
	Servers int    // 3
	// Debian offers the Debian image, too, which takes minutes to build once.
	Debian bool
	// Boot is the medium that servers boot: UKI.
	Boot BootMedium
	// DataDisk gives every server a second disk, Releases offers a second release
	// of the small image.
	DataDisk, Releases bool
	// Capture records every wire between servers and leaves from the start.
	Capture bool
	// Say tells a person what is going on.
	Say func(format string, args ...any)
}

// A BootMedium is what servers boot, in the words of the catalogue.
type BootMedium string

// The boot media.
const (
	UKI  BootMedium = "uki"
	IPXE BootMedium = "ipxe"
)

// A DataCenter is a control plane, two leaves, a management server and servers,
// all on this machine, without root. The iron is virtual; the programs are the
// ones that run in a real one.
type DataCenter struct {
	plan    Plan
	cache   *Cache
	control *control
	origin  *http.Server
	files   map[string]string // what the origin serves
	ill     atomic.Int32      // what ails the origin
	images  []osImage
	Leaves  []*VM
	Site    *VM
	Servers []*Server
	Wires   map[string]*Wire
	// Entrance leads people in.
	Entrance *Entrance

	addresses []string       // of the BMCs, as the management server sees them
	key       string         // the operator's public ssh key
	handed    map[int]string // userdata, by server

	demo struct { // of scripts
		sync.Mutex
		project Project
	}

	news map[int]*news // of servers

	stop context.CancelFunc
	all  sync.WaitGroup
	errs chan error
}

// Partition is the data centre's only one.
const Partition = "lab"

// sitePort is the leaves' port to the management server.
const sitePort = "swp63"

//go:embed catalog.yaml
var catalog string

// NewDataCenter builds what is needed, and starts everything but the servers:
// they are switched on by Ingot, through their BMCs.
func (c *Cache) NewDataCenter(ctx context.Context, p Plan) (*DataCenter, error) {
	if p.Servers < 1 {
		p.Servers = 3
	}
	if p.Boot == "" {
		p.Boot = UKI
	}
	if p.Say == nil {
		p.Say = func(string, ...any) {}
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	d := &DataCenter{plan: p, cache: c, Wires: map[string]*Wire{}, news: map[int]*news{}, stop: stop, errs: make(chan error, 64)}
	for _, step := range []struct {
		what string
		do   func(context.Context, context.Context) error
	}{
		{"building what the guests boot from", d.build},
		{"starting the control plane", d.startControl},
		{"racking servers", d.rack},
		{"telling the control plane what there is", d.tell},
		{"making the operator's key", func(ctx, _ context.Context) error { return d.open(ctx) }},
		{"starting leaves and management server", d.startFabric},
		{"listening for what shall break", d.listen},
	} {
		p.Say("%s", step.what)
		if err := step.do(ctx, run); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", step.what, err), d.Close())
		}
	}
	return d, nil
}

// Close takes the power away from everything and ends all processes.
func (d *DataCenter) Close() error {
	d.stop()
	d.all.Wait()
	errs := []error{d.shut()}
	for _, v := range append(d.Leaves, d.Site) {
		if v != nil {
			errs = append(errs, v.Close())
		}
	}
	for _, w := range d.Wires {
		errs = append(errs, w.Close())
	}
	if d.control != nil {
		errs = append(errs, d.control.Close())
	}
	for {
		select {
		case err := <-d.errs:
			errs = append(errs, err)
		default:
			return errors.Join(errs...)
		}
	}
}

// Ingot runs the command line as the data centre's operator.
func (d *DataCenter) Ingot(ctx context.Context, args ...string) (string, error) {
	return d.control.ingot(ctx, "", args...)
}

// Environment returns what a shell needs to run the command line as the data
// centre's operator.
func (d *DataCenter) Environment() string { return "XDG_CONFIG_HOME=" + d.control.configDir() }

// goes runs f until the data centre is closed, and keeps how it ended.
func (d *DataCenter) goes(f func() error) {
	d.all.Go(func() {
		if err := f(); err != nil {
			d.errs <- err
		}
	})
}

// build makes the boot image and the OS image, and serves them as an
// operator's web server would.
func (d *DataCenter) build(ctx, run context.Context) error {
	image, err := d.cache.BootImage(ctx, filepath.Join(d.plan.Bin, "ingot-agent"))
	if err != nil {
		return err
	}
	if err := d.buildImages(ctx); err != nil {
		return err
	}
	if _, err := d.cache.Firmware(ctx); err != nil {
		return err
	}
	d.files = map[string]string{"/kernel": image.Kernel, "/initrd": image.Initrd}
	for _, i := range d.images {
		d.files[i.Path] = i.file
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.origin = &http.Server{Addr: l.Addr().String(), ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(d.serveOrigin)}
	d.goes(func() error {
		if err := d.origin.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	context.AfterFunc(run, func() { _ = d.origin.Close() })
	return nil
}

// What can ail the origin.
const (
	originWell = iota
	originDown
	originLies
)

// serveOrigin serves boot image and OS images as an operator's web server
// would, or fails to.
func (d *DataCenter) serveOrigin(w http.ResponseWriter, r *http.Request) {
	name, ok := d.files[r.URL.Path]
	switch ails := d.ill.Load(); {
	case !ok:
		http.NotFound(w, r)
	case ails == originDown:
		http.Error(w, "the origin is down", http.StatusServiceUnavailable)
	case ails == originLies:
		b, err := os.ReadFile(name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		b[len(b)/2] ^= 1
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(b))
	default:
		http.ServeFile(w, r, name)
	}
}

func (d *DataCenter) startControl(ctx, _ context.Context) (err error) {
	d.control, err = startControl(ctx, d.plan.Bin, filepath.Join(d.plan.Dir, "control"))
	return err
}

// leafNames are the data centre's leaves.
var leafNames = []string{"leaf1", "leaf2"}

func serverName(n int) string { return "m" + strconv.Itoa(n) }

// UUID returns the uuid of server n, from 1.
func UUID(n int) string { return fmt.Sprintf("1ab00000-0000-4000-8000-%012d", n) }

// wire returns the wire of a name, new at first.
func (d *DataCenter) wire(name string) *Wire {
	if d.Wires[name] == nil {
		d.Wires[name] = NewWire(name)
	}
	return d.Wires[name]
}

// rack makes the servers and their BMCs, powered off.
func (d *DataCenter) rack(ctx, run context.Context) error {
	for n := 1; n <= d.plan.Servers; n++ {
		dir := filepath.Join(d.plan.Dir, serverName(n))
		spec := Spec{
			Name: serverName(n), UUID: UUID(n), Serial: fmt.Sprintf("SN%04d", n), Manufacturer: "Ingot", Product: "Lab server", Memory: 512,
			Disks: []Disk{{Size: 4 << 30, Serial: fmt.Sprintf("DISK%04d", n)}},
		}
		if d.plan.DataDisk {
			spec.Disks = append(spec.Disks, Disk{Size: 64 << 20, Serial: fmt.Sprintf("DATA%04d", n)})
		}
		for i, leaf := range leafNames {
			w := d.wire(serverName(n) + "-" + leaf)
			spec.NICs = append(spec.NICs, NIC{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i+1, n), Port: w.A()})
			if d.plan.Capture {
				if err := w.Capture(filepath.Join(d.plan.Dir, w.Name()+".pcap")); err != nil {
					return err
				}
			}
		}
		s, err := d.cache.NewServer(ctx, dir, ServerSpec{Spec: spec, User: "admin", Password: rand.Text(), BMCMAC: fmt.Sprintf("52:54:00:00:ff:%02x", n)})
		if err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		d.addresses = append(d.addresses, hostSeen+":"+strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		d.Servers = append(d.Servers, s)
		d.news[n] = &news{}
		d.goes(func() error { return s.Run(run, l) })
	}
	return nil
}

// tell applies the catalogue.
func (d *DataCenter) tell(ctx, _ context.Context) error {
	type board struct{ ID, MAC, Address, User, Password, CA string }
	var boards []board
	for n, s := range d.Servers {
		boards = append(boards, board{
			"bmc-" + serverName(n+1), s.BMC.cfg.Board.MAC, d.addresses[n], s.BMC.cfg.User, s.BMC.cfg.Password,
			"  " + strings.ReplaceAll(strings.TrimSpace(string(s.BMC.CA())), "\n", "\n  "),
		})
	}
	boards[0].Address = "" // it comes from the lease that startSite makes
	t, err := template.New("catalog").Option("missingkey=error").Parse(catalog)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(d.origin.Addr)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, map[string]any{
		"Partition": Partition, "Boot": d.plan.Boot, "Origin": "http://" + net.JoinHostPort(hostSeen, port), "Leaves": leafNames, "SitePort": sitePort,
		"KernelArguments": KernelArguments(), "Expires": time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339), "Images": d.images, "BMCs": boards,
	}); err != nil {
		return err
	}
	_, err = d.control.ingot(ctx, text.String(), "apply", "-f", "-")
	return err
}

// startFabric starts the leaves and the management server, each with a secret
// that enrols it once.
func (d *DataCenter) startFabric(ctx, _ context.Context) error {
	d.Leaves = make([]*VM, len(leafNames))
	for i := range leafNames {
		if err := d.startLeaf(ctx, i); err != nil {
			return err
		}
	}
	return d.startSite(ctx)
}

// startLeaf starts a leaf from nothing, as a switch that was replaced.
func (d *DataCenter) startLeaf(ctx context.Context, i int) error {
	name := leafNames[i]
	files, err := d.identity(ctx, "leaf", name)
	if err != nil {
		return err
	}
	files["/root/.ssh/authorized_keys"] = File{Data: []byte(d.key + "\n"), Mode: 0o600}
	v, err := d.cache.NewGuest(ctx, filepath.Join(d.plan.Dir, name), GuestSpec{
		Spec:     Spec{Name: name, NICs: d.leafNICs(i, name), Files: files},
		Programs: map[string]string{"/usr/sbin/ingot-leaf": filepath.Join(d.plan.Bin, "ingot-leaf")},
		Prepare:  management,
		Services: map[string]string{"leaf": "exec /usr/sbin/ingot-leaf --uplinks fabric0 --management eth0 " + d.joining(name), "ssh": sshd},
	})
	if err != nil {
		return err
	}
	d.Leaves[i] = v
	return v.PowerOn(ctx)
}

// identity returns what a far end needs to enrol.
func (d *DataCenter) identity(ctx context.Context, kind, id string) (map[string]File, error) {
	ca, err := os.ReadFile(d.control.caFile())
	if err != nil {
		return nil, err
	}
	secret, err := d.enrol(ctx, kind, id)
	return map[string]File{
		"/etc/ingot/ca.crt": {Data: ca, Mode: 0o644},
		"/etc/ingot/secret": {Data: []byte(secret + "\n"), Mode: 0o600},
	}, err
}

// joining are the flags with which a far end finds the control plane.
func (d *DataCenter) joining(id string) string {
	return "--api-url https://" + net.JoinHostPort(hostSeen, d.apiPort()) + " --ca-file /etc/ingot/ca.crt --enrol-secret-file /etc/ingot/secret --id " +
		id + " --partition " + Partition
}

// enrol returns a one-time secret for a far end.
func (d *DataCenter) enrol(ctx context.Context, kind, id string) (string, error) {
	out, err := d.control.ingot(ctx, "", "partition", "enroll", "--partition", Partition, "--far-end", kind, "--id", id, "-o", "json")
	if err != nil {
		return "", err
	}
	var answer struct{ Secret string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Secret == "" {
		return "", fmt.Errorf("enrolment of %s gave no secret (%w)", id, err)
	}
	return answer.Secret, nil
}

func (d *DataCenter) leafNICs(i int, name string) []NIC {
	mac := func(port int) string { return fmt.Sprintf("02:00:00:%02x:00:%02x", i+1, port) }
	nics := []NIC{
		{MAC: mac(0xf0), Name: "eth0", User: &User{Forward: map[netip.AddrPort]int{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(d.Entrance.Leaves[i].Port)): 22,
		}}},
		{MAC: mac(0xf1), Name: "fabric0", Port: end(d.wire("fabric"), i), MTU: 9000},
		{MAC: mac(63), Name: sitePort, Port: d.wire("site-" + name).B()},
	}
	for n := range d.Servers {
		nics = append(nics, NIC{MAC: mac(n + 1), Name: "swp" + strconv.Itoa(n+1), Port: d.wire(serverName(n+1) + "-" + name).B(), MTU: 9000})
	}
	return nics
}

func end(w *Wire, i int) *Port {
	if i == 0 {
		return w.A()
	}
	return w.B()
}

// management brings up a guest's port to this machine.
const management = "/bin/ip link set eth0 up\n/bin/ip addr add 10.0.2.15/24 dev eth0\n"

func (d *DataCenter) apiPort() string {
	_, port, _ := net.SplitHostPort(d.control.addr) // made by freeAddress
	return port
}

func (d *DataCenter) startSite(ctx context.Context) error {
	const name = "site1"
	files, err := d.identity(ctx, "site", name)
	if err != nil {
		return err
	}
	p, err := d.cache.Parts(ctx)
	if err != nil {
		return err
	}
	const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	files[stub] = File{From: p.Stub, Mode: 0o644}
	ipxe := ""
	if d.plan.Boot == IPXE {
		program, err := d.cache.IPXE(ctx)
		if err != nil {
			return err
		}
		files["/usr/lib/ipxe/ipxe.efi"] = File{From: program, Mode: 0o644}
		ipxe = " --ipxe-file /usr/lib/ipxe/ipxe.efi"
	}
	// The BMC of the first server has a lease. All BMCs share this machine's
	// address and differ in their ports, so that only one can be found so.
	const leases = "/var/lib/misc/dnsmasq.leases"
	files[leases] = File{Data: fmt.Appendf(nil, "0 %s %s bmc-m1 *\n", d.Servers[0].BMC.cfg.Board.MAC, hostSeen), Mode: 0o644}
	_, leasePort, err := net.SplitHostPort(d.addresses[0])
	if err != nil {
		return err
	}
	media, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	nics := []NIC{{MAC: "02:00:00:10:00:f0", Name: "eth0", User: &User{Forward: map[netip.AddrPort]int{netip.MustParseAddrPort(media): 8080}}}}
	for i, leaf := range leafNames {
		nics = append(nics, NIC{MAC: fmt.Sprintf("02:00:00:10:00:%02x", i), Name: "boot" + strconv.Itoa(i), Port: d.wire("site-" + leaf).A()})
	}
	d.Site, err = d.cache.NewGuest(ctx, filepath.Join(d.plan.Dir, name), GuestSpec{
		Spec:     Spec{Name: name, Memory: 768, NICs: nics, Files: files},
		Programs: map[string]string{"/usr/sbin/ingotd": filepath.Join(d.plan.Bin, "ingotd")},
		Prepare:  management + "for p in boot0 boot1; do /bin/ip link set $p up; done",
		Services: map[string]string{"ingotd": "exec /usr/sbin/ingotd serve --parts bmc,boot,cache --data-dir /var/lib/ingot " + d.joining(name) +
			" --media-url http://" + media + " --media-listen :8080 --boot-ports boot0,boot1 --efi-stub " + stub + ipxe + " --bmc-interval 10s --lease-file " + leases + " --lease-port " + leasePort},
	})
	if err != nil {
		return err
	}
	return d.Site.PowerOn(ctx)
}

// rootsFrom returns a configuration that trusts the authorities in a file.
func rootsFrom(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

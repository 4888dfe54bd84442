package leaf_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/leaf"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// device is a switch that takes what it is given, unless told otherwise.
type device struct {
	refuse, fail error
	applied      leaf.Files
	times        int
	ports        []leaf.Port
}

func (d *device) Check(context.Context, leaf.Files) error { return d.refuse }

func (d *device) Apply(_ context.Context, f leaf.Files) error {
	if d.fail != nil {
		return d.fail
	}
	d.applied = f
	d.times++
	return nil
}

func (d *device) Ports(context.Context) ([]leaf.Port, error) { return slices.Clone(d.ports), nil }

// control is a control plane: a CA, what it was told, and what it says.
type control struct {
	ingotv1connect.UnimplementedLeafServiceHandler
	ca  *x509.Certificate
	key *ecdsa.PrivateKey

	mu         sync.Mutex
	validity   time.Duration
	registered *ingotv1.LeafServiceRegisterRequest
	reports    []*ingotv1.LeafServiceReportRequest
	have       []*ingotv1.Generation
	wanted     chan *ingotv1.LeafConfiguration // what open streams send
	certified  int
}

func (c *control) Register(_ context.Context, r *connect.Request[ingotv1.LeafServiceRegisterRequest]) (*connect.Response[ingotv1.LeafServiceRegisterResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.registered = r.Msg
	return connect.NewResponse(&ingotv1.LeafServiceRegisterResponse{Switch: r.Msg.GetSwitch()}), nil
}

func (c *control) Report(_ context.Context, r *connect.Request[ingotv1.LeafServiceReportRequest]) (*connect.Response[ingotv1.LeafServiceReportResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = append(c.reports, r.Msg)
	return connect.NewResponse(&ingotv1.LeafServiceReportResponse{}), nil
}

// Configure ends each stream after one configuration, so that the leaf has to
// come again.
func (c *control) Configure(ctx context.Context, r *connect.Request[ingotv1.LeafServiceConfigureRequest], s *connect.ServerStream[ingotv1.LeafServiceConfigureResponse]) error {
	c.mu.Lock()
	c.have = append(c.have, r.Msg.GetHave())
	c.mu.Unlock()
	if err := s.Send(&ingotv1.LeafServiceConfigureResponse{}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case w := <-c.wanted:
		return s.Send(&ingotv1.LeafServiceConfigureResponse{Configuration: w})
	}
}

func (c *control) Certificate(_ context.Context, r *connect.Request[ingotv1.LeafServiceCertificateRequest]) (*connect.Response[ingotv1.LeafServiceCertificateResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	csr, err := x509.ParseCertificateRequest(r.Msg.GetRequest())
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c.certified++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(int64(c.certified)), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(c.validity),
		IPAddresses: []net.IP{net.ParseIP("fd00:b007::1")}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.ca, csr.PublicKey, c.key)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.LeafServiceCertificateResponse{Certificates: [][]byte{der}}), nil
}

// last is the newest report.
func (c *control) last() *ingotv1.LeafServiceReportRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reports) == 0 {
		return nil
	}
	return c.reports[len(c.reports)-1]
}

type world struct {
	*control
	api    *httptest.Server
	device *device
	cfg    leaf.Config
}

// newControl returns a control plane with a CA of its own.
func newControl(t *testing.T) *control {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err == nil {
		ca, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &control{ca: ca, key: key, validity: 24 * time.Hour, wanted: make(chan *ingotv1.LeafConfiguration)}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{control: newControl(t)}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewLeafServiceHandler(w.control))
	w.api = httptest.NewServer(mux)
	t.Cleanup(w.api.Close)
	w.device = &device{}
	for _, name := range []string{"up1", "up2", "swp1", "swp2", "swp10", "eth0"} {
		w.device.ports = append(w.device.ports, leaf.Port{Name: name, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(len(name))}, Up: name != "swp2"})
	}
	w.cfg = leaf.Config{
		Switch: "leaf01", Partition: "lab", ManagementIP: "192.0.2.1", Management: []string{"eth0"}, Uplinks: []string{"up1", "up2"},
		OS: "Debian 12", Version: "v0.1.0", FRR: leaf.OldestFRR, Dir: t.TempDir(), Device: w.device, Log: slog.New(slog.DiscardHandler),
		API: ingotv1connect.NewLeafServiceClient(w.api.Client(), w.api.URL),
	}
	return w
}

func (w *world) agent(t *testing.T) *leaf.Agent {
	t.Helper()
	a, err := leaf.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// golden is the configuration of a golden file as some generation.
func golden(t *testing.T, name string, epoch, n uint64) *ingotv1.LeafConfiguration {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	c := configuration(t, a)
	c.Generation = &ingotv1.Generation{Epoch: epoch, N: n}
	return c
}

func step(t *testing.T, a *leaf.Agent) {
	t.Helper()
	if err := a.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func offer(t *testing.T, a *leaf.Agent, c *ingotv1.LeafConfiguration) {
	t.Helper()
	if err := a.Offer(c); err != nil {
		t.Fatal(err)
	}
}

func TestStepRegistersAndReports(t *testing.T) {
	w := newWorld(t)
	a := w.agent(t)
	step(t, a)
	r := w.last()
	if r.GetGeneration() != nil || r.GetError() != "" || w.device.times != 0 {
		t.Errorf("with nothing wanted: generation %v, error %q, applied %d times", r.GetGeneration(), r.GetError(), w.device.times)
	}
	var names []string
	for _, n := range w.registered.GetSwitch().GetNics() {
		names = append(names, n.GetName())
	}
	if d := cmp.Diff([]string{"up1", "up2", "swp1", "swp2", "swp10"}, names); d != "" {
		t.Errorf("registered ports (-want +got)\n%s", d)
	}

	offer(t, a, golden(t, "boot", 1, 7))
	w.device.ports[2].VRF, w.device.ports[2].Class = "vrf1000", ingotv1.PortClass_PORT_CLASS_BOOT
	w.registered = nil
	step(t, a)
	step(t, a)
	if !strings.Contains(w.device.applied.FRR, "ipv6 nd prefix fd00:10:0:101::/64") {
		t.Errorf("applied:\n%s", w.device.applied.FRR)
	}
	if w.device.times != 2 {
		t.Errorf("applied %d times in two steps: what drifts would stay", w.device.times)
	}
	if w.registered != nil {
		t.Error("registered again though no port changed")
	}
	r = w.last()
	if g := r.GetGeneration(); g.GetEpoch() != 1 || g.GetN() != 7 {
		t.Errorf("reports generation %v", g)
	}
	got := r.GetPorts()[2]
	want := &ingotv1.PortReport{Name: "swp1", Status: 1, Vrf: "vrf1000", Class: ingotv1.PortClass_PORT_CLASS_BOOT}
	if !proto.Equal(got, want) {
		t.Errorf("reports %v, want %v", got, want)
	}
	if down := r.GetPorts()[3]; down.GetStatus() != 2 {
		t.Errorf("a port without carrier is reported as %v", down)
	}
}

func TestOfferRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.agent(t)
	offer(t, a, golden(t, "boot", 2, 7))
	for _, c := range []struct {
		epoch, n uint64
		ok       bool
	}{{2, 7, false}, {2, 6, false}, {1, 900, false}, {2, 8, true}, {3, 1, true}, {2, 9, false}} {
		if err := a.Offer(golden(t, "boot", c.epoch, c.n)); (err == nil) != c.ok || err != nil && !errors.Is(err, fault.Conflict) {
			t.Errorf("generation %d.%d: %v", c.epoch, c.n, err)
		}
	}
	foreign := golden(t, "boot", 9, 9)
	foreign.Switch = "leaf02"
	management := golden(t, "boot", 9, 9)
	management.Ports[0].Name = "eth0"
	for name, c := range map[string]*ingotv1.LeafConfiguration{"another switch's": foreign, "the management port": management, "no generation": {Switch: "leaf01"}} {
		if err := a.Offer(c); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A configuration that the device cannot be leaves the one before in effect.
func TestStepKeepsTheLastGood(t *testing.T) {
	w := newWorld(t)
	a := w.agent(t)
	offer(t, a, golden(t, "boot", 1, 1))
	step(t, a)
	good := w.device.applied

	n := uint64(1)
	for name, spoil := range map[string]func(*ingotv1.LeafConfiguration){
		"rendered": func(c *ingotv1.LeafConfiguration) { c.Asn = 0 },
		"checked":  func(*ingotv1.LeafConfiguration) { w.device.refuse = errors.New("frr: refuses line 7") },
	} {
		n++
		c := golden(t, "machine", 1, n)
		spoil(c)
		offer(t, a, c)
		w.device.applied = leaf.Files{}
		if err := a.Step(t.Context()); err == nil {
			t.Errorf("%s: no error", name)
		}
		if w.device.applied.FRR != good.FRR {
			t.Errorf("%s: the last good one is not kept up", name)
		}
		if r := w.last(); r.GetError() == "" || r.GetGeneration().GetN() != 1 {
			t.Errorf("%s: reports generation %v with error %q", name, r.GetGeneration(), r.GetError())
		}
		w.device.refuse = nil
	}

	w.device.fail = errors.New("kernel: no")
	offer(t, a, golden(t, "machine", 1, 50))
	if err := a.Step(t.Context()); err == nil || w.last().GetGeneration().GetN() != 1 {
		t.Errorf("a failed apply: %v, reported %v", err, w.last().GetGeneration())
	}
	w.device.fail = nil
	step(t, a)
	if r := w.last(); r.GetGeneration().GetN() != 50 || r.GetError() != "" {
		t.Errorf("the next step reports %v, %q", r.GetGeneration(), r.GetError())
	}
}

func TestRestartWithoutControlPlane(t *testing.T) {
	w := newWorld(t)
	a := w.agent(t)
	offer(t, a, golden(t, "machine", 3, 4))
	step(t, a)
	want := w.device.applied
	w.api.Close()

	w.device.applied = leaf.Files{}
	again := w.agent(t)
	if err := again.Step(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a step without control plane: %v", err)
	}
	if w.device.applied.FRR != want.FRR {
		t.Error("the last good configuration is not applied")
	}
	if err := again.Offer(golden(t, "machine", 3, 4)); !errors.Is(err, fault.Conflict) {
		t.Errorf("what was in effect before the restart counts as new: %v", err)
	}
	if err := os.WriteFile(filepath.Join(w.cfg.Dir, "configuration.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.New(w.cfg); !errors.Is(err, fault.Invalid) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestRunFollowsTheStream(t *testing.T) {
	w := newWorld(t)
	a := w.agent(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }() // ends with cancel
	for n := uint64(1); n <= 3; n++ {
		w.wanted <- golden(t, "boot", 1, n)
		until(t, "the generation is reported", func() bool { return w.last().GetGeneration().GetN() == n })
	}
	w.mu.Lock()
	if len(w.have) != 3 || w.have[0] != nil || w.have[2].GetN() != 2 {
		t.Errorf("streams were opened with %v", w.have)
	}
	w.mu.Unlock()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCertificate(t *testing.T) {
	w := newWorld(t)
	w.cfg.Boot = &boot.Server{}
	a := w.agent(t)
	offer(t, a, golden(t, "boot", 1, 1))
	step(t, a)
	step(t, a)
	if w.certified != 1 || w.cfg.Boot.Certificate() == nil {
		t.Fatalf("certified %d times, has %v", w.certified, w.cfg.Boot.Certificate())
	}
	if info, err := os.Stat(filepath.Join(w.cfg.Dir, "metal-boot.pem")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}

	w.cfg.Boot = &boot.Server{}
	step(t, w.agent(t))
	if w.certified != 1 || w.cfg.Boot.Certificate() == nil {
		t.Errorf("after a restart certified %d times", w.certified)
	}

	// One hour of the past and half an hour to come: a third is left.
	w.validity = 29 * time.Minute
	if err := os.Remove(filepath.Join(w.cfg.Dir, "metal-boot.pem")); err != nil {
		t.Fatal(err)
	}
	w.cfg.Boot = &boot.Server{}
	b := w.agent(t)
	step(t, b)
	w.validity = time.Hour
	step(t, b)
	if w.certified != 3 {
		t.Errorf("a certificate with a third of its time left was not replaced: certified %d times", w.certified)
	}
}

// until waits for something to come true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

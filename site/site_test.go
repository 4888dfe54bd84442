package site_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/image"
	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/site"
)

const partition = "p1"

// control is a control plane that wants what the test says.
type control struct {
	ingotv1connect.UnimplementedSiteServiceHandler

	mu     sync.Mutex
	wanted *ingotv1.SiteWanted
	moved  chan struct{}
	bmcs   map[string]*ingotv1.BMCReport // newest
	found  []*ingotv1.BMCDiscovered
	away   int // calls of Discovered that fail
	done   map[string][]*ingotv1.SiteServiceDoneRequest
	images map[string]*ingotv1.ImageCached
	medium *ingotv1.Medium
	files  *ingotv1.BootFiles
	// certified are the addresses of each certificate that was asked for.
	certified [][]net.IP
	lose      int // answers to Done that get lost
}

func newControl(t testing.TB) (*control, ingotv1connect.SiteServiceClient) {
	t.Helper()
	c := &control{
		moved: make(chan struct{}), bmcs: map[string]*ingotv1.BMCReport{},
		done: map[string][]*ingotv1.SiteServiceDoneRequest{}, images: map[string]*ingotv1.ImageCached{},
	}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewSiteServiceHandler(c))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return c, ingotv1connect.NewSiteServiceClient(s.Client(), s.URL)
}

// want changes what is wanted.
func (c *control) want(change func(*ingotv1.SiteWanted)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &ingotv1.SiteWanted{Generation: &ingotv1.Generation{Epoch: 1}}
	if c.wanted != nil {
		w = proto.Clone(c.wanted).(*ingotv1.SiteWanted)
	}
	w.Generation.N++
	change(w)
	c.wanted = w
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *control) Wanted(ctx context.Context, _ *connect.Request[ingotv1.SiteServiceWantedRequest], s *connect.ServerStream[ingotv1.SiteServiceWantedResponse]) error {
	for {
		c.mu.Lock()
		w, moved := c.wanted, c.moved
		c.mu.Unlock()
		if err := s.Send(&ingotv1.SiteServiceWantedResponse{Wanted: w}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

func (c *control) Report(_ context.Context, r *connect.Request[ingotv1.SiteServiceReportRequest]) (*connect.Response[ingotv1.SiteServiceReportResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range r.Msg.GetReports() {
		c.bmcs[b.GetId()] = b
	}
	return connect.NewResponse(&ingotv1.SiteServiceReportResponse{}), nil
}

func (c *control) Discovered(_ context.Context, r *connect.Request[ingotv1.SiteServiceDiscoveredRequest]) (*connect.Response[ingotv1.SiteServiceDiscoveredResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away > 0 {
		c.away--
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("away"))
	}
	c.found = append(c.found, r.Msg.GetBmcs()...)
	return connect.NewResponse(&ingotv1.SiteServiceDiscoveredResponse{}), nil
}

func (c *control) Done(_ context.Context, r *connect.Request[ingotv1.SiteServiceDoneRequest]) (*connect.Response[ingotv1.SiteServiceDoneResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lose > 0 {
		c.lose--
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("lost"))
	}
	c.done[r.Msg.GetOperation()] = append(c.done[r.Msg.GetOperation()], r.Msg)
	return connect.NewResponse(&ingotv1.SiteServiceDoneResponse{}), nil
}

func (c *control) Cached(_ context.Context, r *connect.Request[ingotv1.SiteServiceCachedRequest]) (*connect.Response[ingotv1.SiteServiceCachedResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range r.Msg.GetImages() {
		c.images[i.GetImage()] = i
	}
	if r.Msg.GetMedium() != nil {
		c.medium = r.Msg.GetMedium()
	}
	if r.Msg.GetBootFiles() != nil {
		c.files = r.Msg.GetBootFiles()
	}
	return connect.NewResponse(&ingotv1.SiteServiceCachedResponse{}), nil
}

// eventually waits until the condition holds; state says what is the case.
func (c *control) eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		ok := holds()
		c.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Fatalf("not in 30 s: %s\n%s", what, fmt.Sprint(c.bmcs, c.found, c.done, c.medium, c.images))
		}
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// start runs a site until the test ends.
func start(t *testing.T, api ingotv1connect.SiteServiceClient, parts ...site.Part) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	s := site.New(site.Config{Partition: partition, API: api, Log: quiet}, parts...)
	all.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(stop)
	return stop
}

// server is a server without iron behind a real Redfish service.
type server struct {
	*lab.Shell
	bmc  *lab.BMC
	want *ingotv1.BMCWanted
	stop func() // ends the BMC
	// serial is the file of what the server prints on its serial console.
	serial string
	typed  *keys
}

const uuid = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"

func newServer(t *testing.T, id string) server {
	t.Helper()
	return newServerOn(t, id, filepath.Join(t.TempDir(), "serial.log"))
}

// newServerOn is newServer with a file for its serial console, or without one.
func newServerOn(t *testing.T, id, serial string) server {
	t.Helper()
	return newServerWith(t, id, serial, nil)
}

// newServerWith is newServerOn with a firmware that takes certificates.
func newServerWith(t *testing.T, id, serial string, trust lab.Trust) server {
	t.Helper()
	shell, typed := &lab.Shell{}, &keys{}
	b, err := lab.NewBMC(lab.BMCConfig{
		Board: lab.Board{UUID: uuid, Serial: "SN-" + id, Manufacturer: "Ingot", Model: "Lab", BIOS: "2025.02", Firmware: "1.0", MAC: "02:00:00:00:00:0a"},
		Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: t.TempDir(), Serial: serial, Setup: true, Trust: trust,
		Keyboard: typed.dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := b.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	stop := func() { cancel(); all.Wait() }
	t.Cleanup(stop)
	return server{shell, b, &ingotv1.BMCWanted{
		Id: id, Address: l.Addr().String(), User: "admin", Password: "s3cret-word", Ca: string(b.CA()),
	}, stop, serial, typed}
}

// medium is a boot medium that a BMC can fetch.
func medium(t testing.TB) func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "medium") }))
	t.Cleanup(s.Close)
	return func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) {
		return &ingotv1.Medium{Url: s.URL + "/boot.iso"}, nil
	}
}

func newBMCs(t *testing.T, api ingotv1connect.SiteServiceClient, dir string, m func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{})) *site.BMCs {
	t.Helper()
	b, err := site.NewBMCs(site.BMCsConfig{Partition: partition, API: api, Dir: dir, Medium: m, Every: 50 * time.Millisecond, Grace: 100 * time.Millisecond, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A new server: it is found, and nothing is touched; then the medium is wanted
// and an operation boots it.
func TestNewServerBootsTheMedium(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	m := medium(t)
	served, _ := m(ingotv1.BootMedium_BOOT_MEDIUM_UKI)
	start(t, api, newBMCs(t, api, t.TempDir(), m))
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	c.eventually(t, "the machine is found", func() bool { return c.bmcs["b1"].GetMachine() == uuid })
	c.mu.Lock()
	r := c.bmcs["b1"]
	c.mu.Unlock()
	if r.GetStatus().GetVendor() != "Ingot" || r.GetReport().GetBmc().GetPowerState() != "OFF" || r.GetStatus().GetMedium().GetInserted() {
		t.Errorf("reported %v", r)
	}
	if strings.Contains(r.String(), "s3cret-word") {
		t.Error("the password is in the report")
	}

	const op = "0193e0a0-0000-7000-8000-000000000001"
	c.want(func(w *ingotv1.SiteWanted) {
		w.Bmcs[0].Machine, w.Bmcs[0].Enforce, w.Bmcs[0].Medium = uuid, true, true
		w.Bmcs[0].Operation = &ingotv1.Operation{Id: op, Machine: uuid, Action: ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM}
	})
	c.eventually(t, "the operation is done", func() bool { return len(c.done[op]) > 0 })
	c.eventually(t, "the medium is reported", func() bool {
		got := c.bmcs["b1"].GetStatus()
		return got.GetPowerState() == "On" && got.GetMedium().GetUrl() == served.GetUrl() && got.GetMedium().GetOverrideTarget() == "Cd" && got.GetMedium().GetOverrideEnabled() == "Continuous"
	})
	c.mu.Lock()
	d := c.done[op][0]
	c.mu.Unlock()
	if d.GetError() != "" || d.GetPowerOffSeen() == nil {
		t.Errorf("done: %v", d)
	}
	if got := s.Starts(); len(got) != 1 || !strings.HasSuffix(got[0], ".iso") {
		t.Errorf("the server started from %v", got)
	}
}

// Losing the answer to Done, or restarting, must not repeat a power action.
func TestOperationRunsOnce(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	dir := t.TempDir()
	c.lose = 2
	const op = "0193e0a0-0000-7000-8000-000000000002"
	s.want.Operation = &ingotv1.Operation{Id: op, Action: ingotv1.OperationAction_OPERATION_ACTION_CYCLE}
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	stop := start(t, api, newBMCs(t, api, dir, medium(t)))
	c.eventually(t, "the operation is done", func() bool { return len(c.done[op]) > 0 })
	stop()
	c.mu.Lock()
	c.done = map[string][]*ingotv1.SiteServiceDoneRequest{}
	c.mu.Unlock()
	start(t, api, newBMCs(t, api, dir, medium(t)))
	c.eventually(t, "it is reported again", func() bool { return len(c.done[op]) > 0 })
	if got := s.Starts(); len(got) != 1 {
		t.Errorf("the server was started %d times: %v", len(got), got)
	}
}

// An allocated machine is not enforced: what its owner did to its BMC stays.
func TestAllocatedMachineIsLeftAlone(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	if err := s.SetPower(t.Context(), lab.On); err != nil {
		t.Fatal(err)
	}
	s.want.Machine, s.want.Enforce, s.want.Medium = uuid, false, true
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
	c.eventually(t, "it was looked at several times", func() bool { return s.bmc.Requests() > 30 })
	if o := s.Override(); o != (lab.Override{}) || len(s.Starts()) != 1 {
		t.Errorf("override %v, starts %v", o, s.Starts())
	}
	if n := s.bmc.Sessions(); n > 1 {
		t.Errorf("%d sessions are open", n)
	}
}

func TestProblemsAreReported(t *testing.T) {
	none := func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) { return nil, nil }
	for name, x := range map[string]struct {
		change func(*ingotv1.BMCWanted)
		medium func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{})
		want   string
	}{
		"password":  {func(w *ingotv1.BMCWanted) { w.Password = "wr0ng-word" }, none, "password"},
		"no answer": {func(w *ingotv1.BMCWanted) { w.Address = "127.0.0.1:1" }, none, "refused"},
		"swapped":   {func(w *ingotv1.BMCWanted) { w.Machine = "00000000-0000-4000-8000-000000000001" }, none, "is in machine " + uuid},
		"no medium": {func(w *ingotv1.BMCWanted) { w.Enforce, w.Medium = true, true }, none, "has no boot medium yet"},
	} {
		t.Run(name, func(t *testing.T) {
			c, api := newControl(t)
			s := newServer(t, "b1")
			x.change(s.want)
			c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
			start(t, api, newBMCs(t, api, t.TempDir(), x.medium))
			c.eventually(t, "the error is reported", func() bool { return strings.Contains(c.bmcs["b1"].GetStatus().GetLastError(), x.want) })
			c.mu.Lock()
			defer c.mu.Unlock()
			if strings.Contains(fmt.Sprint(c.bmcs), "r0ng-word") || strings.Contains(fmt.Sprint(c.bmcs), "s3cret") {
				t.Errorf("a password is in the report: %v", c.bmcs)
			}
			if len(s.Starts()) != 0 {
				t.Errorf("the server was started: %v", s.Starts())
			}
		})
	}
}

// A BMC whose operator deletes it is not visited any more.
func TestRemovedBMC(t *testing.T) {
	c, api := newControl(t)
	s := newServer(t, "b1")
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = []*ingotv1.BMCWanted{s.want} })
	start(t, api, newBMCs(t, api, t.TempDir(), medium(t)))
	c.eventually(t, "the machine is found", func() bool { return c.bmcs["b1"] != nil })
	c.want(func(w *ingotv1.SiteWanted) { w.Bmcs = nil })
	for deadline, n := time.Now().Add(30*time.Second), -1; s.bmc.Requests() != n; {
		if time.Now().After(deadline) {
			t.Fatal("requests go on")
		}
		n = s.bmc.Requests()
		time.Sleep(250 * time.Millisecond) // five times its interval
	}
}

func TestMedium(t *testing.T) {
	c, api := newControl(t)
	var mu sync.Mutex
	files := map[string]string{"/kernel": "kernel one", "/initrd": "initrd one"}
	served := map[string]int{}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		text, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		etag := fmt.Sprintf("%q", text)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		served[r.URL.Path]++
		fmt.Fprint(w, text)
	}))
	defer origin.Close()
	dir := t.TempDir()
	base, _ := url.Parse("http://media.example/boot/")
	stub := filepath.Join(dir, "stub")
	if err := os.WriteFile(stub, stubProgram(), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := site.NewMedia(site.MediaConfig{Partition: partition, API: api, Dir: filepath.Join(dir, "media"), URL: base, Stub: stub, Client: origin.Client(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w := &ingotv1.SiteWanted{
		KernelUrl: origin.URL + "/kernel", InitrdUrl: origin.URL + "/initrd", CommandLine: "console=ttyS0",
		Fabric: &ingotv1.Fabric{BootAddress: "fd00:b007::1"}, Ca: string(newServer(t, "x").bmc.CA()),
	}
	fetch := func(name string) (int, []byte) {
		rec := httptest.NewRecorder()
		m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, name, nil))
		return rec.Code, rec.Body.Bytes()
	}
	step := func() *ingotv1.Medium {
		t.Helper()
		if _, err := m.Step(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		return c.medium
	}
	one := step()
	if code, iso := fetch(one.GetUrl()); code != http.StatusOK || sum(iso) != one.GetSha256() || uint64(len(iso)) != one.GetSize() ||
		!bytes.Contains(iso, []byte("console=ttyS0 ingot.boot=https://[fd00:b007::1]\x00")) || !bytes.Contains(iso, []byte("kernel one")) {
		t.Errorf("the medium at %s is not what was reported (%d)", one.GetUrl(), code)
	}
	if step() != one || served["/kernel"] != 1 {
		t.Error("an unchanged medium was built or fetched again")
	}
	mu.Lock()
	files["/kernel"] = "kernel two"
	mu.Unlock()
	two := step()
	if two.GetSha256() == one.GetSha256() || served["/initrd"] != 1 {
		t.Errorf("a changed kernel: %v", two)
	}
	if code, _ := fetch(one.GetUrl()); code != http.StatusOK {
		t.Error("the medium before is gone while a BMC may read it")
	}
	mu.Lock()
	files["/initrd"] = "initrd three"
	mu.Unlock()
	step()
	if code, _ := fetch(one.GetUrl()); code != http.StatusNotFound {
		t.Error("old media pile up")
	}
	w.KernelUrl = origin.URL + "/missing"
	if _, err := m.Step(t.Context(), w); err == nil || !strings.Contains(c.medium.GetError(), "404") || c.medium.GetUrl() == "" {
		t.Errorf("a missing kernel: %v, reported %v", err, c.medium)
	}
	for _, bad := range []string{"/../stub", "/stub", "/", "/../../etc/passwd.iso"} {
		if code, _ := fetch("http://media.example" + bad); code == http.StatusOK {
			t.Errorf("%s was served", bad)
		}
	}
}

func TestImages(t *testing.T) {
	c, api := newControl(t)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debian.tar" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "an image")
	}))
	defer origin.Close()
	cache, err := image.OpenCache(t.TempDir(), 1<<20, image.Options{Attempts: 1, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	at, _ := url.Parse("http://[fd00::1]:80/images")
	i := site.NewImages(site.ImagesConfig{Partition: partition, API: api, Cache: cache, Log: quiet, URLs: func() []*url.URL { return []*url.URL{at} }})
	digest := sum([]byte("an image"))
	w := &ingotv1.SiteWanted{Images: []*ingotv1.ImageWanted{
		{Image: "pinned", Url: origin.URL + "/debian.tar", Source: &ingotv1.ImageSource{Sha256: digest}},
		{Image: "unpinned", Url: origin.URL + "/debian.tar"},
		{Image: "wrong", Url: origin.URL + "/debian.tar", Source: &ingotv1.ImageSource{Sha256: sum([]byte("another"))}},
		{Image: "missing", Url: origin.URL + "/nothing.tar", Source: &ingotv1.ImageSource{Sha256: sum([]byte("nothing"))}},
	}}
	if _, err := i.Step(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"pinned": "", "unpinned": "", "wrong": "sha256", "missing": "404"} {
		got := c.images[name]
		if e := got.GetCheck().GetError(); (e == "") != (want == "") || !strings.Contains(e, want) {
			t.Errorf("%s: %q", name, e)
		}
		if good := want == ""; good != (len(got.GetUrls()) == 1) || good && (got.GetCheck().GetSha256() != digest || !strings.HasSuffix(got.GetUrls()[0], "/images/sha256-"+digest)) {
			t.Errorf("%s: %v", name, got)
		}
	}
	c.images = map[string]*ingotv1.ImageCached{}
	if _, err := i.Step(t.Context(), w); err != nil || c.images["pinned"] != nil {
		t.Errorf("an unchanged image was reported again: %v %v", c.images, err)
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

package boot_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/beevik/ntp"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ingot-cloud/ingot/boot"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

const (
	address = "fd00:b007::1"
	other   = "fd00:b007::2"
	source  = "fd00:10:0:101::5"
	uuid    = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
)

// inNamespace runs the test in a network of its own, where it may listen on
// any port and have any address.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("BOOT_IN_NAMESPACE") != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		for _, a := range []string{address, other, source} {
			n := &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(128, 128)}
			err = errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: n, Flags: syscall.IFA_F_NODAD}))
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "BOOT_IN_NAMESPACE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 { // root may without, also where user namespaces are off
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// control is a control plane that remembers what it was asked.
type control struct {
	ingotv1connect.UnimplementedBootServiceHandler
	ingotv1connect.UnimplementedAgentServiceHandler
	begin         *ingotv1.BootServiceBeginRequest
	token         *ingotv1.BootServiceTokenRequest
	script        *ingotv1.BootServiceScriptRequest
	line          string // command line of the script
	bearer        string
	vouched, leaf []string
}

func (c *control) Begin(_ context.Context, r *connect.Request[ingotv1.BootServiceBeginRequest]) (*connect.Response[ingotv1.BootServiceBeginResponse], error) {
	c.begin = r.Msg
	return connect.NewResponse(&ingotv1.BootServiceBeginResponse{BootId: "b1"}), nil
}

func (c *control) Token(_ context.Context, r *connect.Request[ingotv1.BootServiceTokenRequest]) (*connect.Response[ingotv1.BootServiceTokenResponse], error) {
	c.token = r.Msg
	return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("no boot window is open"))
}

func (c *control) Script(_ context.Context, r *connect.Request[ingotv1.BootServiceScriptRequest]) (*connect.Response[ingotv1.BootServiceScriptResponse], error) {
	c.script = r.Msg
	if r.Msg.GetUuid() != uuid {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("rule wiring"))
	}
	return connect.NewResponse(&ingotv1.BootServiceScriptResponse{
		Files:       &ingotv1.BootFiles{KernelUrls: []string{"https://[fd00:10::9]/k"}, InitrdUrls: []string{"https://[fd00:10::9]/i"}},
		CommandLine: c.line,
	}), nil
}

func (c *control) Report(_ context.Context, r *connect.Request[ingotv1.AgentServiceReportRequest]) (*connect.Response[ingotv1.AgentServiceReportResponse], error) {
	c.bearer = r.Header().Get("Authorization")
	c.vouched = r.Header().Values(ingotv1.SourceHeader)
	c.leaf = r.Header().Values(ingotv1.LeafHeader)
	return connect.NewResponse(&ingotv1.AgentServiceReportResponse{}), nil
}

// Wait sends a sign of life at once and then nothing, until the caller goes.
func (c *control) Wait(ctx context.Context, _ *connect.Request[ingotv1.AgentServiceWaitRequest], s *connect.ServerStream[ingotv1.AgentServiceWaitResponse]) error {
	if err := s.Send(&ingotv1.AgentServiceWaitResponse{}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// world is a running metal-boot before a control plane.
type world struct {
	*boot.Server
	control *control
	api     *httptest.Server
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{control: &control{}, roots: x509.NewCertPool()}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewBootServiceHandler(w.control))
	mux.Handle(ingotv1connect.NewAgentServiceHandler(w.control))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the control plane's own") })
	w.api = httptest.NewUnstartedServer(mux)
	w.api.EnableHTTP2 = true
	w.api.StartTLS()
	t.Cleanup(w.api.Close)
	u, err := url.Parse(w.api.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.Server = &boot.Server{
		Switch: "leaf01", Partition: "lab", API: u, Upstream: w.api.Client().Transport,
		Tokens: ingotv1connect.NewBootServiceClient(w.api.Client(), w.api.URL),
		Log:    slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// certify gives metal-boot a certificate that its clients trust.
func (w *world) certify(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address), net.ParseIP(other)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(c)
	w.SetCertificate(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: c})
}

// server is an HTTP client with the address of a server behind a port.
func (w *world) server() *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	return &http.Client{Transport: &http.Transport{
		DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: w.roots}, ForceAttemptHTTP2: true,
	}}
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

func (w *world) lives(at string) bool {
	r, err := w.server().Get(at + "/livez")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b) == "ok\n"
}

func TestServer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	if err := w.Configure(&ingotv1.LeafBoot{Address: address, Domain: "boot.lab"}); err != nil {
		t.Fatal(err)
	}
	plain, secure := "http://["+address+"]", "https://["+address+"]"
	until(t, "metal-boot serves", func() bool { return w.lives(plain) })
	if w.lives(secure) {
		t.Error("HTTPS without a certificate")
	}
	w.certify(t)
	if !w.lives(secure) {
		t.Error("HTTPS does not answer")
	}
	t.Run("names", func(t *testing.T) { testNames(t) })
	t.Run("time", func(t *testing.T) { testTime(t) })
	t.Run("tokens", func(t *testing.T) { testTokens(t, w, plain, secure) })
	t.Run("script", func(t *testing.T) { testScript(t, w, plain, secure) })
	t.Run("proxy", func(t *testing.T) { testProxy(t, w, plain, secure) })
	t.Run("moves", func(t *testing.T) {
		if err := w.Configure(&ingotv1.LeafBoot{Address: other}); err != nil {
			t.Fatal(err)
		}
		until(t, "metal-boot moved", func() bool { return w.lives("https://[" + other + "]") })
		if w.lives(plain) {
			t.Error("the old address still answers")
		}
	})
	t.Run("control plane gone", func(t *testing.T) {
		w.api.Close()
		c := ingotv1connect.NewAgentServiceClient(w.server(), "https://["+other+"]")
		_, err := c.Report(t.Context(), connect.NewRequest(&ingotv1.AgentServiceReportRequest{}))
		if connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("got %v, want code unavailable", err)
		}
	})
}

func testNames(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		q := new(dns.Msg)
		q.SetQuestion("Boot.boot.lab.", dns.TypeAAAA)
		a, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), q, "["+address+"]:53")
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Answer) != 1 || !strings.HasSuffix(a.Answer[0].String(), "\t"+address) {
			t.Errorf("%s: answered %v", network, a)
		}
	}
}

func testTime(t *testing.T) {
	r, err := ntp.Query(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	if r.ClockOffset.Abs() > time.Second {
		t.Errorf("our own clock is off by %v", r.ClockOffset)
	}
}

func testTokens(t *testing.T, w *world, plain, secure string) {
	claim := &ingotv1.BootServiceBeginRequest{Uuid: uuid, Switch: "leaf99", SourceAddress: "fd00:bad::1", Partition: "other"}
	want := &ingotv1.BootServiceBeginRequest{Uuid: uuid, Switch: "leaf01", SourceAddress: source, Partition: "lab"}
	for _, base := range []string{plain, secure} {
		w.control.begin = nil
		c := ingotv1connect.NewBootServiceClient(w.server(), base)
		a, err := c.Begin(t.Context(), connect.NewRequest(claim))
		if err != nil || a.Msg.GetBootId() != "b1" {
			t.Fatalf("%s: %v, %v", base, a, err)
		}
		if d := cmp.Diff(want, w.control.begin, protocmp.Transform()); d != "" {
			t.Errorf("%s: (-want +vouched for)\n%s", base, d)
		}
	}
	_, err := ingotv1connect.NewBootServiceClient(w.server(), plain).Token(t.Context(), connect.NewRequest(&ingotv1.BootServiceTokenRequest{Uuid: uuid}))
	if connect.CodeOf(err) != connect.CodeUnimplemented || w.control.token != nil {
		t.Errorf("a token without TLS: %v", err)
	}
	_, err = ingotv1connect.NewBootServiceClient(w.server(), secure).Token(t.Context(), connect.NewRequest(&ingotv1.BootServiceTokenRequest{Uuid: uuid, BootId: "b1", SourceAddress: "::1"}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.HasSuffix(err.Error(), "no boot window is open") {
		t.Errorf("the control plane's refusal arrives as %v", err)
	}
	vouched := &ingotv1.BootServiceTokenRequest{Uuid: uuid, BootId: "b1", Switch: "leaf01", SourceAddress: source, Partition: "lab"}
	if d := cmp.Diff(vouched, w.control.token, protocmp.Transform()); d != "" {
		t.Errorf("(-want +vouched for)\n%s", d)
	}
}

// testScript is iPXE, which speaks TLS 1.2: it gets its script, as it is at
// each request, and nothing else.
func testScript(t *testing.T, w *world, plain, secure string) {
	old := w.server()
	old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
	get := func(c *http.Client, url string) (int, string) {
		t.Helper()
		r, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	for _, line := range []string{"console=ttyS0", "console=ttyS0 quiet"} {
		w.control.line = line
		status, text := get(old, secure+"/boot.ipxe?uuid="+strings.ToUpper(uuid))
		if status != http.StatusOK || !strings.Contains(text, "imgargs kernel initrd=initrd "+line+" ingot.boot=https://boot.boot.lab\n") {
			t.Errorf("%d\n%s", status, text)
		}
	}
	want := &ingotv1.BootServiceScriptRequest{Uuid: uuid, Switch: "leaf01", SourceAddress: source, Partition: "lab"}
	if d := cmp.Diff(want, w.control.script, protocmp.Transform()); d != "" {
		t.Errorf("(-want +vouched for)\n%s", d)
	}
	if status, text := get(old, secure+"/boot.ipxe?uuid=other"); status != http.StatusForbidden || !strings.Contains(text, "rule wiring") {
		t.Errorf("another machine's script: %d %s", status, text)
	}
	w.control.line = "a || shell"
	if status, text := get(old, secure+"/boot.ipxe?uuid="+uuid); status != http.StatusServiceUnavailable || !strings.Contains(text, `the word "||"`) {
		t.Errorf("a command line that iPXE would run: %d %s", status, text)
	}
	if status, _ := get(old, secure+"/livez"); status != http.StatusForbidden {
		t.Errorf("TLS 1.2 is served more than the script: %d", status)
	}
	if status, _ := get(w.server(), plain+"/boot.ipxe?uuid="+uuid); status != http.StatusNotFound {
		t.Errorf("the script without TLS: %d", status)
	}
}

func testProxy(t *testing.T, w *world, plain, secure string) {
	c := ingotv1connect.NewAgentServiceClient(w.server(), secure)
	r := connect.NewRequest(&ingotv1.AgentServiceReportRequest{Uuid: uuid})
	r.Header().Set("Authorization", "Bearer m1")
	r.Header().Set(ingotv1.SourceHeader, "fd00:bad::1")
	r.Header().Set(ingotv1.LeafHeader, "a leaf's token")
	if _, err := c.Report(t.Context(), r); err != nil || w.control.bearer != "Bearer m1" {
		t.Errorf("passed on with %q: %v", w.control.bearer, err)
	}
	if _, err := c.Report(t.Context(), connect.NewRequest(&ingotv1.AgentServiceReportRequest{})); err != nil || w.control.bearer != "" {
		t.Errorf("passed on with the leaf's identity %q: %v", w.control.bearer, err)
	}
	if len(w.control.vouched) != 1 || w.control.vouched[0] != source || len(w.control.leaf) != 0 {
		t.Errorf("vouched for %q as %q", w.control.vouched, w.control.leaf)
	}
	for name, opt := range map[string]connect.ClientOption{"connect": connect.WithProtoJSON(), "gRPC": connect.WithGRPC()} {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := ingotv1connect.NewAgentServiceClient(w.server(), secure, opt).Wait(ctx, connect.NewRequest(&ingotv1.AgentServiceWaitRequest{}))
		if err != nil || !s.Receive() {
			t.Errorf("%s: a stream's first message does not come while it is open: %v", name, err)
		}
		cancel()
	}
	for _, url := range []string{secure + "/", secure + "/metalstack.api.v2.MachineService/List", secure + "/ingot.v1.AgentService/", plain + boot.Procedures()[0]} {
		a, err := w.server().Post(url, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", url, a.Status)
		}
	}
}

package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"github.com/metal-stack/api/go/client"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotclient "github.com/ingot-cloud/ingot/client"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// TestMain makes the test binary a program under another name: ingotd.
func TestMain(m *testing.M) {
	if os.Getenv("INGOTD_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func ingotd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	check(t, err)
	c := exec.CommandContext(t.Context(), exe, args...)
	c.Env = append(os.Environ(), "INGOTD_TEST_MAIN=1")
	c.Stderr = t.Output()
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A daemon is an ingotd that serves.
type daemon struct {
	*exec.Cmd
	t   *testing.T
	dir string
	url string
	ssh string // where consoles are, and the host's key
}

func start(t *testing.T, dir string, args ...string) *daemon {
	t.Helper()
	d := &daemon{Cmd: ingotd(t, append([]string{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0"}, args...)...), t: t, dir: dir}
	out, err := d.StdoutPipe()
	check(t, err)
	check(t, d.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		if _, url, ok := strings.Cut(lines.Text(), "clients use"); ok {
			d.url = strings.TrimSpace(url)
		}
		if _, at, ok := strings.Cut(lines.Text(), "consoles of machines: "); ok {
			d.ssh = at
		}
		if strings.HasPrefix(lines.Text(), "Next: ") {
			return d
		}
	}
	t.Fatalf("ended before it served: %v", d.Wait())
	return nil
}

func (d *daemon) stop() {
	d.t.Helper()
	check(d.t, d.Process.Signal(syscall.SIGTERM))
	killed := time.AfterFunc(30*time.Second, func() { _ = d.Process.Kill() })
	if err := d.Wait(); err != nil || !killed.Stop() {
		d.t.Fatalf("after SIGTERM: %v", err)
	}
}

func (d *daemon) read(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	check(d.t, err)
	return string(b)
}

func (d *daemon) transport() *http.Transport {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(d.read(caFile)))
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
}

// user asks, with metal-stack's own client, who the token is.
func (d *daemon) user(token string) (string, error) {
	c, err := client.New(&client.DialConfig{BaseURL: d.url, Token: token, Transport: d.transport()})
	check(d.t, err)
	u, err := c.Apiv2().User().Get(d.t.Context(), &apiv2.UserServiceGetRequest{})
	return u.GetUser().GetLogin(), err
}

func TestFromNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d := start(t, dir)
	token := d.read(tokenFile)
	for name, want := range map[string]os.FileMode{tokenFile: 0o600, "keys": 0o600, caFile: 0o644} {
		st, err := os.Stat(filepath.Join(dir, name))
		check(t, err)
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %v", name, st.Mode())
		}
	}
	if user, err := d.user(token); err != nil || user != "ingot" {
		t.Fatalf("first token: %q, %v", user, err)
	}

	second := ingotd(t, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0")
	second.Stderr = nil
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is used by another process") {
		t.Errorf("a second process on the same directory: %v, %s", err, out)
	}

	ca := d.read(caFile)
	d.stop()
	d = start(t, dir)
	if d.read(caFile) != ca {
		t.Error("the certificate authority changed")
	}
	if user, err := d.user(token); err != nil || user != "ingot" {
		t.Fatalf("first token after a restart: %q, %v", user, err)
	}
	d.stop()

	check(t, os.Remove(filepath.Join(dir, tokenFile)))
	d = start(t, dir)
	if _, err := os.Stat(filepath.Join(dir, tokenFile)); err == nil {
		t.Error("a first token was made a second time")
	}
	d.stop()
}

// Open streams do not keep a server from stopping; their clients hear why.
func TestStopWithStreams(t *testing.T) {
	d := start(t, t.TempDir())
	c, err := ingotclient.New(ingotclient.Config{URL: d.url, CAFile: filepath.Join(d.dir, caFile), TokenFile: filepath.Join(d.dir, tokenFile)})
	check(t, err)
	s, err := ingotclient.Of(c, ingotv1connect.NewWatchServiceClient).All(t.Context(), connect.NewRequest(&ingotv1.WatchServiceAllRequest{}))
	check(t, err)
	if !s.Receive() {
		t.Fatal(s.Err())
	}
	d.stop()
	for s.Receive() {
	}
	if connect.CodeOf(s.Err()) != connect.CodeUnavailable {
		t.Errorf("the stream ended with %v", s.Err())
	}
}

func TestWithoutKeys(t *testing.T) {
	dir := t.TempDir()
	start(t, dir).stop()
	check(t, os.Remove(filepath.Join(dir, "keys")))
	c := ingotd(t, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0")
	c.Stderr = nil
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "restore it") {
		t.Errorf("a lost key ring: %v, %s", err, out)
	}
}

func TestProbes(t *testing.T) {
	d := start(t, t.TempDir())
	c := &http.Client{Transport: d.transport()}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/metrics": 401, "/nothing": 404, "/ui/": 200, "/": 404} {
		r, err := c.Get(d.url + path)
		check(t, err)
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}
	d.stop()
}

// The page is a part like others.
func TestWithoutPage(t *testing.T) {
	d := start(t, t.TempDir(), "--parts", "api,loops")
	r, err := (&http.Client{Transport: d.transport()}).Get(d.url + "/ui/")
	check(t, err)
	r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("without the part web: %s", r.Status)
	}
	d.stop()
}

func TestVersion(t *testing.T) {
	out, err := ingotd(t, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "ingotd ") {
		t.Errorf("%s, %v", out, err)
	}
}

// The SSH server for consoles shows the key that was announced, the same after
// a restart, and lets nobody in.
func TestConsoleListen(t *testing.T) {
	dir, first := t.TempDir(), ""
	for range 2 {
		d := start(t, dir, "--console-listen", "127.0.0.1:0")
		var port, fingerprint string
		if _, err := fmt.Sscanf(d.ssh, "ssh -p %s UUID@127.0.0.1 (host key %s", &port, &fingerprint); err != nil {
			t.Fatalf("announced %q: %v", d.ssh, err)
		}
		fingerprint = strings.TrimSuffix(fingerprint, ")")
		if first == "" {
			first = fingerprint
		}
		shown := ""
		_, err := ssh.Dial("tcp", "127.0.0.1:"+port, &ssh.ClientConfig{User: "root", HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = ssh.FingerprintSHA256(key)
			return nil
		}})
		if err == nil || shown != fingerprint || fingerprint != first {
			t.Errorf("shows %s, announced %s, first %s; %v", shown, fingerprint, first, err)
		}
		d.stop()
	}
}

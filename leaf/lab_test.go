//go:build lab

package leaf_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
)

// within returns a context that ends when something has plainly gone wrong.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// program builds a static program of this module.
func program(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
	return out
}

// A guest is a lab guest with a remote shell.
type guest struct {
	*lab.VM
	shell string // URL
}

// eth0 is how the test reaches a guest, and the guest this machine.
const eth0 = `#!/bin/sh
echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6
/bin/ip link set eth0 up
/bin/ip addr add 10.0.2.15/24 dev eth0
`

// start starts a guest with the given ports; rc is run as its network is set
// up. The test ends with a look at its console if it failed.
func start(t *testing.T, name, rc string, tool string, files map[string]lab.File, nics ...lab.NIC) *guest {
	t.Helper()
	ctx := within(t, 5*time.Minute)
	c, err := lab.OpenCache("", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.GuestImage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := freePort(t)
	all := map[string]lab.File{
		"/etc/rc.local": lab.Script(eth0 + rc), "/bin/guest": lab.Program(tool),
		"/etc/service/shell": lab.Script("#!/bin/sh\nexec /bin/guest serve\n"),
	}
	for path, f := range files {
		all[path] = f
	}
	nics = append([]lab.NIC{{MAC: "02:00:00:00:00:ff", Name: "eth0", User: &lab.User{Forward: map[netip.AddrPort]int{at: 9000}}}}, nics...)
	vm, err := lab.NewVM(t.TempDir(), lab.Spec{
		Name: name, Memory: 256, Kernel: image.Kernel, Initrds: []string{image.Initrd}, NICs: nics, Files: all,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(vm.SerialLog())
			t.Logf("console of %s:\n%s", name, b[max(0, len(b)-6000):])
		}
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := vm.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	return &guest{vm, "http://" + at.String()}
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// sh runs a shell script in the guest and says whether it succeeded.
func (g *guest) sh(t *testing.T, script string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.shell, strings.NewReader(script))
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error(), false
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return string(bytes.TrimSpace(b)), err == nil && a.StatusCode == http.StatusOK
}

// must runs a shell script that has to succeed.
func (g *guest) must(t *testing.T, script string) string {
	t.Helper()
	out, ok := g.sh(t, script)
	if !ok {
		t.Errorf("%s: %s: %s", g.Spec().Name, script, out)
	}
	return out
}

// fails runs a shell script that must not succeed.
func (g *guest) fails(t *testing.T, script string) {
	t.Helper()
	out, ok := g.sh(t, script)
	if ok {
		t.Errorf("%s: %s: succeeded: %s", g.Spec().Name, script, out)
	}
}

// eventually repeats a script until it succeeds, and returns its output.
func (g *guest) eventually(t *testing.T, script string) string {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, ok := g.sh(t, script)
		if ok {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: never succeeded: %s: %s", g.Spec().Name, script, out)
		}
	}
}

// TestLabApply makes a real kernel, FRR and nftables be every golden
// configuration after every other: each is checked by their own parsers,
// loaded, and read back without a difference.
func TestLabApply(t *testing.T) {
	goldens, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	files := map[string]lab.File{}
	for _, g := range goldens {
		files["/golden/"+filepath.Base(g)] = lab.File{From: g, Mode: 0o644}
	}
	rc := ""
	for _, name := range []string{"swp1", "swp2", "swp3", "swp4", "swp10", "up1", "up2", "Ethernet0"} {
		rc += "/bin/ip link add " + name + " type dummy\n"
	}
	g := start(t, "leaf01", rc, program(t, "./testdata/guest"), files)
	g.eventually(t, "vtysh -c 'show daemons' | grep bgpd")
	pids := g.must(t, "pidof zebra bgpd")
	g.must(t, "(guest apply /golden; echo apply ended) >/dev/ttyS0 2>&1 &")
	m, err := g.WaitSerial(within(t, 5*time.Minute), 0, regexp.MustCompile(`(?s)moved from.*apply ended`))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.ReplaceAll(m[0], "\r", ""))
	if !strings.Contains(m[0], "applied all: bare boot machine moved service") {
		t.Error("not all golden configurations were applied")
	}
	if again := g.must(t, "pidof zebra bgpd"); again != pids {
		t.Errorf("FRR was restarted: %s, then %s", pids, again)
	}
}

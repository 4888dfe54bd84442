//go:build lab

package lab_test

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
)

// switches starts two leaves whose fabric ports are joined by w.
func switches(t *testing.T, c *lab.Cache, w *lab.Wire, forward netip.AddrPort) []*lab.VM {
	t.Helper()
	ctx := within(t, time.Minute)
	var vms []*lab.VM
	for i, port := range []*lab.Port{w.A(), w.B()} {
		n := i + 1
		nics := []lab.NIC{{MAC: fmt.Sprintf("02:00:00:00:0%d:01", n), Name: "fabric1", Port: port, MTU: 9000}}
		if i == 0 {
			nics = append(nics, lab.NIC{MAC: "02:00:00:00:01:ff", Name: "eth0", User: &lab.User{Forward: map[netip.AddrPort]int{forward: 80}}})
		}
		vm, err := c.NewGuest(ctx, t.TempDir(), lab.GuestSpec{
			Spec:    lab.Spec{Name: fmt.Sprintf("leaf%d", n), NICs: nics},
			Sysctls: []string{"net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.fabric1.accept_ra=0"},
			Prepare: `/bin/ip link set fabric1 up
if [ -e /sys/class/net/eth0 ]; then
	/bin/ip link set eth0 up
	/bin/ip addr add 10.0.2.15/24 dev eth0
	echo up >/root/index.html
	httpd -h /root
fi`,
			FRR: fmt.Sprintf(`frr defaults datacenter
interface lo
 ipv6 address fd00::%d/128
router bgp 6500%d
 bgp router-id 10.0.0.%d
 no bgp ebgp-requires-policy
 neighbor fabric1 interface remote-as external
 address-family ipv6 unicast
  neighbor fabric1 activate
  redistribute connected
`, n, n, n),
			Services: map[string]string{"report": `last=
while :; do
	now=$(/bin/ip -6 route show proto bgp | sed -n 's/^\(fd00::[0-9]*\) .*/\1/p')
	[ "$now" = "$last" ] || echo "routes: $now, mtu $(cat /sys/class/net/fabric1/mtu), up $(cut -d' ' -f1 /proc/uptime)"
	last=$now
	usleep 100000
done`},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := vm.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := vm.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
		vms = append(vms, vm)
	}
	return vms
}

func TestLabGuestsRoute(t *testing.T) {
	c, w := cache(t), lab.NewWire("fabric")
	defer w.Close()
	capture := filepath.Join(t.TempDir(), "fabric.pcap")
	if err := w.Capture(capture); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	forward := freePort(t)
	vms := switches(t, c, w, forward)
	ctx := within(t, 2*time.Minute)

	m, err := vms[0].WaitSerial(ctx, 0, regexp.MustCompile(`routes: fd00::2, mtu 9000, up (\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	ready, err := vms[0].WaitSerial(ctx, 0, regexp.MustCompile(`guest: init at (\S+) s(?s:.*)guest: ready at (\S+) s`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("init at %s s, FRR up at %s s", ready[1], ready[2])
	t.Logf("cold start to a BGP route: %.1f s, in the guest %s s", time.Since(start).Seconds(), m[1])
	if err := w.EndCapture(); err != nil {
		t.Fatal(err)
	}
	frames, err := lab.ReadCapture(capture)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range frames {
		kinds[f.Kind()]++
	}
	t.Logf("on the wire: %v", kinds)
	if kinds["ipv6 tcp 179"] == 0 || kinds["ipv6 icmp 134"] == 0 {
		t.Error("the capture has no BGP or no router advertisements in it")
	}

	resp, err := http.Get("http://" + forward.String() + "/")
	if err != nil {
		t.Fatalf("this machine cannot reach the guest: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the guest's web server says %s", resp.Status)
	}

	// A pulled cable is noticed at once, a cut one by the hold timer (9 s).
	before := size(t, vms[0].SerialLog())
	if err := vms[1].SetLink(0, false); err != nil {
		t.Fatal(err)
	}
	w.Cut()
	if _, err := vms[0].WaitSerial(ctx, before, regexp.MustCompile(`routes: ,`)); err != nil {
		t.Error(err)
	}
	before = size(t, vms[0].SerialLog())
	w.Mend()
	if err := vms[1].SetLink(0, true); err != nil {
		t.Fatal(err)
	}
	if _, err := vms[0].WaitSerial(ctx, before, regexp.MustCompile(`routes: fd00::2,`)); err != nil {
		t.Error(err)
	}
}

// TestLabParsers lets the guests' own programs read a configuration on this
// machine, as the tests of what is rendered for switches do.
func TestLabParsers(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	parts, err := cache(t).Parts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "conf")
	for content, good := range map[string]bool{
		"interface swp1\n no ipv6 nd suppress-ra\n": true,
		"interface swp1\n no such thing\n":          false,
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := parts.Command(ctx, "/usr/bin/vtysh", "-C", "-f", file).CombinedOutput()
		if (err == nil) != good {
			t.Errorf("vtysh of %q: %v\n%s", content, err, out)
		}
	}
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// freePort returns a TCP port of the loopback that was free just now.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

package leaf

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ingot-cloud/ingot/lldp"
)

// inNamespace runs the test in namespaces of its own, where it may make links.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("LEAF_IN_NAMESPACE") != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "LEAF_IN_NAMESPACE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 { // root may without, also where user namespaces are off
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// Two switches on one wire hear each other; a port that comes late is opened,
// one that goes is given up.
func TestNeighborsOnWire(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	wire := func(a, b string) *netlink.Veth {
		w := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b}
		err := netlink.LinkAdd(w)
		for _, name := range []string{a, b} {
			if l, e := netlink.LinkByName(name); e == nil {
				err = errors.Join(err, netlink.LinkSetUp(l))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan struct{}, 100)
	left := &Neighbors{Self: lldp.Frame{ChassisID: "l", SystemName: "left"}, Changed: func() { news <- struct{}{} }}
	right := &Neighbors{Self: lldp.Frame{ChassisID: "r", SystemName: "right"}}
	ended := make(chan error, 2)
	for _, n := range []*Neighbors{left, right} {
		go func() { ended <- n.Run(ctx) }() // ends with cancel
	}
	hears := func(port string) {
		t.Helper()
		for left.On(port, time.Now()).GetSystemName() != "right" {
			select {
			case <-news:
			case <-time.After(20 * time.Second):
				t.Fatalf("nobody is heard on %s", port)
			}
		}
	}
	first := wire("a1", "b1")
	left.Watch([]string{"a1", "missing"})
	right.Watch([]string{"b1"})
	hears("a1")
	if got := left.On("a1", time.Now()).GetPortId(); got != "b1" {
		t.Errorf("behind a1 is port %s", got)
	}
	if err := netlink.LinkDel(first); err != nil {
		t.Fatal(err)
	}
	wire("a2", "b2")
	left.Watch([]string{"a2"})
	right.Watch([]string{"b2"})
	hears("a2")
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestWatch(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- (&Linux{}).Watch(ctx, func() { seen <- struct{}{} }) }() // ends with cancel
	wire := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	// The subscription may come after the first change, so change until seen.
	for noticed := false; !noticed; {
		if err := netlink.LinkAdd(wire); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(wire); err != nil {
			t.Fatal(err)
		}
		select {
		case <-seen:
			noticed = true
		case <-time.After(300 * time.Millisecond):
		case err := <-ended:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

package lldp_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ingot-cloud/ingot/lldp"
	"github.com/vishvananda/netlink"
)

// The test runs itself in namespaces of its own, where it may make a wire.
func TestConn(t *testing.T) {
	if os.Getenv("LLDP_IN_NAMESPACE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestConn$", "-test.v")
		cmd.Env = append(os.Environ(), "LLDP_IN_NAMESPACE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 { // root may without, also where user namespaces are off
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	wire := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	if err := netlink.LinkAdd(wire); err != nil {
		t.Fatal(err)
	}
	var conns []*lldp.Conn
	for _, name := range []string{"a", "b"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		iface, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := lldp.Open(*iface)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sent := lldp.Frame{ChassisID: "c", PortID: "a", SystemName: "m1", TTL: 10 * time.Second}
	sending, heard := context.WithCancel(ctx)
	said := make(chan error)
	go func() { // a port that has just come up may lose frames, so say it until it is heard
		var err error
		for tick := time.Tick(20 * time.Millisecond); err == nil && sending.Err() == nil; <-tick {
			err = conns[0].Send(sent)
		}
		said <- err
	}()
	got, err := conns[1].Receive(ctx)
	heard()
	if err = errors.Join(err, <-said); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sent, got); d != "" {
		t.Errorf("(-sent +received)\n%s", d)
	}

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := conns[0].Receive(ended); !errors.Is(err, context.Canceled) { // own frames are not received
		t.Errorf("after the context ended: %v", err)
	}
	back := lldp.Frame{ChassisID: "d", PortID: "b", TTL: 10 * time.Second}
	for range 50 { // a context that ends while another call waits, or as one returns, is of no concern to the next
		ended, end := context.WithCancel(t.Context())
		go end()
		if _, err := conns[0].Receive(ended); !errors.Is(err, context.Canceled) {
			t.Fatalf("while nobody says anything: %v", err)
		}
		if err := conns[1].Send(back); err != nil {
			t.Fatal(err)
		}
		if got, err = conns[0].Receive(ctx); err != nil {
			t.Fatalf("after another context ended: %v", err)
		}
	}
	if d := cmp.Diff(back, got); d != "" {
		t.Errorf("(-sent +received)\n%s", d)
	}
}

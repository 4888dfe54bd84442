package leaf

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The test runs itself in namespaces of its own, where it may make links.
func TestWatch(t *testing.T) {
	if os.Getenv("LEAF_IN_NAMESPACE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestWatch$", "-test.v")
		cmd.Env = append(os.Environ(), "LEAF_IN_NAMESPACE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestWatch") {
			t.Fatalf("%v\n%s", err, out)
		}
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

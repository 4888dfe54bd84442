//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
)

// checkReach logs in to both servers: from either leaf, also when that one's
// own wire to the server is dead and the way leads through the other leaf, and
// when the other leaf is off. Nothing leads from one project to the other.
func checkReach(ctx context.Context, t *testing.T, d *lab.DataCenter) {
	m1 := hello(ctx, t, d, 1, d.Entrance.Leaves...)
	hello(ctx, t, d, 2, d.Entrance.Leaves...)
	if out, err := d.SSH(ctx, "m2", "nc -w 3 "+m1+" 22 </dev/null"); err == nil {
		t.Errorf("a machine of another project reaches m1: %s", out)
	}
	for i, leaf := range d.Entrance.Leaves {
		other := d.Entrance.Leaves[1-i]
		hello(ctx, t, d, 1, leaf)
		wire := d.Wires["m1-"+leaf.Name]
		wire.Cut()
		hello(ctx, t, d, 1, leaf) // by a route of type 5 from the other leaf
		hello(ctx, t, d, 1, other)
		wire.Mend()
	}
	if err := d.Leaves[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	hello(ctx, t, d, 1, d.Entrance.Leaves...)
}

// hello logs in to a server through one of the leaves and returns the address
// it was reached on. BGP may need its hold time to find another way.
func hello(ctx context.Context, t *testing.T, d *lab.DataCenter, n int, through ...lab.Jump) string {
	t.Helper()
	e := *d.Entrance
	e.Leaves = through
	deadline := time.Now().Add(60 * time.Second)
	for {
		cmd, err := e.SSH(ctx, "m"+string(rune('0'+n)), "hostname; echo $SSH_CONNECTION")
		var out []byte
		if err == nil {
			out, err = cmd.CombinedOutput()
		}
		f := strings.Fields(string(out))
		if err == nil && len(f) == 5 && f[0] == "m"+string(rune('0'+n)) {
			return f[3]
		}
		if time.Now().After(deadline) {
			t.Fatalf("server %d is not reached through %v: %v\n%s", n, through, err, out)
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// metalBoot is the address of the lab's metal-boot.
var metalBoot = netip.MustParseAddr("fd00:b007::1")

// checkIsolation sends frames as server 1 would if it ran somebody's program:
// to metal-boot, to the other server through both leaves, and with an address
// that is not its own.
func checkIsolation(t *testing.T, d *lab.DataCenter, dir string) {
	own := map[string]netip.Addr{} // by wire
	for _, name := range []string{"m1-leaf1", "m2-leaf1", "m2-leaf2"} {
		own[name] = bootAddress(t, filepath.Join(dir, name+".pcap"))
	}
	from := d.Wires["m1-leaf1"].A()
	syn := func(src, dst netip.Addr, source, port uint16) { from.Inject(synFrame(src, dst, source, port)) }
	const allowed, closed, spoofed, sameLeaf, otherLeaf = 40001, 40002, 40003, 40004, 40005
	syn(own["m1-leaf1"], metalBoot, closed, 22)
	syn(own["m2-leaf1"], metalBoot, spoofed, 443)
	syn(own["m1-leaf1"], own["m2-leaf1"], sameLeaf, 443)
	syn(own["m1-leaf1"], own["m2-leaf2"], otherLeaf, 443)
	// The one that is answered comes last: when its answer is there, those of
	// the others would be too.
	deadline := time.Now().Add(20 * time.Second)
	for !answered(t, filepath.Join(dir, "m1-leaf1.pcap"), allowed) {
		if time.Now().After(deadline) {
			t.Fatal("metal-boot does not answer on port 443: the test shows nothing")
		}
		syn(own["m1-leaf1"], metalBoot, allowed, 443)
		time.Sleep(200 * time.Millisecond)
	}
	for what, port := range map[string]uint16{
		"metal-boot on port 22": closed, "metal-boot, for a foreign source": spoofed, "a server on the same leaf": sameLeaf, "a server on the other leaf": otherLeaf,
	} {
		for _, wire := range []string{"m1-leaf1", "m1-leaf2", "m2-leaf1", "m2-leaf2"} {
			for _, f := range frames(t, filepath.Join(dir, wire+".pcap")) {
				s, d, ok := tcpPorts(f)
				if ok && (d == port || s == port && wire != "m1-leaf1") {
					t.Errorf("%s answers or is reached: %s on wire %s", what, f.Kind(), wire)
				}
			}
		}
	}
}

// answered reports whether a TCP segment to a port came through a wire.
func answered(t *testing.T, capture string, port uint16) bool {
	for _, f := range frames(t, capture) {
		if _, d, ok := tcpPorts(f); ok && d == port {
			return true
		}
	}
	return false
}

func frames(t *testing.T, capture string) []lab.Frame {
	t.Helper()
	f, err := lab.ReadCapture(capture)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// tcpPorts returns source and destination port of a TCP segment in IPv6.
func tcpPorts(f lab.Frame) (source, destination uint16, ok bool) {
	b := f.Data
	if len(b) < 58 || b[12] != 0x86 || b[13] != 0xdd || b[20] != 6 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(b[54:]), binary.BigEndian.Uint16(b[56:]), true
}

// bootAddress returns the address that a server gave itself on a wire: it asks
// whether somebody else has it (RFC 4862, 5.4).
func bootAddress(t *testing.T, capture string) netip.Addr {
	t.Helper()
	for _, f := range frames(t, capture) {
		if f.Kind() == "ipv6 icmp 135" && f.Data[6] == 0x52 && len(f.Data) >= 78 {
			if a := netip.AddrFrom16([16]byte(f.Data[62:78])); a.IsPrivate() {
				return a
			}
		}
	}
	t.Fatalf("%s: shows no address of the server", capture)
	return netip.Addr{}
}

// synFrame is a TCP segment that opens a connection (RFC 9293), from the first
// server to its port of leaf1.
func synFrame(src, dst netip.Addr, source, port uint16) []byte {
	leaf, server := net.HardwareAddr{0x02, 0, 0, 1, 0, 1}, net.HardwareAddr{0x52, 0x54, 0, 0, 1, 1}
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, source)
	binary.BigEndian.PutUint16(tcp[2:], port)
	binary.BigEndian.PutUint32(tcp[4:], 1)
	tcp[12], tcp[13] = 5<<4, 2
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, 0, byte(len(tcp)), 0, 0, 0, 6)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	ip := append([]byte{0x60, 0, 0, 0, 0, byte(len(tcp)), 6, 64}, append(src.AsSlice(), dst.AsSlice()...)...)
	return bytes.Join([][]byte{leaf, server, {0x86, 0xdd}, ip, tcp}, nil)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

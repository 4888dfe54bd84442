package leaf

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

// unresolvedFor is how long a tunnel's next hop may be without an address
// before its VNI is renewed. FRR resolves it in the moment it installs the
// route.
const unresolvedFor = 2 * time.Second

// renew repairs tunnels of which FRR has lost the far end. When a VRF's
// devices come back after they were gone, FRR 8.4 may keep the routes to other
// leaves and forget the addresses these packets are for; the kernel then asks
// for them in vain. That shows only in the kernel. Taking the VNI away and
// giving it back makes FRR learn them anew.
func (l *Linux) renew(ctx context.Context, f Files, have *netState, now time.Time) error {
	if l.unresolved == nil {
		l.unresolved = map[uint32]time.Time{}
	}
	for _, v := range f.Kernel.VRFs {
		bridge, ok := have.links[v.Bridge()]
		if !ok {
			continue
		}
		var all []netlink.Neigh
		for _, family := range families {
			n, err := netlink.NeighList(bridge.Attrs().Index, family)
			if err != nil {
				return fault.Wrap(fault.Internal, "kernel", "cannot be read", err)
			}
			all = append(all, n...)
		}
		if err := l.forward(have, v, all); err != nil {
			return err
		}
		since, was := l.unresolved[v.VNI]
		switch {
		case !unresolved(all):
			delete(l.unresolved, v.VNI)
		case !was:
			l.unresolved[v.VNI] = now
		case now.Sub(since) >= unresolvedFor:
			delete(l.unresolved, v.VNI)
			if l.Log != nil {
				l.Log.Warn("FRR does not know the far end of a tunnel, its VNI is renewed", "vrf", v.Name, "vni", v.VNI)
			}
			if err := l.configure(ctx, fmt.Sprintf("vrf %s\n no vni %d\nexit-vrf\n", v.Name, v.VNI)); err != nil {
				return err
			}
			if err := l.route(ctx, f, func(d Delta) string { return d.Announce }); err != nil {
				return err
			}
		}
	}
	return nil
}

// forward gives a tunnel back the far ends that FRR took from it too early.
// Routes of both address families lead to the same address of a far end; FRR
// 8.4 removes it with the last route of one family, although routes of the
// other still need it.
func (l *Linux) forward(have *netState, v KernelVRF, neighbours []netlink.Neigh) error {
	tunnel, ok := have.links[v.Tunnel()]
	if !ok {
		return nil
	}
	known, err := netlink.NeighList(tunnel.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return fault.Wrap(fault.Internal, "kernel", "cannot be read", err)
	}
	for _, n := range lost(neighbours, known) {
		n.LinkIndex = tunnel.Attrs().Index
		if l.Log != nil {
			l.Log.Warn("FRR has forgotten the far end of a tunnel that it routes to", "vrf", v.Name, "leaf", n.IP.String())
		}
		if err := netlink.NeighSet(&n); err != nil {
			return fault.Wrap(fault.Internal, "tunnel "+v.Tunnel(), "does not take the far end "+n.IP.String(), err)
		}
	}
	return nil
}

// lost returns the entries that a tunnel lacks to reach the next hops on its
// bridge that FRR resolved.
func lost(neighbours, known []netlink.Neigh) []netlink.Neigh {
	var missing []netlink.Neigh
	has := map[string]bool{}
	key := func(n netlink.Neigh) string { return n.HardwareAddr.String() + " " + n.IP.String() }
	for _, n := range known {
		has[key(n)] = true
	}
	for _, n := range neighbours {
		ip := n.IP.To4() // for IPv6 routes it is the same one, mapped
		if n.Flags&netlink.NTF_EXT_LEARNED == 0 || len(n.HardwareAddr) == 0 || ip == nil {
			continue
		}
		e := netlink.Neigh{
			Family: unix.AF_BRIDGE, State: netlink.NUD_REACHABLE | netlink.NUD_NOARP, Flags: netlink.NTF_SELF | netlink.NTF_EXT_LEARNED, IP: ip, HardwareAddr: n.HardwareAddr,
		}
		if !has[key(e)] {
			has[key(e)] = true
			missing = append(missing, e)
		}
	}
	return missing
}

// unresolved reports whether the kernel looks for a neighbour on a tunnel's
// bridge. All that are there are told by FRR, and none answers when asked.
func unresolved(all []netlink.Neigh) bool {
	for _, n := range all {
		if n.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) != 0 {
			return true
		}
	}
	return false
}

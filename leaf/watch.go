package leaf

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

// settleFor is how long a burst of changes may last before they are looked at.
const settleFor = 100 * time.Millisecond

// Watch calls changed soon after links changed, until ctx ends: a port got or
// lost carrier, somebody moved it, or a tunnel lost a far end.
func (l *Linux) Watch(ctx context.Context, changed func()) error {
	updates, forgotten := make(chan netlink.LinkUpdate, 64), make(chan netlink.NeighUpdate, 64)
	failed := make(chan error, 2)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: fail})
	if err == nil {
		err = netlink.NeighSubscribeWithOptions(forgotten, ctx.Done(), netlink.NeighSubscribeOptions{ErrorCallback: fail})
	}
	if err != nil {
		return fault.Wrap(fault.Internal, "kernel", "does not tell about links", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() == nil {
				return fault.Wrap(fault.Internal, "kernel", "no longer tells about links", err)
			}
		case _, ok := <-updates:
			if !ok {
				updates = nil // the reason is in failed
				continue
			}
		case n, ok := <-forgotten:
			if !ok {
				forgotten = nil
				continue
			}
			if n.Type != unix.RTM_DELNEIGH || n.Family != unix.AF_BRIDGE || n.Flags&netlink.NTF_SELF == 0 {
				continue
			}
		}
		burst := time.After(settleFor)
		for quiet := false; !quiet; {
			select {
			case _, ok := <-updates:
				if !ok {
					updates, quiet = nil, true
				}
			case _, ok := <-forgotten:
				if !ok {
					forgotten, quiet = nil, true
				}
			case <-burst:
				quiet = true
			}
		}
		changed()
	}
}

package leaf

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ingot-cloud/ingot/fault"
)

// settleFor is how long a burst of changes may last before they are looked at.
const settleFor = 100 * time.Millisecond

// Watch calls changed soon after links changed, until ctx ends: a port got or
// lost carrier, or somebody moved it.
func (l *Linux) Watch(ctx context.Context, changed func()) error {
	updates := make(chan netlink.LinkUpdate, 64)
	failed := make(chan error, 1)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
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
		}
		burst := time.After(settleFor)
		for quiet := false; !quiet; {
			select {
			case _, ok := <-updates:
				if !ok {
					updates, quiet = nil, true
				}
			case <-burst:
				quiet = true
			}
		}
		changed()
	}
}

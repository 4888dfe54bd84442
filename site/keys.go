package site

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A line is an open console.
type line struct {
	io.ReadWriteCloser
	shared bool // behind it is the BMC's own command line
}

// typeTimeout is how long a BMC may take to accept keys.
const typeTimeout = 10 * time.Second

// hear types what the control plane has for a console, until nobody writes
// there or ctx ends. What is typed is nowhere logged.
func (c *Consoles) hear(ctx context.Context, r *ingotv1.ConsoleReading) {
	stayTuned(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[ingotv1.ConsoleServiceKeysResponse], error) {
		return c.cfg.API.Keys(ctx, connect.NewRequest(&ingotv1.ConsoleServiceKeysRequest{Partition: c.cfg.Partition, Uuid: r.GetUuid(), Reading: r.GetId()}))
	}, func(m *ingotv1.ConsoleServiceKeysResponse) {
		if m.GetNumber() == 0 { // a sign of life
			return
		}
		done := &ingotv1.ConsoleServiceTypedRequest{Partition: c.cfg.Partition, Uuid: r.GetUuid(), Reading: r.GetId(), Number: m.GetNumber()}
		var err error
		if done.Outcome, err = c.typeOn(r.GetUuid(), m); err != nil {
			done.Error = err.Error()
		}
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		if _, err := c.cfg.API.Typed(ctx, connect.NewRequest(done)); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("what became of keys cannot be told", "machine", r.GetUuid(), "error", err)
		}
	}, func(err error) {
		if connect.CodeOf(err) != connect.CodeNotFound { // nobody writes any more
			c.cfg.Log.Warn("the control plane does not say what is typed", "machine", r.GetUuid(), "error", err)
		}
	})
}

// typeOn types keys on a machine's console if it is open and the machine is
// whose it must be.
func (c *Consoles) typeOn(machine string, m *ingotv1.ConsoleServiceKeysResponse) (ingotv1.ConsoleKeys, error) {
	object := "machine " + machine
	c.mu.Lock()
	s := c.shown[machine]
	c.mu.Unlock()
	if s == nil {
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED, fault.New(fault.Precondition, object, "has no BMC that the management server knows", "")
	}
	s.mu.Lock()
	l, owner, problem := s.line, s.allocation, s.err
	s.mu.Unlock()
	switch {
	case l == nil:
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED, fault.New(fault.Precondition, object, "its console is not open: "+problem, "")
	case m.Allocation != nil && m.GetAllocation() != owner:
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_NOT_OWNED, nil
	case m.Allocation != nil && l.shared:
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_SHARED, nil
	}
	// A BMC that does not take them is connected to anew.
	var stuck atomic.Bool
	t := time.AfterFunc(typeTimeout, func() {
		stuck.Store(true)
		_ = l.Close()
	})
	defer t.Stop()
	_, err := l.Write(m.GetKeys())
	switch {
	case stuck.Load():
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_STUCK, fault.Newf(fault.Unavailable, object, "its BMC has not taken what was typed for %s", typeTimeout)
	case err != nil:
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_STUCK, fault.Wrap(fault.Unavailable, object, "its BMC does not take what is typed", err)
	}
	return ingotv1.ConsoleKeys_CONSOLE_KEYS_TYPED, nil
}

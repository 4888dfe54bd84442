package client

import (
	"context"
	"errors"
	"math"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
)

// Follower keeps a stream open. The zero value of a field means what its
// comment says.
type Follower struct {
	Retry Retry // For is of no concern: a stream is followed as long as ctx lives
	// Silence is how long the server may say nothing until the stream is opened
	// anew; for ever. Connections that died are noticed without it.
	Silence time.Duration
	// Always goes on after every answer, also one that stays the same however
	// often one asks: what works unattended waits until people have mended it.
	Always bool
	// Lost, if set, hears why a stream broke before it is opened again.
	Lost func(error)
}

// Follow opens a stream and hands every message to handle, and opens it again
// whenever it breaks, until ctx ends, handle returns an error, or the server
// answers that trying again is of no use, unless f is to go on Always: then it
// returns that error. open is
// called for each attempt and so can say where to go on.
func Follow[M any](ctx context.Context, f Follower, open func(context.Context) (*connect.ServerStreamForClient[M], error), handle func(*M) error) error {
	f.Retry = f.Retry.withDefaults()
	f.Retry.For = math.MaxInt64
	for b := newBackoff(f.Retry); ; {
		got, err := f.once(ctx, func(ctx context.Context, alive func()) (bool, error) { return receive(ctx, open, handle, alive) })
		var fatal *handleError
		switch {
		case errors.As(err, &fatal):
			return fatal.error
		case ctx.Err() != nil:
			return ctx.Err()
		case final[connect.CodeOf(err)] && !f.Always:
			return err
		}
		if f.Lost != nil {
			f.Lost(err)
		}
		if got {
			b = newBackoff(f.Retry)
		}
		if !b.wait(ctx) {
			return ctx.Err()
		}
	}
}

// final are the answers that stay the same however often one asks.
var final = map[connect.Code]bool{
	connect.CodeInvalidArgument:    true,
	connect.CodeNotFound:           true,
	connect.CodeOutOfRange:         true,
	connect.CodePermissionDenied:   true,
	connect.CodeUnauthenticated:    true,
	connect.CodeUnimplemented:      true,
	connect.CodeFailedPrecondition: true,
}

// handleError is an error of the caller's own.
type handleError struct{ error }

// once runs one stream, which it ends if nobody calls alive for too long.
func (f Follower) once(ctx context.Context, stream func(ctx context.Context, alive func()) (bool, error)) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := func() {}
	if f.Silence > 0 {
		watchdog := time.AfterFunc(f.Silence, func() {
			cancel(fault.New(fault.Unavailable, "stream", "the server has fallen silent", ""))
		})
		defer watchdog.Stop()
		alive = func() { watchdog.Reset(f.Silence) }
	}
	got, err := stream(ctx, alive)
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, fault.Unavailable) {
		err = cause
	}
	return got, err
}

// receive opens a stream and hands on its messages until it ends, and reports
// whether there was one.
func receive[M any](ctx context.Context, open func(context.Context) (*connect.ServerStreamForClient[M], error), handle func(*M) error, alive func()) (got bool, err error) {
	s, err := open(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = s.Close() }() // Err has said what there is to say
	for s.Receive() {
		alive()
		got = true
		if err := handle(s.Msg()); err != nil {
			return got, &handleError{err}
		}
	}
	if s.Err() != nil {
		return got, s.Err()
	}
	return got, fault.New(fault.Unavailable, "stream", "the server has ended it", "")
}

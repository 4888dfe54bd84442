package client

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"
)

type idempotentKey struct{}

// Idempotent marks the calls of a context as harmless when repeated, so that
// they are also repeated when it is not known whether the server has acted.
// Calls named Get and List always are.
func Idempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}

// interceptor sends the token and repeats calls.
type interceptor struct{ c *Client }

// WrapUnary implements connect.Interceptor.
func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		b := newBackoff(i.c.retry)
		for {
			token, err := i.c.token.get()
			if err != nil {
				return nil, err
			}
			if token != "" {
				req.Header().Set("Authorization", "Bearer "+token)
			}
			resp, err := next(ctx, req)
			if err == nil || !again(ctx, req.Spec(), err) || !b.wait(ctx) {
				return resp, err
			}
		}
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		// Without a token the server says what is missing better than we could.
		if token, err := i.c.token.get(); err == nil && token != "" {
			conn.RequestHeader().Set("Authorization", "Bearer "+token)
		}
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// again reports whether a failed call may be repeated: the server says so, or
// it was never reached, or the connection broke and nothing is lost if the
// server did act.
func again(ctx context.Context, spec connect.Spec, err error) bool {
	var (
		untrusted *tls.CertificateVerificationError
		op        *net.OpError
	)
	switch {
	case ctx.Err() != nil || errors.As(err, &untrusted):
		return false
	case connect.IsWireError(err):
		return connect.CodeOf(err) == connect.CodeUnavailable
	case errors.As(err, &op) && op.Op == "dial":
		return true
	}
	return broken[connect.CodeOf(err)] && repeatable(ctx, spec)
}

// broken are the codes that a connection which broke shows as.
var broken = map[connect.Code]bool{connect.CodeUnavailable: true, connect.CodeInternal: true, connect.CodeUnknown: true}

func repeatable(ctx context.Context, spec connect.Spec) bool {
	method := spec.Procedure[strings.LastIndexByte(spec.Procedure, '/')+1:]
	return method == "Get" || method == "List" || spec.IdempotencyLevel != connect.IdempotencyUnknown || ctx.Value(idempotentKey{}) != nil
}

// A backoff is the waits between attempts.
type backoff struct {
	Retry
	end  time.Time
	next time.Duration
}

func newBackoff(r Retry) *backoff { return &backoff{Retry: r, end: time.Now().Add(r.For), next: r.Min} }

// wait sleeps for the next wait and reports whether to go on.
func (b *backoff) wait(ctx context.Context) bool {
	d := b.next/2 + rand.N(b.next/2+1)
	if time.Now().Add(d).After(b.end) {
		return false
	}
	b.next = min(2*b.next, b.Max)
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package api

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
)

// RevisionHeader is the response header with the revision of the store that an
// answer shows. Watching after it misses nothing.
const RevisionHeader = "Ingot-Revision"

// admit is the first to see a call, before its message is read: it finds out
// who calls, and sends away who cannot call the method whatever the message
// says.
func (s *Server) admit(ctx context.Context, spec connect.Spec, peer connect.Peer, header http.Header) (context.Context, error) {
	c := &call{method: access.MethodOf(spec.Procedure), start: time.Now(), peer: peer.Addr}
	err := s.db.Fresh()
	if err == nil {
		c.snap = s.db.Snapshot()
		c.rev = c.snap.Rev()
		c.caller, err = s.identify(c.snap, header)
	}
	if err == nil && c.caller.Token.GetBootId() != "" {
		c.via, err = s.vouched(c.snap, c.caller.Token, header)
	}
	if err == nil && c.caller.Token == nil {
		err = access.Authorize(c.snap, c.caller, c.method, nil)
	}
	if err != nil {
		return nil, asError(s.finish(ctx, c, false, err))
	}
	return context.WithValue(ctx, callKey{}, c), nil
}

// interceptor is around every call: it authorizes, validates, recovers from
// panics, measures, logs and translates errors.
type interceptor struct{ *Server }

// WrapUnary implements connect.Interceptor.
func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (resp connect.AnyResponse, err error) {
		c := callOf(ctx)
		defer func() {
			err = i.recovered(ctx, recover(), err)
			err = asError(i.finish(ctx, c, false, err))
		}()
		if err := i.check(c, req.Any()); err != nil {
			return nil, err
		}
		if resp, err = next(ctx, req); err != nil {
			return nil, err
		}
		resp.Header().Set(RevisionHeader, strconv.FormatInt(c.rev, 10))
		return resp, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		c := callOf(ctx)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		st := &stream{call: c, end: cancel}
		i.streams.add(st)
		i.metrics.streams.WithLabelValues(c.method.Name).Inc()
		defer func() {
			i.streams.remove(st)
			i.metrics.streams.WithLabelValues(c.method.Name).Dec()
			err = i.recovered(ctx, recover(), err)
			if cause := context.Cause(ctx); fault.KindOf(cause) != fault.Internal {
				err = cause // why the handler had to stop
			}
			err = asError(i.finish(ctx, c, true, err))
		}()
		conn.ResponseHeader().Set(RevisionHeader, strconv.FormatInt(c.rev, 10))
		return next(ctx, &checkedConn{conn, i, st})
	}
}

// checkedConn hands on the messages that the caller may send.
type checkedConn struct {
	connect.StreamingHandlerConn
	i  *interceptor
	st *stream
}

// Receive implements connect.StreamingHandlerConn.
func (c *checkedConn) Receive(msg any) error {
	if err := c.StreamingHandlerConn.Receive(msg); err != nil {
		return err
	}
	c.st.asked(msg.(proto.Message))
	return c.i.check(c.st.call, msg)
}

// check authorizes a message, and then validates it.
func (i *interceptor) check(c *call, msg any) error {
	m := msg.(proto.Message)
	if err := access.Authorize(c.snap, c.caller, c.method, m.ProtoReflect()); err != nil {
		return err
	}
	return i.validator.Validate(m)
}

// recovered returns err, or an error for a panic. The panic ends the call and
// nothing else.
func (i *interceptor) recovered(ctx context.Context, p any, err error) error {
	if p == nil {
		return err
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel, compared as net/http does
		panic(p)
	}
	i.metrics.panics.Inc()
	i.log.ErrorContext(ctx, "api: panic", "method", callOf(ctx).method.Name, "panic", p, "stack", string(debug.Stack()))
	return fmt.Errorf("panic: %v", p)
}

// finish translates the error of a call that ended, counts and logs it. Bodies
// and tokens are never logged.
func (s *Server) finish(ctx context.Context, c *call, stream bool, err error) *connect.Error {
	var out *connect.Error
	if err != nil {
		out = wire(err)
	}
	took := time.Since(c.start)
	s.metrics.ended(c, took, stream, out)
	attrs := []any{"method", c.method.Name, "user", c.caller.User(), "token", c.caller.Token.GetToken().GetUuid(), "peer", c.peer, "took", took}
	switch {
	case out == nil:
		s.log.DebugContext(ctx, "api: call", attrs...)
	case out.Code() == connect.CodeInternal || out.Code() == connect.CodeUnknown:
		s.log.ErrorContext(ctx, "api: call", append(attrs, "code", out.Code().String(), "error", err)...)
	default:
		s.log.InfoContext(ctx, "api: call", append(attrs, "code", out.Code().String(), "error", err)...)
	}
	return out
}

// asError keeps a nil *connect.Error from becoming an error that is not nil.
func asError(err *connect.Error) error {
	if err == nil {
		return nil
	}
	return err
}

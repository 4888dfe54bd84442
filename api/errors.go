package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"buf.build/go/protovalidate"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
)

// codes are the status codes of the kinds of fault.
var codes = map[fault.Kind]connect.Code{
	fault.Internal:        connect.CodeInternal,
	fault.Invalid:         connect.CodeInvalidArgument,
	fault.NotFound:        connect.CodeNotFound,
	fault.Exists:          connect.CodeAlreadyExists,
	fault.Conflict:        connect.CodeAborted,
	fault.Precondition:    connect.CodeFailedPrecondition,
	fault.Exhausted:       connect.CodeResourceExhausted,
	fault.Denied:          connect.CodePermissionDenied,
	fault.Unauthenticated: connect.CodeUnauthenticated,
	fault.Unavailable:     connect.CodeUnavailable,
	fault.Unimplemented:   connect.CodeUnimplemented,
}

// errStopping ends streams when the server stops. Clients come back.
var errStopping = fault.New(fault.Unavailable, "", "the server is stopping", "connect again")

// wire returns an error as clients see it. It is the only place where status
// codes are assigned. What went wrong inside stays inside; it is in the log.
func wire(err error) *connect.Error {
	var (
		ready *connect.Error
		bad   *protovalidate.ValidationError
	)
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.As(err, &bad):
		out := connect.NewError(connect.CodeInvalidArgument, bad)
		if detail, err := connect.NewErrorDetail(bad.ToProto()); err == nil {
			out.AddDetail(detail)
		}
		return out
	case errors.Is(err, store.ErrUnknown):
		return connect.NewError(connect.CodeUnknown, errors.New("the outcome is not known; look whether the change has happened before trying again"))
	}
	switch kind := fault.KindOf(err); {
	case kind != fault.Internal:
		return connect.NewError(codes[kind], err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
	}
	return connect.NewError(connect.CodeInternal, errors.New("internal error; the server's log says more"))
}

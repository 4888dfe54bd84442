package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
)

// Exit codes of ingot. docs/cli.md lists them too.
const (
	exitOK          = 0
	exitFailed      = 1 // anything else, or some of many
	exitUsage       = 2 // the command line or the request is wrong
	exitNotFound    = 3
	exitConflict    = 4 // it exists already, or changed meanwhile
	exitNotNow      = 5 // a precondition is not met, or nothing is left
	exitDenied      = 6 // not logged in, or not permitted
	exitUnavailable = 7 // the server cannot be reached or did not answer in time
	exitUnsupported = 8 // the server does not do this
	exitInterrupted = 130
)

// usagef reports that the command line is wrong.
func usagef(format string, args ...any) error {
	return fault.New(fault.Invalid, "", fmt.Sprintf(format, args...), "")
}

// exitCode returns the class of an error.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		return exitOfCode(ce.Code())
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return exitUsage
	case fault.NotFound:
		return exitNotFound
	case fault.Exists, fault.Conflict:
		return exitConflict
	case fault.Precondition, fault.Exhausted:
		return exitNotNow
	case fault.Denied, fault.Unauthenticated:
		return exitDenied
	case fault.Unavailable:
		return exitUnavailable
	case fault.Unimplemented:
		return exitUnsupported
	}
	return exitFailed
}

func exitOfCode(c connect.Code) int {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return exitUsage
	case connect.CodeNotFound:
		return exitNotFound
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return exitConflict
	case connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		return exitNotNow
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return exitDenied
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return exitUnavailable
	case connect.CodeUnimplemented:
		return exitUnsupported
	case connect.CodeCanceled:
		return exitInterrupted
	}
	return exitFailed
}

// explain puts an error into one line: object, fact and what to do. What the
// server says already has that form.
func explain(err error) string {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return oneLine(err.Error())
	}
	prefix, _, _ := strings.Cut(err.Error(), ce.Error())
	text := prefix + ce.Message()
	if ce.Code() == connect.CodeDeadlineExceeded {
		return oneLine(prefix + "server: no answer in time; try again, or wait longer with --timeout")
	}
	if connect.IsWireError(err) {
		switch {
		case strings.Contains(text, ";"): // it says what to do
		case ce.Code() == connect.CodeUnauthenticated:
			text += "; log in with 'ingot login'"
		case ce.Code() == connect.CodeUnimplemented:
			text += "; the server does not offer this"
		}
		return oneLine(text)
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return oneLine(prefix + "server: its certificate is signed by an unknown authority; name the right one with --ca-file")
	case errors.As(err, &name):
		return oneLine(prefix + "server: " + name.Error() + "; use a name of the certificate in --api-url")
	case errors.As(err, &op):
		return oneLine(prefix + "server: " + op.Error() + "; check --api-url, and that ingotd runs there")
	}
	return oneLine(text)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

package cli

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("x"), exitFailed},
		{errReported, exitFailed},
		{reported{fault.New(fault.NotFound, "", "x", "")}, exitNotFound},
		{usagef("x"), exitUsage},
		{fmt.Errorf("x: %w", fault.New(fault.Precondition, "", "x", "")), exitNotNow},
		{fault.New(fault.Exists, "", "x", ""), exitConflict},
		{fault.New(fault.Unavailable, "", "x", ""), exitUnavailable},
		{context.Canceled, exitInterrupted},
		{connect.NewError(connect.CodeNotFound, errors.New("x")), exitNotFound},
		{connect.NewError(connect.CodeAborted, errors.New("x")), exitConflict},
		{connect.NewError(connect.CodeResourceExhausted, errors.New("x")), exitNotNow},
		{connect.NewError(connect.CodePermissionDenied, errors.New("x")), exitDenied},
		{connect.NewError(connect.CodeUnimplemented, errors.New("x")), exitUnsupported},
		{connect.NewError(connect.CodeInternal, errors.New("x")), exitFailed},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fault.New(fault.NotFound, "ip 10.0.0.1", "not found", "list them"), "ip 10.0.0.1: not found; list them"},
		{connect.NewError(connect.CodeNotFound, errors.New("ip 10.0.0.1: not\nfound")), "ip 10.0.0.1: not found"},
		{fmt.Errorf("a.yaml:1: %w", connect.NewError(connect.CodeNotFound, errors.New("gone"))), "a.yaml:1: gone"},
		{connect.NewError(connect.CodeDeadlineExceeded, errors.New("x")), "server: no answer in time; try again, or wait longer with --timeout"},
	} {
		if got := explain(c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

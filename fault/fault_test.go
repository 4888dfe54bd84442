package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/ingot-cloud/ingot/fault"
)

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fault.New(fault.NotFound, "ip 10.0.0.1", "not found", ""), "ip 10.0.0.1: not found"},
		{fault.New(fault.Exhausted, "network n1", "no free address", "add a prefix"), "network n1: no free address; add a prefix"},
		{fault.Newf(fault.Invalid, "", "%d is odd", 3), "3 is odd"},
		{fault.Wrap(fault.Internal, "image i", "cannot be read", io.EOF).Do("upload it again"), "image i: cannot be read: EOF; upload it again"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestKindSurvivesWrapping(t *testing.T) {
	err := fmt.Errorf("allocating: %w", fault.New(fault.Conflict, "machine m1", "was taken", ""))
	if !errors.Is(err, fault.Conflict) || errors.Is(err, fault.NotFound) {
		t.Errorf("errors.Is does not see the kind of %v", err)
	}
	if got := fault.KindOf(err); got != fault.Conflict {
		t.Errorf("KindOf = %v", got)
	}
	if got := fault.KindOf(io.EOF); got != fault.Internal {
		t.Errorf("KindOf(EOF) = %v", got)
	}
	if got := fault.KindOf(fmt.Errorf("x: %w", fault.Denied)); got != fault.Denied {
		t.Errorf("KindOf(bare kind) = %v", got)
	}
	if !errors.Is(fault.Wrap(fault.Internal, "a", "b", io.EOF), io.EOF) {
		t.Error("the cause is lost")
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for k := fault.Internal; k <= fault.Unimplemented; k++ {
		if s := k.String(); s == "" || seen[s] {
			t.Errorf("kind %d is called %q", k, s)
		}
		seen[k.String()] = true
	}
}

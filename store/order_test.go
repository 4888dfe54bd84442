package store_test

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/ingot-cloud/ingot/store"
)

func TestOrder(t *testing.T) {
	last := ""
	for _, n := range []uint64{0, 1, 9, 10, 4_200_000_000, math.MaxInt64, math.MaxUint64} {
		s := store.Ordered(n)
		if s != fmt.Sprintf("%020d", n) || s <= last {
			t.Errorf("%d is %q", n, s)
		}
		last = s
	}
	last = ""
	for _, a := range []string{"0.0.0.0", "9.255.0.1", "10.0.0.1", "10.0.0.10", "255.255.255.255"} {
		s := store.OrderedAddr(netip.MustParseAddr(a))
		if s <= last || s != store.OrderedAddr(netip.MustParseAddr("::ffff:"+a)) {
			t.Errorf("%s is %q", a, s)
		}
		last = s
	}
	if s := store.OrderedAddr(netip.MustParseAddr("2001:db8::1%eth0")); s != "20010db8000000000000000000000001" {
		t.Error(s)
	}
}

func FuzzParseOrdered(f *testing.F) {
	f.Add("00000000000000000042", "0a000001")
	f.Add("-1", "20010db8000000000000000000000001")
	f.Fuzz(func(t *testing.T, number, addr string) {
		if n, err := store.ParseOrdered(number); err == nil && store.Ordered(n) != number {
			t.Errorf("%q is not %d", number, n)
		}
		if a, err := store.ParseOrderedAddr(addr); err == nil && store.OrderedAddr(a) != addr {
			t.Errorf("%q is not %v", addr, a)
		}
	})
}

package store

import (
	"encoding/hex"
	"net/netip"
	"strconv"

	"github.com/ingot-cloud/ingot/fault"
)

// Ordered returns a number as 20 decimal digits, so that keys sort like their
// numbers and stay readable.
func Ordered(n uint64) string {
	b := [20]byte([]byte("00000000000000000000"))
	for i := len(b) - 1; n > 0; i-- {
		b[i] += byte(n % 10)
		n /= 10
	}
	return string(b[:])
}

// ParseOrdered is the inverse of Ordered.
func ParseOrdered(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || s != Ordered(n) {
		return 0, fault.Newf(fault.Invalid, "", "%q is not a number of 20 digits", s)
	}
	return n, nil
}

// OrderedAddr returns an address as hexadecimal digits, so that keys sort like
// their addresses: 8 for IPv4, 32 for IPv6. An IPv4 address mapped into IPv6 is
// an IPv4 address; a zone is dropped.
func OrderedAddr(a netip.Addr) string { return hex.EncodeToString(a.Unmap().AsSlice()) }

// ParseOrderedAddr is the inverse of OrderedAddr.
func ParseOrderedAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	a, ok := netip.AddrFromSlice(b)
	if err != nil || !ok || OrderedAddr(a) != s {
		return netip.Addr{}, fault.Newf(fault.Invalid, "", "%q is not an address of 8 or 32 hexadecimal digits", s)
	}
	return a, nil
}

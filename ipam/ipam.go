// Package ipam is arithmetic on prefixes and addresses. It has no state: what
// is taken is known to the store, and the rules in package network put the two
// together.
//
// A prefix here is canonical: its host bits are zero. Addresses and sub-prefixes
// of a prefix are numbered from zero in ascending order. The numbers are
// uint64; where a prefix has more than that, the count is saturated and those
// beyond it are never given out, which no pool will notice.
package ipam

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/ingot-cloud/ingot/fault"
)

// Parse returns a canonical prefix. The host bits of s must be zero; an IPv4
// prefix mapped into IPv6 is refused.
func Parse(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fault.Newf(fault.Invalid, "", "malformed prefix %q", s).Do("give an address, a slash and a length, as in 10.0.0.0/24 or fd00::/64")
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fault.Newf(fault.Invalid, "", "expecting canonical form of prefix %q, please specify it as %q", s, m)
	}
	return p, nil
}

// ParseAll is Parse for a list.
func ParseAll(ss []string) ([]netip.Prefix, error) {
	ps := make([]netip.Prefix, 0, len(ss))
	for _, s := range ss {
		p, err := Parse(s)
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// ParseAddr returns an address without a zone; an IPv4 address mapped into IPv6
// is an IPv4 address.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fault.Newf(fault.Invalid, "", "malformed address %q", s).Do("give an IPv4 or IPv6 address without a zone")
	}
	return a.Unmap(), nil
}

// Strings returns the prefixes as text.
func Strings(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// Size returns how many addresses a prefix has, math.MaxUint64 if they are more
// than that.
func Size(p netip.Prefix) uint64 {
	return power(p.Addr().BitLen() - p.Bits())
}

// Subs returns how many prefixes of the given length a prefix has, zero if the
// length is shorter than its own, math.MaxUint64 if they are more than that.
func Subs(p netip.Prefix, length int) uint64 {
	if length < p.Bits() || length > p.Addr().BitLen() {
		return 0
	}
	return power(length - p.Bits())
}

func power(n int) uint64 {
	if n >= 64 {
		return math.MaxUint64
	}
	return 1 << n
}

// Hosts returns the numbers of the first and last address of a prefix that may
// be given out, and false if there is none. The first address of every prefix
// names the network (and is the subnet-router anycast address of IPv6, RFC
// 4291); the last one of IPv4 is the broadcast address.
func Hosts(p netip.Prefix) (first, last uint64, ok bool) {
	last = Size(p) - 1
	if p.Addr().Is4() && last > 0 {
		last--
	}
	return 1, last, last >= 1
}

// Nth returns the n-th address of a prefix, and false if it has no such address.
func Nth(p netip.Prefix, n uint64) (netip.Addr, bool) {
	host := p.Addr().BitLen() - p.Bits()
	if host < 64 && n>>host != 0 {
		return netip.Addr{}, false
	}
	return add(p.Addr(), n, 0), true
}

// Number returns the place of an address in a prefix, and false if the prefix
// does not contain it or its place does not fit in 64 bits.
func Number(p netip.Prefix, a netip.Addr) (uint64, bool) {
	if !p.Contains(a) {
		return 0, false
	}
	return sub(a, p.Addr(), 0)
}

// NthSub returns the n-th prefix of the given length in a prefix, and false if
// there is no such prefix.
func NthSub(p netip.Prefix, length int, n uint64) (netip.Prefix, bool) {
	if Subs(p, length) <= n && Subs(p, length) != math.MaxUint64 || length < p.Bits() || length > p.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(add(p.Addr(), n, p.Addr().BitLen()-length), length), true
}

// SubNumber returns the place of the prefix of the given length that contains
// an address, among those of a prefix, and false if the prefix does not contain
// the address, the length is shorter than its own, or the place does not fit in
// 64 bits.
func SubNumber(p netip.Prefix, length int, a netip.Addr) (uint64, bool) {
	if !p.Contains(a) || length < p.Bits() || length > p.Addr().BitLen() {
		return 0, false
	}
	return sub(a, p.Addr(), p.Addr().BitLen()-length)
}

// Last returns the last address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	for i := 128 - (p.Addr().BitLen() - p.Bits()); i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return addr(b, p.Addr().Is4())
}

// Contains reports whether outer contains all of inner.
func Contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// ContainsAny reports whether one of the prefixes contains the address.
func ContainsAny(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Overlap returns the first pair of prefixes, one of each list, that share an
// address.
func Overlap(as, bs []netip.Prefix) (a, b netip.Prefix, ok bool) {
	for _, a := range as {
		for _, b := range bs {
			if a.Overlaps(b) {
				return a, b, true
			}
		}
	}
	return netip.Prefix{}, netip.Prefix{}, false
}

// Host returns the prefix that contains nothing but the address.
func Host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Compact returns the prefixes sorted, IPv4 first, without those that another
// one contains. It does not merge neighbours: what was given stays readable.
func Compact(ps []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(ps)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if n := len(out); n == 0 || !Contains(out[n-1], p) {
			out = append(out, p)
		}
	}
	return out
}

// EUI64 returns the address that a station with the MAC address gives itself in
// a /64 (RFC 4291 appendix A).
func EUI64(p netip.Prefix, mac [6]byte) (netip.Addr, error) {
	if p.Bits() != 64 || !p.Addr().Is6() {
		return netip.Addr{}, fault.Newf(fault.Invalid, "", "stations form no addresses in %s", p).Do("give an IPv6 prefix of length 64")
	}
	b := p.Addr().As16()
	copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b), nil
}

// MAC returns the MAC address that an address was formed from, and false if it
// was not formed by EUI64.
func MAC(a netip.Addr) (mac [6]byte, ok bool) {
	b := a.As16()
	if !a.Is6() || b[11] != 0xff || b[12] != 0xfe {
		return mac, false
	}
	return [6]byte{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}, true
}

// add returns a + n<<shift.
func add(a netip.Addr, n uint64, shift int) netip.Addr {
	hi, lo := halves(a)
	nhi, nlo := shl(n, shift)
	lo, carry := bits.Add64(lo, nlo, 0)
	hi, _ = bits.Add64(hi, nhi, carry)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return addr(b, a.Is4())
}

// sub returns (a-b)>>shift, and false if it does not fit in 64 bits.
func sub(a, b netip.Addr, shift int) (uint64, bool) {
	ahi, alo := halves(a)
	bhi, blo := halves(b)
	lo, borrow := bits.Sub64(alo, blo, 0)
	hi, _ := bits.Sub64(ahi, bhi, borrow)
	if shift >= 64 {
		return hi >> (shift - 64), true
	}
	if hi>>shift != 0 {
		return 0, false
	}
	return lo>>shift | hi<<(64-shift), true // a shift by 64 is zero in Go
}

func shl(n uint64, shift int) (hi, lo uint64) {
	if shift >= 64 {
		return n << (shift - 64), 0
	}
	return n >> (64 - shift), n << shift
}

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func addr(b [16]byte, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

package ipam

import (
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var mustPrefix = netip.MustParsePrefix

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8":         "10.0.0.0/8",
		"fd00::/48":          "fd00::/48",
		"0.0.0.0/0":          "0.0.0.0/0",
		"1.2.3.0/22":         `expecting canonical form of prefix "1.2.3.0/22", please specify it as "1.2.0.0/22"`,
		"FD00:0::1/64":       `expecting canonical form of prefix "FD00:0::1/64", please specify it as "fd00::/64"`,
		"10.0.0.0":           `malformed prefix "10.0.0.0"`,
		"::ffff:1.0.0.0/112": `malformed prefix "::ffff:1.0.0.0/112"`,
	} {
		p, err := Parse(in)
		got := p.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("Parse(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestHosts(t *testing.T) {
	for in, want := range map[string][]string{
		"1.2.3.0/24":    {"1.2.3.1", "1.2.3.254"},
		"10.0.0.0/30":   {"10.0.0.1", "10.0.0.2"},
		"10.0.0.0/31":   nil,
		"10.0.0.4/32":   nil,
		"2001:db8::/96": {"2001:db8::1", "2001:db8::ffff:ffff"},
		"2001:db8::/64": {"2001:db8::1", "2001:db8::ffff:ffff:ffff:fffe"}, // as far as counts go
		"2001:db8::/32": {"2001:db8::1", "2001:db8::ffff:ffff:ffff:fffe"},
		"fd00::/127":    {"fd00::1", "fd00::1"},
		"fd00::1/128":   nil,
	} {
		var got []string
		if first, last, ok := Hosts(mustPrefix(in)); ok {
			for _, n := range []uint64{first, last} {
				a, ok := Nth(mustPrefix(in), n)
				if !ok {
					t.Fatalf("%s has no address %d", in, n)
				}
				got = append(got, a.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("Hosts(%s) = %v, want %v", in, got, want)
		}
	}
}

func TestCounts(t *testing.T) {
	for _, c := range []struct {
		prefix string
		length int
		size   uint64
		subs   uint64
	}{
		{"10.0.0.0/8", 24, 1 << 24, 1 << 16},
		{"10.0.0.0/24", 22, 256, 0},
		{"10.0.0.0/24", 33, 256, 0},
		{"0.0.0.0/0", 32, 1 << 32, 1 << 32},
		{"fd00::/48", 56, math.MaxUint64, 256},
		{"fd00::/48", 112, math.MaxUint64, math.MaxUint64},
		{"fd00::/65", 128, 1 << 63, 1 << 63},
	} {
		p := mustPrefix(c.prefix)
		if got := Size(p); got != c.size {
			t.Errorf("Size(%s) = %d, want %d", p, got, c.size)
		}
		if got := Subs(p, c.length); got != c.subs {
			t.Errorf("Subs(%s, %d) = %d, want %d", p, c.length, got, c.subs)
		}
	}
}

func TestCompact(t *testing.T) {
	in := []netip.Prefix{mustPrefix("fd00::/64"), mustPrefix("10.1.0.0/16"), mustPrefix("10.1.2.3/32"), mustPrefix("10.0.0.0/24"), mustPrefix("10.1.0.0/16"), mustPrefix("10.0.1.0/24")}
	got := strings.Join(Strings(Compact(in)), " ")
	if want := "10.0.0.0/24 10.0.1.0/24 10.1.0.0/16 fd00::/64"; got != want {
		t.Errorf("Compact = %s, want %s", got, want)
	}
}

func TestEUI64(t *testing.T) {
	mac := [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	a, err := EUI64(mustPrefix("fd00:1::/64"), mac)
	if err != nil || a.String() != "fd00:1::5054:ff:fe12:3456" {
		t.Errorf("EUI64 = %v, %v", a, err)
	}
	if back, ok := MAC(a); !ok || back != mac {
		t.Errorf("MAC(%s) = %v, %v", a, back, ok)
	}
	if back, ok := MAC(netip.MustParseAddr("fd00:1::1")); ok {
		t.Errorf("MAC of an address that is no EUI-64 = %v", back)
	}
	if _, err := EUI64(mustPrefix("fd00:1::/48"), mac); err == nil {
		t.Error("EUI64 took a /48")
	}
}

func drawAddr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "v4") {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	}
	a := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")))
	if a.Is4In6() {
		return netip.IPv6LinkLocalAllNodes()
	}
	return a
}

func drawPrefix(t *rapid.T) netip.Prefix {
	a := drawAddr(t)
	return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// The arithmetic agrees with that of big integers.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPrefix(t)
		length := rapid.IntRange(p.Bits(), p.Addr().BitLen()).Draw(t, "length")
		n := rapid.Uint64().Draw(t, "n")
		if s := Subs(p, length); s != math.MaxUint64 {
			n %= s
		}
		q, ok := NthSub(p, length, n)
		if !ok || !Contains(p, q) || q.Masked() != q || q.Bits() != length {
			t.Fatalf("NthSub(%s, %d, %d) = %s, %v", p, length, n, q, ok)
		}
		shift := uint(p.Addr().BitLen() - length)
		want := new(big.Int).Lsh(new(big.Int).SetUint64(n), shift)
		if got := new(big.Int).Sub(number(q.Addr()), number(p.Addr())); got.Cmp(want) != 0 {
			t.Fatalf("NthSub(%s, %d, %d) = %s is %s places on", p, length, n, q, got)
		}
		if back, ok := SubNumber(p, length, Last(q)); !ok || back != n {
			t.Fatalf("SubNumber(%s, %d, %s) = %d, %v, want %d", p, length, Last(q), back, ok, n)
		}
		if !q.Contains(Last(q)) || (Last(q).Next().IsValid() && q.Contains(Last(q).Next())) {
			t.Fatalf("Last(%s) = %s", q, Last(q))
		}
		if a, ok := Nth(p, n); ok {
			if back, ok := Number(p, a); !ok || back != n {
				t.Fatalf("Number(%s, %s) = %d, %v, want %d", p, a, back, ok, n)
			}
		} else if Size(p) > n {
			t.Fatalf("%s has no address %d", p, n)
		}
	})
}

func TestOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, a := drawPrefix(t), drawAddr(t)
		host := Host(a)
		if _, _, ok := Overlap([]netip.Prefix{p}, []netip.Prefix{host}); ok != p.Contains(a) {
			t.Fatalf("Overlap(%s, %s) = %v", p, host, ok)
		}
		if Contains(p, host) != p.Contains(a) || ContainsAny([]netip.Prefix{p}, a) != p.Contains(a) {
			t.Fatalf("containment of %s in %s", a, p)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.0/8")
	f.Add("fd00::/48")
	f.Add("1.2.3.0/22")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if q, err := Parse(p.String()); err != nil || q != p {
			t.Errorf("Parse(%q) = %s, which is read as %s, %v", s, p, q, err)
		}
	})
}

func FuzzParseAddr(f *testing.F) {
	f.Add("10.0.0.1")
	f.Add("::ffff:10.0.0.1")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddr(s)
		if err != nil {
			return
		}
		if b, err := ParseAddr(a.String()); err != nil || b != a {
			t.Errorf("ParseAddr(%q) = %s, which is read as %s, %v", s, a, b, err)
		}
	})
}

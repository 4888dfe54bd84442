package site

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// A Lease is an address that a DHCP server has given to a network card.
type Lease struct {
	// MAC of the card in lower case, with colons.
	MAC     string
	Address netip.Addr
	// Hostname is what the client calls itself; empty if it does not say.
	Hostname string
	// Expires is zero if the lease never does.
	Expires time.Time
}

// ParseLeases returns the leases in a file of a DHCP server that are in force
// at a time: at most one of each family for a network card, the one that lasts
// longest, in the order of the cards. Where the file states something about an
// address more than once, the last statement counts. The name of the file is
// for errors.
//
// It knows, by what is in them, the files of three servers: ISC dhcpd
// (dhcpd.leases(5)), dnsmasq (dhcp-leasefile), and Kea (the CSV files of its
// memfile backend). Of IPv6, only Kea's files name the network card of a
// client, and only if the client or its relay told; ISC's ia-na and dnsmasq's
// DHCPv6 leases name a DUID, which may have been made from another card, and
// are left out. So are cards that are not Ethernet.
//
// Addresses that are fixed in ISC dhcpd's configuration are in no lease file.
func ParseLeases(name string, text []byte, now time.Time) ([]Lease, error) {
	p := leaseParser{name: name, now: now, at: map[netip.Addr]Lease{}}
	var err error
	switch first, line := firstLine(text); {
	case first == "":
	case strings.HasPrefix(first, "address,"):
		err = p.kea(text)
	case strings.HasPrefix(first, "duid "), startsWithNumber(first):
		err = p.dnsmasq(text)
	case iscStatements[strings.TrimRight(strings.Fields(first)[0], ";{")]:
		err = p.isc(text)
	default:
		err = p.wrong(line, "is of no lease file of ISC dhcpd, dnsmasq or Kea")
	}
	if err != nil {
		return nil, err
	}
	return p.leases(), nil
}

// firstLine returns the first line that is neither empty nor a comment, and
// its number.
func firstLine(text []byte) (string, int) {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if s := strings.TrimSpace(string(line)); s != "" && s[0] != '#' {
			return s, n
		}
	}
	return "", n
}

func startsWithNumber(line string) bool {
	word, _, _ := strings.Cut(line, " ")
	_, err := strconv.ParseUint(word, 10, 63)
	return err == nil
}

// leaseParser collects what a file says of each address.
type leaseParser struct {
	name string
	now  time.Time
	at   map[netip.Addr]Lease
	said []netip.Addr // in the order of the last statements, with repetitions
}

// state notes a statement about an address: the lease, or that there is none.
func (p *leaseParser) state(l Lease, active bool) {
	if !active || l.MAC == "" || !l.Expires.IsZero() && !l.Expires.After(p.now) {
		delete(p.at, l.Address)
		return
	}
	p.at[l.Address] = l
	p.said = append(p.said, l.Address)
}

// leases returns the newest lease of each card and family.
func (p *leaseParser) leases() []Lease {
	var all []Lease
	for _, a := range p.said {
		if l, ok := p.at[a]; ok {
			all = append(all, l)
		}
	}
	return newestLeases(all)
}

// newestLeases keeps the lease of each card and family that lasts longest; of
// equals the later in the list.
func newestLeases(all []Lease) []Lease {
	type key struct {
		mac string
		v4  bool
	}
	best := map[key]Lease{}
	for _, l := range all {
		k := key{l.MAC, l.Address.Is4()}
		if was, ok := best[k]; !ok || l.Expires.IsZero() || !was.Expires.IsZero() && !l.Expires.Before(was.Expires) {
			best[k] = l
		}
	}
	var out []Lease
	for _, l := range best {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int {
		if c := strings.Compare(a.MAC, b.MAC); c != 0 {
			return c
		}
		return a.Address.Compare(b.Address)
	})
	return out
}

func (p *leaseParser) wrong(line int, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "lease file "+p.name+": line "+strconv.Itoa(line), format, args...)
}

// ethernet returns the address of an Ethernet card in canonical form.
func ethernet(text string) (string, bool) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return "", false
	}
	return mac.String(), true
}

// dnsmasq reads lines of the form "expiry mac address hostname client-id". An
// expiry of 0 is never, a hostname of * is none. What follows the line with
// the server's DUID is DHCPv6. A card that is not Ethernet has its type before
// its address.
func (p *leaseParser) dnsmasq(text []byte) error {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] == "duid" {
			return nil
		}
		if len(f) != 5 {
			return p.wrong(n, "has %d words, a lease of dnsmasq has 5", len(f))
		}
		expires, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil || expires < 0 {
			return p.wrong(n, "%q is not a time", f[0])
		}
		address, err := netip.ParseAddr(f[2])
		if err != nil {
			return p.wrong(n, "%q is not an address", f[2])
		}
		l := Lease{Address: address.Unmap()}
		l.MAC, _ = ethernet(f[1])
		if expires != 0 {
			l.Expires = time.Unix(expires, 0).UTC()
		}
		if f[3] != "*" {
			l.Hostname = f[3]
		}
		p.state(l, true)
	}
	return nil
}

// What Kea's files say in numbers.
const (
	keaActive   = "0"               // state: not declined, reclaimed or released
	keaIANA     = "0"               // lease_type: an address
	keaInfinite = uint64(1<<32 - 1) // valid_lifetime
)

// kea reads a CSV file whose header names the columns; there are no quotes,
// but "&#x2c" in place of a comma. A lifetime of 0 deletes.
func (p *leaseParser) kea(text []byte) error {
	column := map[string]int{}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		f := strings.Split(strings.TrimRight(line, "\r\n"), ",")
		switch {
		case len(f) == 1 && strings.TrimSpace(f[0]) == "":
			continue
		case f[0] == "address":
			clear(column)
			for i, name := range f {
				column[name] = i
			}
			for _, name := range []string{"address", "hwaddr", "valid_lifetime", "expire", "hostname", "state"} {
				if _, ok := column[name]; !ok {
					return p.wrong(n, "there is no column %s", name)
				}
			}
			continue
		case len(f) != len(column):
			return p.wrong(n, "has %d columns, the header %d", len(f), len(column))
		}
		get := func(name string) string { return f[column[name]] }
		address, err := netip.ParseAddr(get("address"))
		if err != nil {
			return p.wrong(n, "%q is not an address", get("address"))
		}
		lifetime, err := strconv.ParseUint(get("valid_lifetime"), 10, 32)
		if err != nil {
			return p.wrong(n, "%q is not a lifetime", get("valid_lifetime"))
		}
		expires, err := strconv.ParseInt(get("expire"), 10, 64)
		if err != nil {
			return p.wrong(n, "%q is not a time", get("expire"))
		}
		active := lifetime != 0 && get("state") == keaActive
		if _, v6 := column["lease_type"]; v6 && get("lease_type") != keaIANA {
			continue // a prefix
		}
		l := Lease{Address: address.Unmap(), Hostname: strings.TrimSuffix(strings.ReplaceAll(get("hostname"), "&#x2c", ","), ".")}
		l.MAC, _ = ethernet(get("hwaddr"))
		if lifetime != keaInfinite {
			l.Expires = time.Unix(expires, 0).UTC()
		}
		p.state(l, active)
	}
	return nil
}

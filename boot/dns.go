package boot

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A zone is the boot network's own names. Everything else is refused: a server
// in the boot network has nobody else to talk to.
type zone struct {
	origin string // with its dot; empty without a domain
	names  map[string]netip.Addr
}

// nameTTL is how long an answer may be kept.
const nameTTL = time.Minute

// zone has one name, "boot", for metal-boot. Image caches go by the addresses
// that their URLs have.
func (p place) zone() zone {
	z := zone{names: map[string]netip.Addr{}}
	if p.domain == "" {
		return z
	}
	z.origin = dns.Fqdn(strings.ToLower(p.domain))
	z.names["boot."+z.origin] = p.address
	return z
}

func (z zone) server() *dns.Server {
	return &dns.Server{
		Handler:     dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(z.answer(q)) }),
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxTCPQueries: 16,
	}
}

// answer answers one query (RFC 1035).
func (z zone) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	name := strings.ToLower(q.Question[0].Name)
	if z.origin == "" || !dns.IsSubDomain(z.origin, name) {
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true
	header := func(name string, t uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: uint32(nameTTL / time.Second)}
	}
	address, known := z.names[name]
	if t := q.Question[0].Qtype; known && (t == dns.TypeAAAA || t == dns.TypeANY) {
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(q.Question[0].Name, dns.TypeAAAA), AAAA: net.IP(address.AsSlice())})
		return m
	}
	if !known && name != z.origin {
		m.Rcode = dns.RcodeNameError
	}
	// That there is none may be kept as long (RFC 2308).
	m.Ns = append(m.Ns, &dns.SOA{
		Hdr: header(z.origin, dns.TypeSOA), Ns: "boot." + z.origin, Mbox: "hostmaster." + z.origin,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: uint32(nameTTL / time.Second),
	})
	return m
}

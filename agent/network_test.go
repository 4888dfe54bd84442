package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
)

// advertisement is a router's, with name servers and domains (RFC 8106).
func advertisement(t testing.TB, servers []string, domains ...string) []byte {
	t.Helper()
	ra := &ndp.RouterAdvertisement{RouterLifetime: time.Hour}
	dns := &ndp.RecursiveDNSServer{Lifetime: time.Hour}
	for _, s := range servers {
		dns.Servers = append(dns.Servers, netip.MustParseAddr(s))
	}
	ra.Options = append(ra.Options, dns)
	if len(domains) > 0 {
		ra.Options = append(ra.Options, &ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: domains})
	}
	b, err := ndp.MarshalMessage(ra)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func heard(b []byte) *Network {
	n := &Network{heard: make(chan struct{})}
	m, err := ndp.ParseMessage(b)
	if ra, ok := m.(*ndp.RouterAdvertisement); err == nil && ok {
		n.advertised(ra)
	}
	return n
}

func TestAdvertised(t *testing.T) {
	n := heard(advertisement(t, []string{"fd00:b007::1", "ff02::1", "::", "fd00:b007::1"}, "boot.example.org", "-.org"))
	servers, domains := n.Resolvers()
	if len(servers) != 1 || servers[0] != netip.MustParseAddr("fd00:b007::1") || len(domains) != 1 || domains[0] != "boot.example.org" {
		t.Errorf("got %v and %v", servers, domains)
	}
}

// What a router says ends in a file: no advertisement writes a line of its own
// there.
func FuzzAdvertised(f *testing.F) {
	f.Add(advertisement(f, []string{"fd00:b007::1"}, "boot.example.org"))
	f.Add([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		servers, domains := heard(b).Resolvers()
		if len(servers) > 3 || len(domains) > 6 {
			t.Errorf("%d servers, %d domains", len(servers), len(domains))
		}
		for _, d := range domains {
			if strings.ContainsAny(d, " \t\n\r#;") || d == "" {
				t.Errorf("domain %q", d)
			}
		}
		for _, s := range servers {
			if !s.IsValid() || s.IsMulticast() {
				t.Errorf("server %v", s)
			}
		}
	})
}

package leaf

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

func what(all []change) []string {
	var s []string
	for _, c := range all {
		s = append(s, c.what)
	}
	return s
}

func attrs(name string, index, master int, flags net.Flags, mtu int) netlink.LinkAttrs {
	return netlink.LinkAttrs{Name: name, Index: index, MasterIndex: master, Flags: flags, MTU: mtu}
}

func state(links ...netlink.Link) *netState {
	s := &netState{links: map[string]netlink.Link{}, names: map[int]string{}, addrs: map[string][]netip.Prefix{}, closed: map[closure]bool{}, rules: map[int][]int{}}
	for _, l := range links {
		s.links[l.Attrs().Name], s.names[l.Attrs().Index] = l, l.Attrs().Name
	}
	s.sysctl = func(string) (string, error) { return "", fs.ErrNotExist }
	return s
}

// bootKernel is a switch with one port in the boot network.
func bootKernel() Kernel {
	return Kernel{
		Loopback: netip.MustParseAddr("10.255.0.1"),
		VRFs: []KernelVRF{{
			Name: "vrf1000", Table: firstTable + 1000, VNI: 1000, RouterMAC: net.HardwareAddr{2, 0, 10, 255, 0, 1},
			Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:b007::1/128")},
		}},
		Links: []Link{{Name: "swp1", Up: true, MTU: 1500, VRF: "vrf1000", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:10:0:101::1/64")}}},
	}
}

func TestCompareFresh(t *testing.T) {
	have := state(
		&netlink.Device{LinkAttrs: attrs("lo", 1, 0, net.FlagUp, 65536)},
		&netlink.Device{LinkAttrs: attrs("swp1", 2, 0, 0, 1500)},
	)
	have.rules = map[int][]int{unix.AF_INET: {0}, unix.AF_INET6: {0}}
	k := bootKernel()
	k.Sysctls = []Sysctl{{"net/ipv4/ip_forward", "1"}}
	k.Links = append(k.Links, Link{Name: "swp9"})
	want := []string{
		"sysctl net/ipv4/ip_forward=1",
		"lo address 10.255.0.1/32",
		"rule ipv4 local at 32765", "no rule ipv4 local at 0",
		"rule ipv6 local at 32765", "no rule ipv6 local at 0",
		"vrf vrf1000 table 10001000", "bridge br1000", "tunnel vx1000 vni 1000 local 10.255.0.1",
		"swp1 up", "swp1 address fd00:10:0:101::1/64", // into the VRF once that exists
		"port swp9",
	}
	changes := k.compare(have)
	if d := cmp.Diff(want, what(changes)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if err := changes[len(changes)-1].do(); err == nil {
		t.Error("a port that does not exist is no error")
	}
}

// settled is the state in which nothing of bootKernel is left to do.
func settled() *netState {
	have := state(
		&netlink.Device{LinkAttrs: attrs("lo", 1, 0, net.FlagUp, 65536)},
		&netlink.Device{LinkAttrs: attrs("swp1", 2, 10, net.FlagUp, 1500)},
		&netlink.Vrf{LinkAttrs: attrs("vrf1000", 10, 0, net.FlagUp, 65575), Table: firstTable + 1000},
		&netlink.Bridge{LinkAttrs: attrs("br1000", 11, 10, net.FlagUp, 9000)},
		&netlink.Vxlan{LinkAttrs: attrs("vx1000", 12, 11, net.FlagUp, 9000), VxlanId: 1000, Port: 4789, SrcAddr: net.IPv4(10, 255, 0, 1)},
	)
	have.links["br1000"].Attrs().HardwareAddr = net.HardwareAddr{2, 0, 10, 255, 0, 1}
	have.rules = map[int][]int{unix.AF_INET: {32765}, unix.AF_INET6: {32765}}
	have.closed[closure{firstTable + 1000, unix.AF_INET}], have.closed[closure{firstTable + 1000, unix.AF_INET6}] = true, true
	have.addrs["lo"] = []netip.Prefix{netip.MustParsePrefix("10.255.0.1/32"), netip.MustParsePrefix("192.0.2.1/32")}
	have.addrs["vrf1000"] = []netip.Prefix{netip.MustParsePrefix("fd00:b007::1/128")}
	have.addrs["swp1"] = []netip.Prefix{netip.MustParsePrefix("fd00:10:0:101::1/64")}
	return have
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Kernel, *netState)
		want   []string
	}{
		"nothing": {func(*Kernel, *netState) {}, nil},
		"what is not ours stays": {func(_ *Kernel, s *netState) {
			s.links["mgmt"] = &netlink.Vrf{LinkAttrs: attrs("mgmt", 30, 0, net.FlagUp, 1500), Table: 10}
			s.links["br0"] = &netlink.Bridge{LinkAttrs: attrs("br0", 31, 0, net.FlagUp, 1500)}
			s.links["eth0"] = &netlink.Device{LinkAttrs: attrs("eth0", 32, 30, net.FlagUp, 1500)}
			s.names[30] = "mgmt"
		}, nil},
		"a port moves to another VRF": {func(k *Kernel, s *netState) {
			k.VRFs = append(k.VRFs, KernelVRF{Name: "vrf2001", Table: firstTable + 2001, VNI: 2001})
			s.links["vrf2001"] = &netlink.Vrf{LinkAttrs: attrs("vrf2001", 20, 0, net.FlagUp, 1500), Table: firstTable + 2001}
			s.links["br2001"] = &netlink.Bridge{LinkAttrs: attrs("br2001", 21, 20, net.FlagUp, 9000)}
			s.links["vx2001"] = &netlink.Vxlan{LinkAttrs: attrs("vx2001", 22, 21, net.FlagUp, 9000), VxlanId: 2001, Port: 4789, SrcAddr: net.IPv4(10, 255, 0, 1)}
			s.names[20], s.names[21] = "vrf2001", "br2001"
			s.closed[closure{firstTable + 2001, unix.AF_INET}], s.closed[closure{firstTable + 2001, unix.AF_INET6}] = true, true
			k.Links[0].VRF, k.Links[0].MTU, k.Links[0].Addresses = "vrf2001", 9000, nil
		}, []string{"port swp1 mtu 9000", "swp1 into vrf2001", "swp1 no address fd00:10:0:101::1/64"}},
		"a port that cannot carry more": {func(k *Kernel, s *netState) {
			k.Links[0].MTU = 9216
			s.mtus = map[string]int{"swp1": 1500}
		}, nil},
		"a port goes down before it leaves": {func(k *Kernel, _ *netState) {
			k.Links[0].Up, k.Links[0].VRF, k.Links[0].Addresses = false, "", nil
		}, []string{"swp1 down", "swp1 out of vrf1000", "swp1 no address fd00:10:0:101::1/64"}},
		"a port nobody named leaves": {func(k *Kernel, _ *netState) { k.Links = nil },
			[]string{"swp1 down", "swp1 out of vrf1000"}},
		"a VRF goes": {func(k *Kernel, s *netState) {
			k.VRFs, k.Links = nil, nil
			delete(s.links, "swp1")
		}, []string{"no bridge br1000", "no vrf vrf1000", "no vxlan vx1000"}},
		"another loopback": {func(k *Kernel, _ *netState) { k.Loopback = netip.MustParseAddr("10.255.0.2") },
			[]string{"lo address 10.255.0.2/32", "no vxlan vx1000", "tunnel vx1000 vni 1000 local 10.255.0.2"}},
		"somebody meddled": {func(_ *Kernel, s *netState) {
			s.links["swp1"].Attrs().MasterIndex = 0
			s.addrs["vrf1000"] = append(s.addrs["vrf1000"], netip.MustParsePrefix("2001:db8::1/64"))
			s.closed = map[closure]bool{{firstTable + 1000, unix.AF_INET}: true}
		}, []string{"vrf1000 no address 2001:db8::1/64", "vrf vrf1000: nothing ipv6 beyond its table", "swp1 into vrf1000"}},
	} {
		k, have := bootKernel(), settled()
		c.change(&k, have)
		if d := cmp.Diff(c.want, what(k.compare(have))); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
	}
}

// What `nft list table` of nftables 1.0.6 prints.
const listed = `table netdev ingot {
	comment "ingot b660c6f65b0bd20364d893c5"
	chain boot-swp1 {
		type filter hook ingress device "swp1" priority filter; policy drop;
		ether type 0x88cc accept
		ip6 saddr != { ::, fd00:10:0:101::/64, fe80::/10 } counter packets 0 bytes 0 drop
	}

	chain down-swp3 {
		type filter hook ingress device "swp3" priority filter; policy drop;
	}

	chain machine-gone {
		type filter hook ingress priority filter; policy drop;
		counter packets 0 bytes 0 drop
	}
}
`

// A port that has not left the boot VRF keeps the boot network's filter,
// whatever it becomes; a port that is not there is left out.
func TestRulesetHolds(t *testing.T) {
	owned := func(name string) *ingotv1.LeafPort {
		return &ingotv1.LeafPort{Name: name, Class: ingotv1.PortClass_PORT_CLASS_MACHINE, Vrf: "vrf2001", BootPrefix: "fd00:10:0:10" + name[3:] + "::/64"}
	}
	f, err := Render(&ingotv1.LeafConfiguration{
		Switch: "leaf01", Asn: 1, Loopback: "10.0.0.1", Vrfs: []*ingotv1.LeafVRF{{Name: "vrf2001", Vni: 2001}},
		Boot:  &ingotv1.LeafBoot{Vrf: "vrf1000", Vni: 1000, Prefix: "fd00:10:0:100::/56", Address: "fd00:b007::1"},
		Ports: []*ingotv1.LeafPort{owned("swp1"), owned("swp2"), owned("swp3")},
	}, OldestFRR)
	if err != nil {
		t.Fatal(err)
	}
	r := f.Ruleset(map[string]bool{"swp1": true, "swp2": true}, map[string]bool{"swp2": true})
	var chains []string
	for c := range r.Rules {
		chains = append(chains, c)
	}
	slices.Sort(chains)
	if d := cmp.Diff([]string{"boot-swp2", "machine-swp1"}, chains); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if !strings.Contains(r.Text, "fd00:10:0:102::/64, fe80::/10") {
		t.Errorf("swp2 is not held to its own prefix:\n%s", r.Text)
	}
}

func TestUnresolved(t *testing.T) {
	known := netlink.Neigh{State: unix.NUD_NOARP, Flags: netlink.NTF_EXT_LEARNED}
	for name, c := range map[string]struct {
		all  []netlink.Neigh
		want bool
	}{
		"nothing":   {nil, false},
		"known":     {[]netlink.Neigh{known}, false},
		"asked for": {[]netlink.Neigh{known, {State: unix.NUD_INCOMPLETE}}, true},
		"given up":  {[]netlink.Neigh{{State: unix.NUD_FAILED}}, true},
	} {
		if got := unresolved(c.all); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What FRR routes to and a tunnel does not know is given back to the tunnel,
// once for both address families.
func TestLost(t *testing.T) {
	mac, other := net.HardwareAddr{2, 0, 10, 255, 0, 1}, net.HardwareAddr{2, 0, 10, 255, 0, 2}
	resolved := func(ip string, mac net.HardwareAddr) netlink.Neigh {
		return netlink.Neigh{IP: net.ParseIP(ip), HardwareAddr: mac, State: netlink.NUD_NOARP, Flags: netlink.NTF_EXT_LEARNED}
	}
	neighbours := []netlink.Neigh{
		resolved("10.255.0.1", mac), resolved("::ffff:10.255.0.1", mac), resolved("10.255.0.2", other),
		{IP: net.ParseIP("10.255.0.3"), State: netlink.NUD_INCOMPLETE},
		{IP: net.ParseIP("fe80::1"), HardwareAddr: mac, State: netlink.NUD_REACHABLE},
	}
	known := []netlink.Neigh{
		{HardwareAddr: mac, Flags: netlink.NTF_MASTER}, // learned by the bridge, leads nowhere
		{HardwareAddr: other, IP: net.ParseIP("10.255.0.2").To4(), Flags: netlink.NTF_SELF},
	}
	want := []netlink.Neigh{{
		Family: unix.AF_BRIDGE, State: netlink.NUD_REACHABLE | netlink.NUD_NOARP, Flags: netlink.NTF_SELF | netlink.NTF_EXT_LEARNED, IP: net.ParseIP("10.255.0.1").To4(), HardwareAddr: mac,
	}}
	if d := cmp.Diff(want, lost(neighbours, known)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if again := lost(neighbours, append(known, want...)); again != nil {
		t.Errorf("what was given back is lost again: %v", again)
	}
}

func TestParseBinding(t *testing.T) {
	b := parseBinding(listed)
	want := map[string]ingotv1.PortClass{"swp1": ingotv1.PortClass_PORT_CLASS_BOOT, "swp3": ingotv1.PortClass_PORT_CLASS_DOWN}
	if d := cmp.Diff(want, b.class); d != "" {
		t.Errorf("classes (-want +got)\n%s", d)
	}
	r := Ruleset{ID: "ingot b660c6f65b0bd20364d893c5", Rules: map[string]int{"boot-swp1": 2, "down-swp3": 0, "machine-gone": 1}}
	if d := cmp.Diff(r.Rules, b.rules); d != "" {
		t.Errorf("rules (-want +got)\n%s", d)
	}
	if b.is(r) {
		t.Error("a chain whose device went counts as bound")
	}
	if parseBinding("").is(r) || !parseBinding("").is(Ruleset{}) {
		t.Error("an absent table is not what it is")
	}
}

// Shortened from what FRR 8.4.4 prints.
const neighbours = `{
"default":{
  "vrfId":0,
  "vrfName":"default",
  "up1":{"bgpNeighborAddr":"none","remoteAs":0,"peerGroup":"uplink","bgpState":"Idle","addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":0}}}
 }
,
"vrf2001":{
  "vrfId":7,
  "vrfName":"vrf2001",
  "swp1":{"bgpNeighborAddr":"fe80::1","remoteAs":4200000101,"hostname":"m1","peerGroup":"machine","bgpState":"Established","bgpTimerUpMsec":61000,
   "addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":1,"sentPrefixCounter":3},"ipv6Unicast":{"acceptedPrefixCounter":2,"sentPrefixCounter":4}}}
 }
}`

func TestParseSessions(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	got, err := parseSessions([]byte(neighbours), now)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["up1"].GetBgpState() != apiv2.BGPState_BGP_STATE_IDLE || got["up1"].GetBgpTimerUpEstablished() != nil {
		t.Errorf("got %v", got)
	}
	s := got["swp1"]
	if s.GetNeighbor() != "m1" || s.GetPeerGroup() != "machine" || s.GetVrfName() != "vrf2001" || s.GetAcceptedPrefixCounter() != 3 ||
		s.GetSentPrefixCounter() != 7 || !s.GetBgpTimerUpEstablished().AsTime().Equal(now.Add(-61*time.Second)) {
		t.Errorf("got %v", s)
	}
	if got, err := parseSessions([]byte("\n"), now); err != nil || len(got) != 0 {
		t.Errorf("without BGP: %v, %v", got, err)
	}
	if _, err := parseSessions([]byte("% BGP instance not found"), now); err == nil {
		t.Error("a complaint counts as an answer")
	}
}

// A neighbour's host name comes from outside.
func FuzzSessions(f *testing.F) {
	f.Add([]byte(neighbours))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseSessions(b, time.Unix(0, 0))
		if err != nil && got != nil {
			t.Error("an error with an answer")
		}
	})
}

func TestNeighbors(t *testing.T) {
	n := &Neighbors{}
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	m1 := lldp.Frame{ChassisID: "m1", PortID: "eth0", SystemName: "m1", TTL: 20 * time.Second}
	renamed := m1
	renamed.SystemName = "web"
	leaves := m1
	leaves.TTL = 0
	for i, c := range []struct {
		after time.Duration
		frame lldp.Frame
		news  bool
		name  string // of the neighbour right after
	}{
		{0, m1, true, "m1"},
		{5 * time.Second, m1, false, "m1"},
		{10 * time.Second, renamed, true, "web"},
		{31 * time.Second, renamed, true, "web"}, // was forgotten at 30
		{32 * time.Second, leaves, true, ""},
		{33 * time.Second, leaves, false, ""},
	} {
		if got := n.learn("swp1", c.frame, now.Add(c.after)); got != c.news {
			t.Errorf("frame %d: news %v", i, got)
		}
		if got := n.On("swp1", now.Add(c.after)).GetSystemName(); got != c.name {
			t.Errorf("frame %d: then %q is the neighbour", i, got)
		}
	}
	n.learn("swp2", m1, now)
	if n.On("swp2", now.Add(20*time.Second)) != nil || n.On("swp3", now) != nil {
		t.Error("a neighbour is remembered for longer than it asked, or without having been seen")
	}
}

func TestFRRVersion(t *testing.T) {
	for s, want := range map[string]FRRVersion{"8.4.4": {8, 4}, "10.1_git on x": {10, 1}, "10.0.2 (leaf01)": {10, 0}} {
		if v, err := ParseFRRVersion(s); err != nil || v != want {
			t.Errorf("%s: %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "x", "8", "-1.2"} {
		if v, err := ParseFRRVersion(s); err == nil {
			t.Errorf("%q: %v", s, v)
		}
	}
	if _, err := Render(&ingotv1.LeafConfiguration{}, FRRVersion{7, 5}); err == nil {
		t.Error("an old FRR is rendered for")
	}
}

func TestNatural(t *testing.T) {
	names := []string{"swp10", "Ethernet4", "swp2", "swp1", "Ethernet12", "lo"}
	slices.SortFunc(names, natural)
	if d := cmp.Diff([]string{"Ethernet4", "Ethernet12", "lo", "swp1", "swp2", "swp10"}, names); d != "" {
		t.Error(d)
	}
}

// daemons are FRR's sockets in a folder. Each command is answered by answer,
// in small pieces.
func daemons(t *testing.T, answer func(daemon, command string) (text string, status byte)) *Linux {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{zebra, bgpd} {
		l, err := net.Listen("unix", filepath.Join(dir, d+".vty"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		session := func(c net.Conn) {
			defer c.Close()
			for commands := bufio.NewReader(c); ; {
				command, err := commands.ReadString(0)
				if err != nil {
					return
				}
				text, status := answer(d, strings.TrimSuffix(command, "\x00"))
				b := append([]byte(text), 0, 0, 0, status)
				for len(b) > 0 {
					n := min(len(b), 7777)
					_, _ = c.Write(b[:n])
					b = b[n:]
				}
			}
		}
		go func() { // ends when the listener is closed
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go session(c) // ends with the connection
			}
		}()
	}
	return &Linux{Sockets: dir}
}

func TestAsk(t *testing.T) {
	l := daemons(t, func(_, command string) (string, byte) {
		switch command {
		case "show long":
			return strings.Repeat("line\n", 20000), 0
		case "show wrong":
			return "% Unknown command\n", 2
		}
		return "", 0
	})
	if out, err := l.ask(t.Context(), bgpd, "show long"); err != nil || len(out) != 100000 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if out, err := l.ask(t.Context(), bgpd, "show wrong"); !errors.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "Unknown command") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := l.ask(t.Context(), "staticd", "show long"); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a daemon that does not run: %v", err)
	}
}

// Every command goes to the daemon it is for. One that is refused at first is
// tried again.
func TestRoute(t *testing.T) {
	var mu sync.Mutex
	var log []string
	refusals, done := 3, false
	l := daemons(t, func(daemon, command string) (string, byte) {
		mu.Lock()
		defer mu.Unlock()
		switch command {
		case "enable", "configure terminal", " vni 7", "exit", "exit-vrf":
			return "", 0
		case "show running-config":
			if done && daemon == bgpd {
				return "router bgp 1\n bgp router-id 1.1.1.1\nexit\n", 0
			}
			if done {
				return "vrf a\n vni 7\nexit-vrf\n", 0
			}
			return "", 0
		}
		if refusals == 0 {
			log = append(log, daemon+": "+command)
			done = command == " bgp router-id 1.1.1.1"
		} else if refusals--; true {
			return "% not yet", 13
		}
		return "", 0
	})
	wanted := Files{FRR: "vrf a\n vni 7\nexit-vrf\nrouter bgp 1\n bgp router-id 1.1.1.1\nexit\n"}
	if err := l.route(t.Context(), wanted, func(d Delta) string { return d.Announce }); err != nil {
		t.Fatal(err)
	}
	want := []string{"bgpd: router bgp 1", "bgpd:  bgp router-id 1.1.1.1"}
	if d := cmp.Diff(want, log[len(log)-2:]); d != "" || !slices.Contains(log, "zebra: vrf a") || slices.Contains(log, "bgpd: vrf a") {
		t.Errorf("all commands: %q", log)
	}
	mu.Lock()
	refusals, done = 1<<30, false
	mu.Unlock()
	err := l.route(t.Context(), wanted, func(d Delta) string { return d.Announce })
	if !errors.Is(err, fault.Precondition) || !strings.Contains(err.Error(), `"router bgp 1": % not yet`) {
		t.Errorf("FRR that refuses for ever: %v", err)
	}
}

// A broken program is not an empty table.
func TestBoundWithoutNft(t *testing.T) {
	l := &Linux{Nft: "false"}
	if _, err := l.bound(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nftables that do not answer: %v", err)
	}
}

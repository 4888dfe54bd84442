//go:build lab

package leaf_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// fabric is a control plane for several leaves.
type fabric struct {
	ingotv1connect.UnimplementedLeafServiceHandler
	leaves map[string]*control

	mu    sync.Mutex
	begun []*ingotv1.BootServiceBeginRequest
}

func (f *fabric) Register(ctx context.Context, r *connect.Request[ingotv1.LeafServiceRegisterRequest]) (*connect.Response[ingotv1.LeafServiceRegisterResponse], error) {
	return f.leaves[r.Msg.GetSwitch().GetId()].Register(ctx, r)
}

func (f *fabric) Report(ctx context.Context, r *connect.Request[ingotv1.LeafServiceReportRequest]) (*connect.Response[ingotv1.LeafServiceReportResponse], error) {
	if want := "Bearer " + token(r.Msg.GetSwitch()); r.Header().Get("Authorization") != want {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("not this leaf's token"))
	}
	return f.leaves[r.Msg.GetSwitch()].Report(ctx, r)
}

func (f *fabric) Certificate(ctx context.Context, r *connect.Request[ingotv1.LeafServiceCertificateRequest]) (*connect.Response[ingotv1.LeafServiceCertificateResponse], error) {
	return f.leaves["leaf01"].Certificate(ctx, r) // one CA for all
}

func (f *fabric) Configure(ctx context.Context, r *connect.Request[ingotv1.LeafServiceConfigureRequest], s *connect.ServerStream[ingotv1.LeafServiceConfigureResponse]) error {
	for c := f.leaves[r.Msg.GetSwitch()]; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(15 * time.Second):
			if err := s.Send(&ingotv1.LeafServiceConfigureResponse{}); err != nil {
				return err
			}
		case w := <-c.wanted:
			if err := s.Send(&ingotv1.LeafServiceConfigureResponse{Configuration: w}); err != nil {
				return err
			}
		}
	}
}

// token is a leaf's token; nobody verifies it here.
func token(leaf string) string {
	claims := fmt.Sprintf(`{"sub":%q,"iat":1,"exp":4102444800}`, leaf)
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
}

// enrolment redeems the secret "one-time secret of NAME".
type enrolment struct {
	ingotv1connect.UnimplementedEnrolmentServiceHandler
}

func (enrolment) Redeem(_ context.Context, r *connect.Request[ingotv1.EnrolmentServiceRedeemRequest]) (*connect.Response[ingotv1.EnrolmentServiceRedeemResponse], error) {
	name, ok := strings.CutPrefix(r.Msg.GetSecret(), "one-time secret of ")
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("unknown secret"))
	}
	return connect.NewResponse(&ingotv1.EnrolmentServiceRedeemResponse{Token: token(name), Partition: "lab", Id: name, FarEnd: ingotv1.FarEnd_FAR_END_LEAF}), nil
}

// window begins every boot.
type window struct {
	ingotv1connect.UnimplementedBootServiceHandler
	*fabric
}

func (w window) Begin(_ context.Context, r *connect.Request[ingotv1.BootServiceBeginRequest]) (*connect.Response[ingotv1.BootServiceBeginResponse], error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = append(w.begun, r.Msg)
	return connect.NewResponse(&ingotv1.BootServiceBeginResponse{BootId: "the-boot-id"}), nil
}

// hostAddress is this machine as a guest sees it on its own network.
const hostAddress = "10.0.2.2"

// listen serves the control plane on the loopback with a certificate for
// hostAddress, and returns its port and the CA.
func (f *fabric) listen(t *testing.T) (port string, ca []byte) {
	t.Helper()
	signer := f.leaves["leaf01"]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(hostAddress)},
	}, signer.ca, &key.PublicKey, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(ingotv1connect.NewLeafServiceHandler(f))
	mux.Handle(ingotv1connect.NewEnrolmentServiceHandler(enrolment{}))
	mux.Handle(ingotv1connect.NewBootServiceHandler(window{fabric: f}))
	s := httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signer.ca.Raw})
}

// want hands a leaf a configuration and waits until it reports that it is in
// effect; it returns how long that took.
func (f *fabric) want(t *testing.T, c *ingotv1.LeafConfiguration) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case f.leaves[c.GetSwitch()].wanted <- c:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s does not ask for a configuration", c.GetSwitch())
	}
	f.report(t, c.GetSwitch(), "the configuration is in effect", func(r *ingotv1.LeafServiceReportRequest) bool {
		return r.GetGeneration().GetN() == c.GetGeneration().GetN() && r.GetError() == ""
	})
	return time.Since(began)
}

// report waits for a report, made from now on, of which something is true.
func (f *fabric) report(t *testing.T, leaf, what string, ok func(*ingotv1.LeafServiceReportRequest) bool) *ingotv1.LeafServiceReportRequest {
	t.Helper()
	c := f.leaves[leaf]
	c.mu.Lock()
	from := max(0, len(c.reports)-1)
	c.mu.Unlock()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		reports := c.reports[from:]
		c.mu.Unlock()
		for _, r := range reports {
			if ok(r) {
				return r
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s never reports: %s; last: %v", leaf, what, c.last())
		}
	}
}

func portOf(r *ingotv1.LeafServiceReportRequest, name string) *ingotv1.PortReport {
	for _, p := range r.GetPorts() {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// wiring is two leaves joined by a wire, two servers behind the first and one
// behind the second.
type wiring struct {
	*fabric
	leaf01, leaf02, s1, s2, s3 *guest
}

func build(t *testing.T) *wiring {
	t.Helper()
	w := &wiring{fabric: &fabric{leaves: map[string]*control{"leaf01": newControl(t), "leaf02": newControl(t)}}}
	port, ca := w.listen(t)
	tool, agent := program(t, "./testdata/guest"), program(t, "../cmd/ingot-leaf")
	wires := map[string]*lab.Wire{}
	for _, name := range []string{"fabric", "s1", "s2", "s3"} {
		wires[name] = lab.NewWire(name)
		t.Cleanup(func() { wires[name].Close() })
	}
	leaf := func(n int, nics ...lab.NIC) *guest {
		name := fmt.Sprintf("leaf%02d", n)
		return start(t, name, "", tool, map[string]lab.File{
			"/bin/ingot-leaf":   lab.Program(agent),
			"/etc/ingot/ca.pem": lab.Text(string(ca)),
			"/etc/ingot/secret": lab.Text("one-time secret of " + name + "\n"),
			"/etc/service/ingot-leaf": lab.Script("#!/bin/sh\nexec /bin/ingot-leaf --api-url https://" + hostAddress + ":" + port +
				" --ca-file /etc/ingot/ca.pem --enrol-secret-file /etc/ingot/secret --id " + name + " --partition lab --uplinks up1 2>&1\n"),
		}, nics...)
	}
	w.leaf01 = leaf(1, lab.NIC{MAC: "02:00:00:00:01:01", Name: "up1", Port: wires["fabric"].A()},
		lab.NIC{MAC: "02:00:00:00:01:11", Name: "swp1", Port: wires["s1"].A()}, lab.NIC{MAC: "02:00:00:00:01:12", Name: "swp2", Port: wires["s2"].A()})
	w.leaf02 = leaf(2, lab.NIC{MAC: "02:00:00:00:02:01", Name: "up1", Port: wires["fabric"].B()},
		lab.NIC{MAC: "02:00:00:00:02:11", Name: "swp1", Port: wires["s3"].A()})
	for i, s := range []**guest{&w.s1, &w.s2, &w.s3} {
		n := i + 1
		name := fmt.Sprintf("s%d", n)
		*s = start(t, name, fmt.Sprintf("/bin/ip link set eth1 up\n/bin/ip addr add 10.100.0.%d/32 dev lo\n/bin/ip addr add 10.66.0.%[1]d/32 dev lo\n", n), tool, map[string]lab.File{
			"/etc/ingot/ca.pem": lab.Text(string(ca)),
			"/etc/service/lldp": lab.Script("#!/bin/sh\nexec guest lldp eth1 " + name + "\n"),
			"/etc/frr/frr.conf": lab.Text(fmt.Sprintf(`frr defaults datacenter
router bgp 42000001%02[1]d
 bgp router-id 10.100.0.%[1]d
 no bgp default ipv4-unicast
 neighbor eth1 interface remote-as external
 address-family ipv4 unicast
  neighbor eth1 activate
  network 10.100.0.%[1]d/32
  network 10.66.0.%[1]d/32
`, n)),
		}, lab.NIC{MAC: fmt.Sprintf("02:00:00:00:10:%02d", n), Name: "eth1", Port: wires[name].B()})
	}
	return w
}

// configuration is the n-th one of a leaf.
func (w *wiring) configuration(leaf, n int, ports ...*ingotv1.LeafPort) *ingotv1.LeafConfiguration {
	c := &ingotv1.LeafConfiguration{
		Generation: &ingotv1.Generation{Epoch: 1, N: uint64(n)}, Switch: fmt.Sprintf("leaf%02d", leaf), Partition: "lab",
		Asn: 4210000000 + uint32(leaf), Loopback: fmt.Sprintf("10.255.0.%d", leaf), Uplinks: []string{"up1"},
		Boot:  &ingotv1.LeafBoot{Vrf: "vrf1000", Vni: 1000, Prefix: fmt.Sprintf("fd00:10:0:%d00::/56", leaf), Address: "fd00:b007::1", Domain: "boot.lab"},
		Ports: ports,
	}
	for _, p := range ports {
		if p.GetVrf() == "vrf2001" {
			c.Vrfs = []*ingotv1.LeafVRF{{Name: "vrf2001", Vni: 2001}}
		}
	}
	return c
}

func booting(leaf, n int) *ingotv1.LeafPort {
	return &ingotv1.LeafPort{Name: fmt.Sprintf("swp%d", n), Class: ingotv1.PortClass_PORT_CLASS_BOOT, Vrf: "vrf1000", BootPrefix: fmt.Sprintf("fd00:10:0:%d%02d::/64", leaf, n)}
}

func owned(leaf, n int, accept string) *ingotv1.LeafPort {
	p := booting(leaf, n)
	p.Class, p.Vrf, p.Accept = ingotv1.PortClass_PORT_CLASS_MACHINE, "vrf2001", []string{accept}
	return p
}

// globalAddress prints the address that a server made up for itself.
const globalAddress = `ip -6 addr show dev eth1 scope global | grep -v tentative | sed -n 's/.*inet6 \(fd00[^/]*\).*/\1/p' | grep .`

// TestLabLeaf takes two real switches through what they are for: servers boot
// behind them, one gets an owner, and is taken back.
func TestLabLeaf(t *testing.T) {
	w := build(t)
	t.Logf("leaf01 is as told after %.1f s (cold start of all guests included)", w.want(t, w.configuration(1, 1, booting(1, 1), booting(1, 2))).Seconds())
	w.want(t, w.configuration(2, 1, booting(2, 1)))
	t.Run("boot", w.boot)
	t.Run("isolation", w.isolation)
	t.Run("neighbours", w.neighbours)
	if t.Failed() {
		return
	}
	pids := w.leaf01.must(t, "pidof zebra bgpd")
	t.Run("owned", w.owned)
	t.Run("meddling", w.meddling)
	t.Run("reclaimed", w.reclaimed)
	if again := w.leaf01.must(t, "pidof zebra bgpd"); again != pids {
		t.Errorf("FRR was restarted: %s, then %s", pids, again)
	}
	t.Run("FRR dies", w.routingDies)
}

func (w *wiring) boot(t *testing.T) {
	began := time.Now()
	address := w.s1.eventually(t, globalAddress)
	t.Logf("s1 has %s after %.1f s", address, time.Since(began).Seconds())
	if !strings.HasPrefix(address, "fd00:10:0:101:") {
		t.Errorf("s1 has address %s", address)
	}
	ra := w.s1.must(t, "guest router eth1")
	want := "dnssl [boot.lab] 30m0s\nprefix fd00:10:0:101::/64 autonomous true onlink true\nrdnss [fd00:b007::1] 30m0s\nrouter 30m0s managed false other false"
	if ra != want {
		t.Errorf("the router says:\n%s\nwant:\n%s", ra, want)
	}
	w.s1.eventually(t, "guest get /etc/ingot/ca.pem 'https://[fd00:b007::1]/livez' | grep ok")
	w.s1.must(t, "guest get /etc/ingot/ca.pem 'http://[fd00:b007::1]/livez' | grep ok")
	w.s1.must(t, "nslookup -type=aaaa boot.boot.lab fd00:b007::1 | grep fd00:b007::1")
	w.s1.must(t, "guest time fd00:b007::1 | grep offset")
	w.s1.must(t, "guest begin /etc/ingot/ca.pem 'https://[fd00:b007::1]' 6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01 | grep the-boot-id")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.begun) != 1 || w.begun[0].GetSourceAddress() != address || w.begun[0].GetSwitch() != "leaf01" {
		t.Errorf("vouched for: %v", w.begun)
	}
}

// isolation: a server nobody owns reaches metal-boot and nothing else.
func (w *wiring) isolation(t *testing.T) {
	near, far := w.s2.eventually(t, globalAddress), w.s3.eventually(t, globalAddress)
	w.s2.must(t, "guest tcp any '["+near+"]:9000'") // it listens
	w.s3.must(t, "guest tcp any '["+far+"]:9000'")
	w.leaf01.eventually(t, "ip -6 route show vrf vrf1000 | grep 'fd00:10:0:200::/56.*br1000'") // the way there exists
	for name, to := range map[string]string{
		"a server of the same leaf": near, "a server of another leaf": far, "its router": "fd00:10:0:101::1", "metal-boot": "fd00:b007::1",
	} {
		t.Run(name, func(t *testing.T) {
			w.s1.fails(t, "guest tcp any '["+to+"]:9000'")
			w.s1.fails(t, "ping -6 -c 1 -W 1 "+to)
		})
	}
	linkLocal := w.leaf01.must(t, "cat /sys/class/net/swp1/address; ip -6 addr show dev swp1 scope link | sed -n 's/.*inet6 \\(fe80[^/]*\\).*/\\1/p' | tail -n 1")
	w.s1.fails(t, "guest tcp any '["+linkLocal[strings.LastIndex(linkLocal, "\n")+1:]+"%eth1]:9000'")
	w.s1.fails(t, "/bin/ip route add 10.0.0.0/8 dev eth1; ping -c 1 -W 1 10.255.0.1")

	// A foreign source address is dropped and counted.
	w.s1.must(t, "/bin/ip addr add fd00:10:0:102::66/64 dev eth1 nodad")
	w.s1.fails(t, "guest tcp fd00:10:0:102::66 '[fd00:b007::1]:443'")
	w.s1.must(t, "/bin/ip addr del fd00:10:0:102::66/64 dev eth1")
	w.leaf01.must(t, "nft list chain netdev ingot boot-swp1 | grep 'ip6 saddr !=' | grep -v 'packets 0 '")

	// What the leaf itself serves elsewhere is not in the boot VRF, and its
	// control plane is not either.
	if out, ok := w.leaf01.sh(t, "ip route get vrf vrf1000 "+hostAddress); ok {
		t.Errorf("the boot VRF has a route to the control plane: %s", out)
	}
}

func (w *wiring) neighbours(t *testing.T) {
	r := w.report(t, "leaf01", "s1 is behind swp1", func(r *ingotv1.LeafServiceReportRequest) bool {
		return portOf(r, "swp1").GetNeighbor().GetSystemName() == "s1" && portOf(r, "up1").GetNeighbor() != nil
	})
	p := portOf(r, "swp1")
	if p.GetClass() != ingotv1.PortClass_PORT_CLASS_BOOT || p.GetVrf() != "vrf1000" || p.GetStatus() != apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP || p.GetBgp() != nil {
		t.Errorf("swp1 is reported as %v", p)
	}
	up := portOf(r, "up1")
	if up.GetNeighbor().GetSystemName() != "leaf02" || up.GetNeighbor().GetPortId() != "up1" {
		t.Errorf("behind up1 is %v", up.GetNeighbor())
	}
	w.report(t, "leaf01", "the session to leaf02 is up", func(r *ingotv1.LeafServiceReportRequest) bool {
		b := portOf(r, "up1").GetBgp()
		return b.GetBgpState() == apiv2.BGPState_BGP_STATE_ESTABLISHED && b.GetPeerGroup() == "uplink" && b.GetAcceptedPrefixCounter() > 0
	})
	if _, err := w.s1.WaitSerial(t.Context(), 0, regexp.MustCompile(`lldp: .*port_id:"swp1".*system_name:"leaf01"`)); err != nil {
		t.Error(err)
	}
	if w.leaves["leaf01"].registered.GetFrrVersion() != "8.4" {
		t.Errorf("registered %v", w.leaves["leaf01"].registered)
	}
}

// owned: s1 and s3 get the same owner. They reach each other through the
// tunnel between the leaves, s2 does not notice.
func (w *wiring) owned(t *testing.T) {
	session := w.leaves["leaf01"].last()
	t.Logf("swp1 of leaf01 moved in %.1f s", w.want(t, w.configuration(1, 2, owned(1, 1, "10.100.0.1/32"), booting(1, 2))).Seconds())
	w.want(t, w.configuration(2, 2, owned(2, 1, "10.100.0.3/32")))
	r := w.report(t, "leaf01", "s1 speaks BGP", func(r *ingotv1.LeafServiceReportRequest) bool {
		return portOf(r, "swp1").GetBgp().GetBgpState() == apiv2.BGPState_BGP_STATE_ESTABLISHED
	})
	if p := portOf(r, "swp1"); p.GetVrf() != "vrf2001" || p.GetClass() != ingotv1.PortClass_PORT_CLASS_MACHINE || p.GetBgp().GetVrfName() != "vrf2001" {
		t.Errorf("swp1 is reported as %v", p)
	}
	if before, after := portOf(session, "up1").GetBgp().GetBgpTimerUpEstablished().AsTime(), portOf(r, "up1").GetBgp().GetBgpTimerUpEstablished().AsTime(); after.Sub(before).Abs() > 2*time.Second {
		t.Errorf("the session to leaf02 was interrupted: up since %v, then %v", before, after)
	}
	w.s1.must(t, "! ip -6 route show default dev eth1 | grep ra")                    // its router withdrew
	w.s1.must(t, "ip -6 addr show dev eth1 | tee /dev/stderr | grep deprecated")     // and its prefix
	w.s1.eventually(t, "ping -c 1 -W 1 -I 10.100.0.1 10.100.0.3")                    // through VXLAN, type-5 routes
	w.s1.must(t, "guest tcp 10.100.0.1 10.100.0.3:9000")                             // both ways
	w.leaf01.must(t, "ip route show vrf vrf2001 | grep '10.100.0.3.*br2001'")        // not another way
	w.leaf01.must(t, "! ip route show vrf vrf2001 | grep 10.66")                     // what s1 may not announce
	w.s1.fails(t, "ping -c 1 -W 1 -I 10.66.0.1 10.100.0.3")                          // or use
	w.s1.fails(t, "guest tcp any '[fd00:b007::1]:443'")                              // no metal-boot for tenants
	w.s2.must(t, "guest get /etc/ingot/ca.pem 'https://[fd00:b007::1]/livez'")       // s2 boots as before
	w.s2.fails(t, "ping -c 1 -W 1 10.100.0.1; guest tcp 10.100.0.2 10.100.0.1:9000") // and does not reach tenants
}

// meddling: whatever somebody changes by hand is put right within a step.
func (w *wiring) meddling(t *testing.T) {
	for what, script := range map[string]string{
		// Taken out and looked at by one process: a step that is under way may put it right before another one looks.
		"a port taken out of its VRF": "seen=$(printf 'link set swp2 nomaster\\nlink show dev swp2\\n' | /bin/ip -batch -) && echo \"$seen\" | grep swp2 && ! echo \"$seen\" | grep vrf1000",
		"the filters removed":         "nft delete table netdev ingot",
		"the instance removed":        "vtysh -c 'configure' -c 'vrf vrf2001' -c 'no vni 2001' -c 'exit' -c 'no router bgp 4210000001 vrf vrf2001'",
		"a VRF removed":               "/bin/ip link del vrf2001",
		"the agent killed":            "kill -9 $(pidof ingot-leaf)",
	} {
		t.Run(what, func(t *testing.T) {
			w.leaf01.must(t, script)
			w.leaf01.eventually(t, "ip link show swp2 | grep vrf1000 && ip link show swp1 | grep vrf2001 && nft list chain netdev ingot boot-swp2 && "+
				"vtysh -c 'show running-config' | grep 'vrf vrf2001' && vtysh -c 'show bgp vrf vrf2001 ipv4 unicast summary' | grep swp1")
		})
	}
	w.s1.eventually(t, "ping -c 1 -W 1 -I 10.100.0.1 10.100.0.3")
	w.s2.eventually(t, "guest get /etc/ingot/ca.pem 'https://[fd00:b007::1]/livez'")
}

// reclaimed: s1 loses its owner.
func (w *wiring) reclaimed(t *testing.T) {
	t.Logf("swp1 of leaf01 moved back in %.1f s", w.want(t, w.configuration(1, 3, booting(1, 1), booting(1, 2))).Seconds())
	w.s1.fails(t, "ping -c 1 -W 1 -I 10.100.0.1 10.100.0.3")
	w.s1.eventually(t, "guest get /etc/ingot/ca.pem 'https://[fd00:b007::1]/livez'")
	w.leaf01.must(t, "! ip link show vrf2001 && ! ip link show br2001 && ! ip link show vx2001")
	w.leaf01.must(t, `grep '"n": *"3"' /var/lib/ingot-leaf/configuration.json`)
}

// routingDies: FRR comes back empty, as its supervisor starts it.
func (w *wiring) routingDies(t *testing.T) {
	w.leaf01.must(t, "killall -9 zebra bgpd staticd; rm -f /run/frr/*; usleep 200000; /usr/lib/frr/zebra -d -A 127.0.0.1 -s 90000000; /usr/lib/frr/bgpd -d -A 127.0.0.1")
	w.leaf01.eventually(t, "vtysh -c 'show running-config' | grep 'ipv6 nd prefix fd00:10:0:101::/64'")
	w.leaf01.eventually(t, "ip -6 route show vrf vrf1000 | grep 'fd00:10:0:200::/56.*br1000'")
	w.s2.eventually(t, "guest get /etc/ingot/ca.pem 'https://[fd00:b007::1]/livez'")
}

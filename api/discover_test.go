package api_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// A management is a partition as its operator and its management server see
// it.
type management struct {
	*world
	site ingotv1connect.SiteServiceClient
	bmcs ingotv1connect.BMCServiceClient
}

func newManagement(t *testing.T) *management {
	t.Helper()
	w := newWorld(t)
	w.partition(partition1)
	return &management{
		w, dial(w, ingotv1connect.NewSiteServiceClient, w.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt1")),
		dial(w, ingotv1connect.NewBMCServiceClient, w.admin),
	}
}

const (
	card1, card2, card3 = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
	machine1            = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
)

// found reports that a BMC answered at its lease.
func (m *management) found(mac, address string) {
	m.t.Helper()
	_, err := m.site.Discovered(m.t.Context(), connect.NewRequest(&ingotv1.SiteServiceDiscoveredRequest{Partition: partition1, Bmcs: []*ingotv1.BMCDiscovered{{
		Mac: mac, Address: address, Vendor: "ACME", Product: "BMC 3000", Hostname: "idrac-10",
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("of " + mac + address)})),
	}}}))
	check(m.t, err)
}

// scanned reports what a scan found: cards, or an error.
func (m *management) scanned(id string, s *ingotv1.BMCStatus) {
	m.t.Helper()
	r := &ingotv1.BMCReport{Id: id, Status: s}
	if s.GetLastError() == "" {
		r.Machine = machine1
	}
	_, err := m.site.Report(m.t.Context(), connect.NewRequest(&ingotv1.SiteServiceReportRequest{Partition: partition1, Reports: []*ingotv1.BMCReport{r}}))
	check(m.t, err)
}

// create tells of a BMC with credentials.
func (m *management) create(b *ingotv1.BMC) error {
	b.Partition, b.User, b.Password = partition1, "root", "TOP-SECRET"
	_, err := m.bmcs.Create(m.t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: b}))
	return err
}

func (m *management) change(id string, edit func(*ingotv1.BMCServiceUpdateRequest)) error {
	q := &ingotv1.BMCServiceUpdateRequest{Partition: partition1, Id: id, UpdateMeta: &apiv2.UpdateMeta{
		LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER,
	}}
	edit(q)
	resp, err := m.bmcs.Update(m.t.Context(), connect.NewRequest(q))
	if resp != nil && strings.Contains(resp.Msg.String(), "TOP-SECRET") {
		m.t.Error("the password came back")
	}
	return err
}

func (m *management) get(id string) *ingotv1.BMC {
	m.t.Helper()
	resp, err := m.bmcs.Get(m.t.Context(), connect.NewRequest(&ingotv1.BMCServiceGetRequest{Partition: partition1, Id: id}))
	check(m.t, err)
	return resp.Msg.GetBmc()
}

// list returns each BMC in a line: id, card, address.
func (m *management) list() string {
	m.t.Helper()
	resp, err := m.bmcs.List(m.t.Context(), connect.NewRequest(&ingotv1.BMCServiceListRequest{}))
	check(m.t, err)
	if strings.Contains(resp.Msg.String(), "TOP-SECRET") {
		m.t.Error("a password came back")
	}
	var out []string
	for _, b := range resp.Msg.GetBmcs() {
		out = append(out, fmt.Sprintf("%s %s %s", b.GetId(), b.GetMac(), b.GetAddress()))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (m *management) has(want ...string) {
	m.t.Helper()
	if d := cmp.Diff(strings.Join(want, "\n"), m.list()); d != "" {
		m.t.Errorf("BMCs (-want +got):\n%s", d)
	}
}

// wanted returns what the site is told.
func (m *management) wanted() *ingotv1.SiteWanted {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	s, err := m.site.Wanted(ctx, connect.NewRequest(&ingotv1.SiteServiceWantedRequest{Partition: partition1}))
	check(m.t, err)
	defer s.Close()
	for s.Receive() {
		if w := s.Msg().GetWanted(); w != nil {
			return w
		}
	}
	m.t.Fatal(s.Err())
	return nil
}

// From a lease to a BMC that works: it is listed with what it lacks, gets
// credentials, is wanted, and its address follows the lease.
func TestDiscovered(t *testing.T) {
	const id = "bmc-02000000000a"
	m := newManagement(t)
	m.found("02:00:00:00:00:0A", "10.1.0.10:443")
	m.found(card1, "10.1.0.10:443")
	m.has(id + " " + card1 + " 10.1.0.10:443")
	b := m.get(id)
	const missing = "bmc " + id + ": has no credentials; compare its fingerprint, then give them with 'ingot bmc update " + id + " --partition partition-1 --user USER --password @FILE'"
	if s := b.GetStatus(); s.GetLastError() != missing || s.GetVendor() != "ACME" || s.GetModel() != "BMC 3000" || s.GetHostname() != "idrac-10" || s.GetLastSeen() == nil {
		t.Errorf("discovered %v", b)
	}
	// printf 'of 02:00:00:00:00:0A10.1.0.10:443' | sha256sum
	const digest = "A9:74:5B:42:9A:C3:53:68:F2:C0:53:DA:26:BC:E4:12:A8:05:42:18:9A:2F:84:E2:F6:0B:25:1F:18:F2:5E:36"
	if b.GetStatus().GetFingerprint() != digest {
		t.Errorf("fingerprint %q", b.GetStatus().GetFingerprint())
	}
	w := m.wanted()
	if len(w.GetBmcs()) != 0 || len(w.GetKnown()) != 1 || w.GetKnown()[0].GetMac() != card1 || w.GetKnown()[0].GetAddress() != "10.1.0.10:443" {
		t.Errorf("without credentials %v is wanted", w)
	}

	user, password := "root", "TOP-SECRET"
	check(t, m.change(id, func(q *ingotv1.BMCServiceUpdateRequest) { q.User = &user }))
	if b := m.get(id); b.GetStatus().GetLastError() != missing {
		t.Errorf("without a password: %v", b)
	}
	check(t, m.change(id, func(q *ingotv1.BMCServiceUpdateRequest) { q.Password = &password }))
	if b := m.get(id); b.GetStatus().GetLastError() != "" {
		t.Errorf("with credentials: %v", b)
	}
	w = m.wanted()
	if len(w.GetBmcs()) != 1 || w.GetBmcs()[0].GetPassword() != password || w.GetBmcs()[0].GetCa() != b.GetCa() || w.GetBmcs()[0].GetUser() != user {
		t.Errorf("with credentials %v is wanted", w)
	}
	m.scanned(id, &ingotv1.BMCStatus{LastError: "bmc 10.1.0.10: log in: refused"})
	if s := m.get(id).GetStatus(); s.GetLastError() != "bmc 10.1.0.10: log in: refused" || s.GetVendor() != "ACME" {
		t.Errorf("with a wrong password: %v", s)
	}

	m.scanned(id, &ingotv1.BMCStatus{Macs: []string{"02:00:00:00:00:0A", card2, "00:00:00:00:00:00"}, Vendor: "ACME Inc."})
	m.found(card2, "10.1.0.11:443") // another card of it
	m.found(card1, "10.1.0.12:443")
	m.has(id + " " + card1 + " 10.1.0.12:443")
	if now := m.get(id); now.GetCa() != b.GetCa() {
		t.Error("a certificate that was trusted was replaced")
	}
	w = m.wanted()
	if w.GetBmcs()[0].GetAddress() != "10.1.0.12:443" || w.GetBmcs()[0].GetMachine() != machine1 || !slices.Equal(w.GetKnown()[0].GetOthers(), []string{card2}) {
		t.Errorf("after it moved %v is wanted", w)
	}
	tl, err := dial(m.world, ingotv1connect.NewTimelineServiceClient, m.admin).GetAny(t.Context(), connect.NewRequest(&ingotv1.TimelineServiceGetAnyRequest{Uuid: machine1}))
	check(t, err)
	if e := tl.Msg.GetTimeline().GetEntries(); e[len(e)-1].GetMessage() != "its BMC's lease moved from 10.1.0.10 to 10.1.0.12" {
		t.Errorf("the timeline ends with %v", e)
	}
}

// Whatever comes first, the operator's word, a lease or a scan: a BMC is one
// record.
func TestOneRecordForABMC(t *testing.T) {
	for name, x := range map[string]struct {
		do   func(t *testing.T, m *management)
		want []string
	}{
		"told by address": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Address: "10.1.0.10:443"}))
			m.found(card1, "10.1.0.10:443")
		}, []string{"b1 " + card1 + " 10.1.0.10:443"}},
		"told by address in another spelling": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Address: "[2001:DB8:0::10]:443"}))
			m.found(card1, "[2001:db8::10]:443")
		}, []string{"b1 " + card1 + " [2001:db8::10]:443"}},
		"told with a port": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Address: "10.1.0.10:8443"}))
			m.found(card1, "10.1.0.10:443")
		}, []string{"b1 " + card1 + " 10.1.0.10:8443"}},
		"behind one host": {func(t *testing.T, m *management) {
			for _, port := range []string{"1", "2", "3"} {
				check(t, m.create(&ingotv1.BMC{Id: "b" + port, Address: "10.1.0.10:" + port}))
			}
			m.found(card1, "10.1.0.10:2")
			m.found(card2, "10.1.0.10:443")
		}, []string{"b1  10.1.0.10:1", "b2 " + card1 + " 10.1.0.10:2", "b3  10.1.0.10:3", "bmc-02000000000b " + card2 + " 10.1.0.10:443"}},
		"told by card": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Mac: strings.ToUpper(card1)}))
			const missing = "bmc b1: has no address, and no lease of " + card1 + " led to a BMC; check the lease files of the partition's management server, or give the BMC its address"
			if got := m.get("b1").GetStatus().GetLastError(); got != missing {
				t.Errorf("without an address: %s", got)
			}
			if w := m.wanted(); len(w.GetBmcs()) != 0 {
				t.Errorf("without an address %v is wanted", w)
			}
			m.found(card1, "10.1.0.10:443")
			if w := m.wanted(); len(w.GetBmcs()) != 1 || w.GetBmcs()[0].GetCa() != "" {
				t.Errorf("a certificate was trusted after the credentials were given: %v", w)
			}
		}, []string{"b1 " + card1 + " 10.1.0.10:443"}},
		"found, then scanned under its name": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Address: "b1.example:443"}))
			m.found(card2, "10.1.0.10:443")
			m.scanned("b1", &ingotv1.BMCStatus{Macs: []string{card1, card2}})
			m.found(card2, "10.1.0.10:443")
		}, []string{"b1 " + card2 + " 10.1.0.10:443"}},
		"scanned, then found": {func(t *testing.T, m *management) {
			check(t, m.create(&ingotv1.BMC{Id: "b1", Address: "b1.example:443"}))
			m.scanned("b1", &ingotv1.BMCStatus{Macs: []string{card1}})
			m.scanned("b1", &ingotv1.BMCStatus{LastError: "does not answer"})
			m.found(card1, "10.1.0.10:443")
		}, []string{"b1 " + card1 + " 10.1.0.10:443"}},
		"an address that changed hands": {func(t *testing.T, m *management) {
			m.found(card1, "10.1.0.10:443")
			m.found(card2, "10.1.0.10:443")
			m.found(card1, "10.1.0.11:443")
		}, []string{"bmc-02000000000a " + card1 + " 10.1.0.11:443", "bmc-02000000000b " + card2 + " 10.1.0.10:443"}},
		"deleted, and found again": {func(t *testing.T, m *management) {
			m.found(card1, "10.1.0.10:443")
			_, err := m.bmcs.Delete(t.Context(), connect.NewRequest(&ingotv1.BMCServiceDeleteRequest{Partition: partition1, Id: "bmc-02000000000a"}))
			check(t, err)
			m.has()
			m.found(card1, "10.1.0.10:443")
		}, []string{"bmc-02000000000a " + card1 + " 10.1.0.10:443"}},
		"told twice": {func(t *testing.T, m *management) {
			m.found(card1, "10.1.0.10:443")
			m.found(card2, "10.1.0.11:443")
			mac, address := card1, "10.1.0.10:443"
			wantCode(t, m.create(&ingotv1.BMC{Id: "b1", Mac: card1}), connect.CodeAlreadyExists,
				"bmc b1: "+card1+" is the network card of bmc bmc-02000000000a; update that one, or delete it first")
			wantCode(t, m.create(&ingotv1.BMC{Id: "b1", Address: address, Mac: card3}), connect.CodeAlreadyExists,
				"bmc b1: 10.1.0.10:443 is the address of bmc bmc-02000000000a; update that one, or delete it first")
			wantCode(t, m.change("bmc-02000000000b", func(q *ingotv1.BMCServiceUpdateRequest) { q.Mac = &mac }), connect.CodeAlreadyExists, "")
			wantCode(t, m.change("bmc-02000000000b", func(q *ingotv1.BMCServiceUpdateRequest) { q.Address = &address }), connect.CodeAlreadyExists, "")
			wantCode(t, m.create(&ingotv1.BMC{Id: "b1"}), connect.CodeInvalidArgument, "bmc b1: has neither an address nor a mac; give one of them")
		}, []string{"bmc-02000000000a " + card1 + " 10.1.0.10:443", "bmc-02000000000b " + card2 + " 10.1.0.11:443"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManagement(t)
			x.do(t, m)
			m.has(x.want...)
		})
	}
}

package api_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// TestRefused asks for tokens and uses them in every way that must fail, and
// in those that must not, one after the other.
func TestRefused(t *testing.T) {
	d := newDatacenter(t)
	d.loops()
	sw1, sw2 := d.leaf("sw1"), d.leaf("sw2")
	m1, m2, m3 := d.server("Ethernet1", sw1, sw2), d.server("Ethernet2", sw1, sw2), d.server("Ethernet3", sw1, sw2)
	s := d.newSite(map[string]string{"b1": m1.uuid, "b2": m2.uuid})
	m1.reaches("POWERING_ON")
	m2.reaches("POWERING_ON")
	check(t, m1.begin("sw1"))
	check(t, m2.begin("sw1"))

	// token asks for m1's token with a proof that is not what it should be.
	token := func(leaf string, edit func(*ingotv1.BootServiceTokenRequest)) func() error {
		return func() error {
			p := m1.proof(leaf)
			if edit != nil {
				edit(p)
			}
			return m1.identify(leaf, p)
		}
	}
	// report uses m1's token for a machine and a boot, vouched for by a leaf
	// whose token is via, from a port of a leaf.
	report := func(of *server, boot *server, via *string, leaf, port string) func() error {
		return func() error {
			_, err := m1.calling(m1.token, *via, of.source(leaf, port)).Report(t.Context(), connect.NewRequest(&ingotv1.AgentServiceReportRequest{
				Uuid: of.uuid, BootId: boot.bootID, Step: ingotv1.AgentStep_AGENT_STEP_INVENTORY, State: ingotv1.StepState_STEP_STATE_DONE,
			}))
			return err
		}
	}
	register := func(s *server) func() error {
		return func() error {
			_, err := s.agent.Register(t.Context(), connect.NewRequest(&ingotv1.AgentServiceRegisterRequest{Uuid: s.uuid, BootId: s.bootID, Inventory: s.inventory()}))
			return err
		}
	}
	const nobody = "rule port: no leaf vouches for where the machine's token is used; a machine calls through the metal-boot of its leaf"
	const cycle = "; cycle the power with 'ingot machine boot-medium'"
	m := "machine " + m1.uuid + ": "
	now := func() string { return d.clock.Now().UTC().Format(time.RFC3339) }
	site, void, none := d.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt2"), d.farEnd(ingotv1.FarEnd_FAR_END_LEAF, partition1, "sw9"), ""
	d.revoke(void)
	denied := connect.CodePermissionDenied

	for _, c := range []struct {
		name string
		do   func() error
		code connect.Code // 0: it succeeds
		text string
	}{
		// The port is the identity: m1's proof counts for nothing elsewhere.
		{"a token from another port", token("sw1", func(p *ingotv1.BootServiceTokenRequest) { p.SourceAddress = m2.source("sw1", m2.port) }), denied,
			m + "rule port: the boot began on Ethernet1 of sw1, the token is asked for through Ethernet2 of sw1"},
		{"a token from the other leaf", token("sw2", nil), denied,
			m + "rule port: the boot began on Ethernet1 of sw1, the token is asked for through Ethernet1 of sw2"},
		{"a token for another machine", token("sw1", func(p *ingotv1.BootServiceTokenRequest) { p.Uuid = m2.uuid }), denied,
			"machine " + m2.uuid + ": rule boot id: " + m1.bootID + " is not its newest boot; begin again"},
		{"a token for a key that has not signed", token("sw1", func(p *ingotv1.BootServiceTokenRequest) { p.Signature = m2.proof("sw1").GetSignature() }), denied,
			m + "rule signature: the key that is shown has not signed the boot id"},
		{"a token from an address of another leaf", token("sw1", func(p *ingotv1.BootServiceTokenRequest) { p.SourceAddress = m1.source("sw2", m1.port) }), denied,
			m + "rule port: address " + m1.source("sw2", m1.port) + ": belongs to no port of switch sw1; a leaf vouches only for its own ports"},
		{"a token through a leaf that claims to be another", func() error { return m1.identify("sw1", m1.proof("sw2")) }, denied,
			`access to:"/ingot.v1.BootService/Token" with subject:"sw2" is not allowed because it is not part of the token permissions, allowed subjects are:["sw1"]`},
		{"the token", token("sw1", nil), 0, ""},
		{"a token twice", token("sw1", nil), denied, m + "rule boot window: it was used at " + now() + cycle},

		// The token counts for this machine, this boot, and through its own ports.
		{"its port", report(m1, m1, &sw1.token, "sw1", m1.port), 0, ""},
		{"of another machine", report(m2, m1, &sw1.token, "sw1", m1.port), denied, ""},
		{"of another boot", report(m1, m2, &sw1.token, "sw1", m1.port), denied, "boot " + m2.bootID + ": the token is for boot " + m1.bootID},
		{"another port", report(m1, m1, &sw1.token, "sw1", m2.port), denied,
			m + "rule port: its token was given on Ethernet1 of sw1 and is used through Ethernet2 of sw1"},
		{"a port of the other leaf, before it is known to be its own", report(m1, m1, &sw2.token, "sw2", m1.port), denied,
			m + "rule port: its token was given on Ethernet1 of sw1 and is used through Ethernet1 of sw2"},
		{"a leaf that vouches for another's port", report(m1, m1, &sw2.token, "sw1", m1.port), denied,
			m + "rule port: address " + m1.source("sw1", m1.port) + ": belongs to no port of switch sw2; a leaf vouches only for its own ports"},
		{"without a leaf", report(m1, m1, &none, "sw1", m1.port), denied, nobody},
		{"with a site for a leaf", report(m1, m1, &site, "sw1", m1.port), denied, nobody},
		{"with itself for a leaf", report(m1, m1, &m1.token, "sw1", m1.port), denied, nobody},
		{"through a leaf that was revoked", report(m1, m1, &void, "sw1", m1.port), connect.CodeUnavailable, "the leaf is not known to the control plane"},

		// A server may use each of its own ports, once they are known.
		{"it registers", func() error { return register(m1)() }, 0, ""},
		{"its port, still", report(m1, m1, &sw1.token, "sw1", m1.port), 0, ""},
		{"its port of the other leaf", report(m1, m1, &sw2.token, "sw2", m1.port), 0, ""},
		{"the other machine's token", func() error { return m2.identify("sw1", m2.proof("sw1")) }, 0, ""},
		{"the other machine registers", func() error { return register(m2)() }, 0, ""},
		{"the other machine's port", report(m1, m1, &sw1.token, "sw1", m2.port), denied,
			m + "rule port: its token is used through Ethernet2 of sw1, which leads to machine " + m2.uuid},

		// Time ends it.
		{"in its last second", func() error {
			d.clock.Advance(4*time.Hour - time.Second)
			return report(m1, m1, &sw1.token, "sw1", m1.port)()
		}, 0, ""},
		{"after it has expired", func() error { d.clock.Advance(time.Second); return report(m1, m1, &sw1.token, "sw1", m1.port)() }, connect.CodeUnauthenticated, "token has expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(); c.code != 0 {
				wantCode(t, err, c.code, c.text)
			} else if err != nil {
				t.Error(err)
			}
		})
	}

	t.Run("outside of a boot window", func(t *testing.T) {
		s.mu.Lock()
		s.behind["b3"] = m3.uuid
		s.mu.Unlock()
		_, err := dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin).Create(t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: &ingotv1.BMC{
			Id: "b3", Partition: partition1, Address: "10.1.1.3:443", User: "root", Password: "calvin-b3",
		}}))
		check(t, err)
		m3.reaches("POWERING_ON")
		check(t, m3.begin("sw1"))
		closes := d.clock.Now().Add(15 * time.Minute).UTC().Format(time.RFC3339)
		d.clock.Advance(16 * time.Minute)
		wantCode(t, m3.identify("sw1", m3.proof("sw1")), denied, "machine "+m3.uuid+": rule boot window: it closed at "+closes+cycle)
	})
	t.Run("without an observed power off", func(t *testing.T) {
		m4 := d.server("Ethernet4", sw1, sw2)
		s.mu.Lock()
		s.blind, s.behind["b4"] = true, m4.uuid
		s.mu.Unlock()
		_, err := dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin).Create(t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: &ingotv1.BMC{
			Id: "b4", Partition: partition1, Address: "10.1.1.4:443", User: "root", Password: "calvin-b4",
		}}))
		check(t, err)
		d.until("the operation has failed", func() bool {
			o, _ := records.Operations.Peek(d.db.Snapshot(), m4.uuid)
			return o.GetOperation().GetError() != ""
		})
		check(t, m4.begin("sw1"))
		wantCode(t, m4.identify("sw1", m4.proof("sw1")), denied, "machine "+m4.uuid+": rule boot window: no power off was seen"+cycle)
		if _, tl := m4.phase(); tl.GetEntries()[len(tl.GetEntries())-1].GetStep() != "refused" {
			t.Errorf("the refusal is not told: %v", tl.GetEntries())
		}
	})
}

// TestStreamMoves ends a machine's stream once its port leads to another.
func TestStreamMoves(t *testing.T) {
	d := newDatacenter(t)
	d.loops()
	m1 := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	d.newSite(map[string]string{"b1": m1.uuid})
	m1.reaches("POWERING_ON")
	told := m1.clean("sw1")
	d.update(func(tx *store.Tx) error {
		return records.Connections.Put(tx, &privatev1.Connection{Switch: "sw1", Port: m1.port, Machine: "00000000-0000-0000-0000-0000000000ff"})
	})
	select {
	case _, open := <-told:
		for open {
			_, open = <-told
		}
	case <-time.After(20 * time.Second):
		t.Error("the stream goes on")
	}
}

// TestOnlyEnrolled calls what is a site's or a leaf's with every other token
// that has the right role.
func TestOnlyEnrolled(t *testing.T) {
	w := newWorld(t)
	w.partition("part-1")
	w.partition("part-2")
	role := apiv2.InfraRole_INFRA_ROLE_EDITOR
	infra := w.token("ingot", &apiv2.TokenServiceCreateRequest{InfraRole: &role})
	bound := w.token("ingot", &apiv2.TokenServiceCreateRequest{InfraRole: &role})
	w.edit(bound, func(t *privatev1.Token) { t.Partition = "part-1" })
	named := w.token("ingot", &apiv2.TokenServiceCreateRequest{})
	w.edit(named, func(t *privatev1.Token) {
		t.Token.Permissions = []*apiv2.MethodPermission{{Subject: "*", Methods: []string{"/ingot.v1.SiteService/Wanted"}}}
	})
	site := w.farEnd(ingotv1.FarEnd_FAR_END_SITE, "part-1", "mgmt1")
	wanted := func(token, partition string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s, err := dial(w, ingotv1connect.NewSiteServiceClient, token).Wanted(ctx, connect.NewRequest(&ingotv1.SiteServiceWantedRequest{Partition: partition}))
		if err != nil {
			return err
		}
		s.Receive()
		err = s.Err()
		cancel()
		_ = s.Close()
		return err
	}
	const wantedName = `access to:"/ingot.v1.SiteService/Wanted" `
	const only = wantedName + "is for enrolled leaves and sites; enrol it with 'ingot partition enroll'"
	for _, c := range []struct{ name, token, partition, text string }{
		{"an infra editor", infra, "part-1", only},
		{"an infra editor of the partition", bound, "part-1", only},
		{"an admin", w.admin, "part-1", only},
		{"a token that names methods", named, "part-1", only},
		{"a leaf", w.farEnd(ingotv1.FarEnd_FAR_END_LEAF, "part-1", "leaf1"), "part-1", wantedName + "is not allowed because it is not part of the token permissions"},
		{"another partition's site", site, "part-2", wantedName + `with subject:"part-2" is not allowed because it is not part of the token permissions, allowed subjects are:["part-1"]`},
	} {
		t.Run(c.name, func(t *testing.T) { wantCode(t, wanted(c.token, c.partition), connect.CodePermissionDenied, c.text) })
	}
	check(t, wanted(site, "part-1"))
	_, err := dial(w, ingotv1connect.NewBootServiceClient, infra).Begin(t.Context(), connect.NewRequest(&ingotv1.BootServiceBeginRequest{Partition: "part-1", Switch: "leaf1"}))
	wantCode(t, err, connect.CodePermissionDenied, `access to:"/ingot.v1.BootService/Begin" is for enrolled leaves and sites; enrol it with 'ingot partition enroll'`)
	can, err := dial(w, apiv2connect.NewMethodServiceClient, w.admin).TokenScopedList(t.Context(), &apiv2.MethodServiceTokenScopedListRequest{})
	check(t, err)
	for _, p := range can.GetPermissions() {
		if slices.Contains(p.GetMethods(), "/ingot.v1.SiteService/Wanted") {
			t.Error("the call is listed as allowed")
		}
	}
}

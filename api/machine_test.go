package api_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/tag"

	"github.com/ingot-cloud/ingot/network"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	machineType  = apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_MACHINE
	firewallType = apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_FIREWALL
)

// create creates a machine as p1's owner.
func (d *datacenter) create(edit ...func(*apiv2.MachineServiceCreateRequest)) (*apiv2.Machine, error) {
	resp, err := d.own.Create(d.t.Context(), d.want(edit...))
	return resp.GetMachine(), err
}

// Case 24 of the conformance list.
func TestCreate(t *testing.T) {
	d := newDatacenter(t)
	id, told := d.waiting(4, "Ethernet1", "sw1", "sw2")
	m, err := d.create()
	check(t, err)
	a := m.GetAllocation()
	net, _ := records.Networks.Peek(d.db.Snapshot(), d.net1)
	n := a.GetNetworks()[0]
	switch {
	case m.GetUuid() != id, a.GetHostname() != "metal", a.GetFilesystemLayout().GetId() != "debian", a.GetImage().GetUrl() == "":
		t.Errorf("machine %v", m)
	case !slices.Equal(n.GetIps(), []string{"12.110.0.1"}), n.GetVrf() != uint64(net.GetVrf()), n.GetAsn() < 4210000001:
		t.Errorf("network %v", n)
	case m.GetMeta().GetLabels().GetLabels()[tag.MachineNetworkPrimaryASN] != strconv.FormatUint(uint64(n.GetAsn()), 10):
		t.Errorf("labels %v, AS number %d", m.GetMeta().GetLabels(), n.GetAsn())
	case a.GetDnsServers()[0].GetIp() != "10.0.0.53":
		t.Errorf("dns servers %v", a.GetDnsServers())
	}
	if got := <-told; !proto.Equal(got, a) {
		t.Errorf("the stream yields %v, the call %v", got, a)
	}
}

// Case 25 of the conformance list.
func TestCreateChoices(t *testing.T) {
	d := newDatacenter(t)
	var ids []string
	for i := range 3 {
		id, _ := d.waiting(4, fmt.Sprintf("Ethernet%d", i), "sw1", "sw2")
		ids = append(ids, id)
	}
	m, err := d.create(func(q *apiv2.MachineServiceCreateRequest) { q.Image = "debian-13.0" })
	check(t, err)
	if id := m.GetAllocation().GetImage().GetId(); id != debian13 {
		t.Errorf("image %s", id)
	}
	d.update(func(tx *store.Tx) error {
		_, err := network.CreateIP(tx, &apiv2.IPServiceCreateRequest{Network: "internet", Project: d.p1, Ip: proto.String("1.2.3.42"), Type: apiv2.IPType_IP_TYPE_STATIC.Enum()}, uuid.NewString(), false)
		return err
	})
	m, err = d.create(func(q *apiv2.MachineServiceCreateRequest) {
		q.Networks = append(q.Networks, &apiv2.MachineAllocationNetwork{Network: "internet", Ips: []string{"1.2.3.42"}})
	})
	check(t, err)
	ip, _ := records.IPs.Peek(d.db.Snapshot(), records.IPKey("", netip.MustParseAddr("1.2.3.42")))
	if got := m.GetAllocation().GetNetworks()[1].GetIps(); !slices.Equal(got, []string{"1.2.3.42"}) || network.Machine(ip) != m.GetUuid() {
		t.Errorf("addresses %v, of machine %q", got, network.Machine(ip))
	}
	left := slices.DeleteFunc(ids, func(id string) bool { return d.get(id).GetAllocation() != nil })[0]
	resp, err := dial(d.world, apiv2connect.NewMachineServiceClient, d.admin).Create(t.Context(), d.want(func(q *apiv2.MachineServiceCreateRequest) {
		q.Uuid, q.FilesystemLayout, q.Partition, q.Size = &left, proto.String("debian"), nil, nil
	}))
	check(t, err)
	if resp.GetMachine().GetUuid() != left {
		t.Errorf("machine %s was given, %s was named", resp.GetMachine().GetUuid(), left)
	}
}

// Case 26 of the conformance list.
func TestCreateRefused(t *testing.T) {
	d := newDatacenter(t)
	locked, _ := d.waiting(4, "Ethernet1", "sw1", "sw2")
	deaf := d.found(4, "Ethernet2", "sw1", "sw2") // its stream is not open
	_, err := d.machines.SetState(t.Context(), &adminv2.MachineServiceSetStateRequest{Uuid: locked, State: apiv2.MachineState_MACHINE_STATE_LOCKED, Description: "rattles"})
	check(t, err)
	admin := dial(d.world, apiv2connect.NewMachineServiceClient, d.admin)
	type request = apiv2.MachineServiceCreateRequest
	named := func(id string) func(*request) {
		return func(q *request) { q.Uuid, q.Partition, q.Size = &id, nil, nil }
	}
	for name, c := range map[string]struct {
		client apiv2connect.MachineServiceClient
		edit   func(*request)
		code   connect.Code
		text   string
	}{
		"uuid as user":     {d.own, named(deaf), connect.CodeUnauthenticated, "only admins can create machines with a specific uuid"},
		"uuid, partition":  {admin, func(q *request) { q.Uuid, q.Size = &deaf, nil }, connect.CodeInvalidArgument, "when machine id is given, a partition must not be specified"},
		"uuid, size":       {admin, func(q *request) { q.Uuid, q.Partition = &deaf, nil }, connect.CodeInvalidArgument, "when machine id is given, a size must not be specified"},
		"locked":           {admin, named(locked), connect.CodeInvalidArgument, "machine " + locked + " is LOCKED"},
		"not waiting":      {admin, named(deaf), connect.CodeInvalidArgument, "machine " + deaf + " is not waiting"},
		"unknown image":    {d.own, func(q *request) { q.Image = "unknown-11.0" }, connect.CodeNotFound, "no image for os:unknown version:11.0.0 found"},
		"no type":          {d.own, func(q *request) { q.AllocationType = 0 }, connect.CodeInvalidArgument, "given allocationtype MACHINE_ALLOCATION_TYPE_UNSPECIFIED is not supported"},
		"firewall's image": {d.own, func(q *request) { q.Image = fwImage }, connect.CodeInvalidArgument, "given image " + fwImage + " is not allowed for machines"},
		"firewall's rules": {d.own, func(q *request) { q.FirewallSpec = &apiv2.FirewallSpec{} }, connect.CodeInvalidArgument, "firewall rules can only be specified on firewalls"},
		"no key":           {d.own, func(q *request) { q.SshPublicKeys = []string{"ssh-ed25519"} }, connect.CodeInvalidArgument, "invalid ssh public key: ssh: no key found"},
		"nothing left":     {d.own, func(*request) {}, connect.CodeResourceExhausted, "no machine candidate available"},
		"other's network": {d.own, func(q *request) { q.Networks[0].Network = d.net2 }, connect.CodeInvalidArgument,
			"given network " + d.net2 + " is project scoped but not part of project " + d.p1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.client.Create(t.Context(), d.want(c.edit))
			wantCode(t, err, c.code, c.text)
		})
	}
}

// Case 29 of the conformance list.
func TestReservationBlocks(t *testing.T) {
	d := newDatacenter(t)
	d.waiting(4, "Ethernet1", "sw1", "sw2")
	d.update(func(tx *store.Tx) error {
		return records.SizeReservations.Insert(tx, &apiv2.SizeReservation{Id: uuid.NewString(), Size: large, Project: d.p2, Partitions: []string{partition1}, Amount: 10})
	})
	_, err := d.create()
	wantCode(t, err, connect.CodeResourceExhausted, "no machine available")
}

// Case 31 of the conformance list.
func TestCreateFirewall(t *testing.T) {
	d := newDatacenter(t)
	d.waiting(2, "Ethernet1", "sw1", "sw2")
	m, err := d.create(func(q *apiv2.MachineServiceCreateRequest) {
		q.Size, q.Image, q.AllocationType = proto.String(medium), fwImage, firewallType
		q.Networks = []*apiv2.MachineAllocationNetwork{{Network: "internet"}, {Network: d.net1}}
		q.FirewallSpec = &apiv2.FirewallSpec{FirewallRules: &apiv2.FirewallRules{Egress: []*apiv2.FirewallEgressRule{{Protocol: apiv2.IPProtocol_IP_PROTOCOL_TCP, Ports: []uint32{443}, To: []string{"0.0.0.0/0"}}}}}
	})
	check(t, err)
	var got []string
	for _, n := range m.GetAllocation().GetNetworks() {
		got = append(got, fmt.Sprintf("%s vrf %d asn %d", n.GetIps()[0], n.GetVrf(), n.GetAsn()))
	}
	asn := m.GetAllocation().GetNetworks()[0].GetAsn()
	vrf := m.GetAllocation().GetNetworks()[1].GetVrf()
	want := []string{fmt.Sprintf("1.2.3.1 vrf 11 asn %d", asn), fmt.Sprintf("12.110.0.1 vrf %d asn %d", vrf, asn), fmt.Sprintf("10.253.0.1 vrf 0 asn %d", asn)}
	if !slices.Equal(got, want) || m.GetAllocation().GetFilesystemLayout().GetId() != "firewall" || len(m.GetAllocation().GetFirewallRules().GetEgress()) != 1 {
		t.Errorf("networks %q, want %q; %v", got, want, m.GetAllocation())
	}
}

// Case 33 of the conformance list, with more machines than are asked for: the
// placement must spread over the racks by itself.
func TestParallelCreate(t *testing.T) {
	d := newDatacenter(t)
	const racks, perRack, fwPerRack = 5, 12, 2
	for r := range racks {
		a, b := fmt.Sprintf("leaf%da", r), fmt.Sprintf("leaf%db", r)
		d.rack(fmt.Sprintf("rack%d", r), a, b, 16)
		for i := range perRack {
			d.waiting(4, fmt.Sprintf("Ethernet%d", i), a, b)
		}
		for i := range fwPerRack {
			d.waiting(2, fmt.Sprintf("Ethernet%d", perRack+i), a, b)
		}
	}
	const machines, firewalls = 50, 10
	var wg sync.WaitGroup
	got, errs := make([]*apiv2.Machine, machines+firewalls), make([]error, machines+firewalls)
	for i := range got {
		wg.Add(1)
		go func() {
			defer wg.Done()
			got[i], errs[i] = d.create(func(q *apiv2.MachineServiceCreateRequest) {
				if q.Name = fmt.Sprintf("machine-%d", i); i < firewalls {
					q.Size, q.Image, q.AllocationType = proto.String(medium), fwImage, firewallType
					q.Networks = append(q.Networks, &apiv2.MachineAllocationNetwork{Network: "internet"})
				}
			})
		}()
	}
	wg.Wait()
	ids, asns, ips, perRackGot := map[string]bool{}, map[uint32]bool{}, map[string]bool{}, map[string]int{}
	for i, m := range got {
		check(t, errs[i])
		ids[m.GetUuid()], asns[m.GetAllocation().GetNetworks()[0].GetAsn()] = true, true
		for _, n := range m.GetAllocation().GetNetworks() {
			if n.GetNetwork() == d.net1 {
				ips[n.GetIps()[0]] = true
			}
		}
		if i >= firewalls {
			perRackGot[m.GetRack()]++
		}
	}
	if n := machines + firewalls; len(ids) != n || len(asns) != n || len(ips) != n {
		t.Errorf("%d machines, %d AS numbers, %d addresses; want %d of each", len(ids), len(asns), len(ips), n)
	}
	for rack, n := range perRackGot {
		if n < machines/racks-1 || n > machines/racks+1 {
			t.Errorf("%d machines in %s: %v", n, rack, perRackGot)
		}
	}
}

// Case 34 of the conformance list: what fails last takes nothing.
func TestFailedCreateLeaksNothing(t *testing.T) {
	d := newDatacenter(t)
	id, _ := d.waiting(4, "Ethernet1", "sw1", "sw2")
	d.network("tiny", &adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Prefixes: []string{"9.9.9.0/30"}, Vrf: proto.Uint32(12)})
	for range 16 { // until it is full
		if err := d.db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := network.CreateIP(tx, &apiv2.IPServiceCreateRequest{Network: "tiny", Project: d.p2}, uuid.NewString(), false)
			return err
		}); err != nil {
			break
		}
	}
	count := func() string {
		r := d.db.Snapshot()
		return fmt.Sprintf("%d addresses, %d AS numbers, %d allocations, %d secrets", records.IPs.Count(r, "", ""), records.ASNs.Count(r, "", ""),
			records.Allocations.Count(r, "", ""), records.Secrets.Count(r, "", ""))
	}
	before := count()
	_, err := d.create(func(q *apiv2.MachineServiceCreateRequest) {
		q.Networks = append(q.Networks, &apiv2.MachineAllocationNetwork{Network: "tiny"})
		q.Userdata = proto.String("#!/bin/sh")
	})
	if err == nil {
		t.Fatal("an address was found in a full network")
	}
	if after := count(); after != before {
		t.Errorf("%s before, %s after", before, after)
	}
	m, err := d.create()
	check(t, err)
	if m.GetUuid() != id {
		t.Errorf("machine %s", m.GetUuid())
	}
}

// Case 36 of the conformance list.
func TestStateAndCommands(t *testing.T) {
	d := newDatacenter(t)
	id := d.found(4, "Ethernet1", "sw1", "sw2")
	set := func(state apiv2.MachineState, text string) error {
		_, err := d.machines.SetState(t.Context(), &adminv2.MachineServiceSetStateRequest{Uuid: id, State: state, Description: text})
		return err
	}
	check(t, set(apiv2.MachineState_MACHINE_STATE_LOCKED, "rattles"))
	wantCode(t, set(apiv2.MachineState_MACHINE_STATE_TAINTED, "rattles"), connect.CodeFailedPrecondition, `machine is currently "locked", must made available first`)
	check(t, set(apiv2.MachineState_MACHINE_STATE_AVAILABLE, ""))

	command := func(c apiv2.MachineBMCCommand) error {
		_, err := d.machines.BMCCommand(t.Context(), &adminv2.MachineServiceBMCCommandRequest{Uuid: id, Command: c})
		return err
	}
	const cycle = apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_CYCLE
	wantCode(t, command(cycle), connect.CodeFailedPrecondition, fmt.Sprintf("machine %q does not have bmc connections details yet", id))
	d.report(id, "10.1.1.1:623")
	wantCode(t, command(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_MACHINE_DELETED), connect.CodeInvalidArgument, "")

	got, a, b := make(chan *infrav2.WaitForBMCCommandResponse, 8), d.commands(), d.commands()
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case c := <-a:
				got <- c
			case c := <-b:
				got <- c
			case <-ended:
				return
			}
		}
	}()
	defer close(ended)
	check(t, command(cycle))
	c := <-got
	if c.GetUuid() != id || c.GetBmcCommand() != cycle || c.GetMachineBmc().GetPassword() != "calvin" || c.GetMachineBmc().GetUser() != "root" {
		t.Errorf("command %v", c)
	}
	wantCode(t, command(cycle), connect.CodeFailedPrecondition, "")
	_, err := d.bmc.BMCCommandDone(t.Context(), &infrav2.BMCCommandDoneRequest{CommandId: c.GetCommandId()})
	check(t, err)
	check(t, command(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_ON))
	if next := <-got; next.GetBmcCommand() != apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_ON || next.GetCommandId() == c.GetCommandId() {
		t.Errorf("the second command is %v: the first came to both listeners", next)
	}
	if n := len(got); n != 0 {
		t.Errorf("%d more commands", n)
	}
}

// report reports a BMC through the v2 API.
func (d *datacenter) report(id, address string) *infrav2.UpdateBMCInfoResponse {
	d.t.Helper()
	resp, err := d.bmc.UpdateBMCInfo(d.t.Context(), &infrav2.UpdateBMCInfoRequest{Partition: partition1, BmcReports: map[string]*apiv2.MachineBMCReport{id: {
		Bmc: &apiv2.MachineBMC{Address: address, Mac: "dd:dd:dd:dd:dd:dd", User: "root", Password: "calvin", Interface: "lan", PowerState: "ON"},
	}}})
	check(d.t, err)
	return resp
}

// Case 37 of the conformance list.
func TestEvents(t *testing.T) {
	d := newDatacenter(t)
	fresh := func() string {
		id := uuid.NewString()
		if resp := d.report(id, "10.1.1.1:623"); !slices.Equal(resp.GetCreatedMachines(), []string{id}) {
			t.Fatalf("created %v", resp)
		}
		return id
	}
	recent := func(id string) *apiv2.MachineRecentProvisioningEvents { return d.get(id).GetRecentProvisioningEvents() }
	const loop, failed = apiv2.MachineProvisioningEventState_MACHINE_PROVISIONING_EVENT_STATE_CRASHLOOP, apiv2.MachineProvisioningEventState_MACHINE_PROVISIONING_EVENT_STATE_FAILED_RECLAIM

	id := fresh()
	d.send(id, "PXE_BOOTING", "PXE_BOOTING", "PREPARING", "REGISTERING", "WAITING", "INSTALLING", "BOOTING_NEW_KERNEL", "PHONED_HOME", "PHONED_HOME")
	if got := recent(id).GetEvents(); len(got) != 7 || got[0].GetEvent() != ev("PHONED_HOME") {
		t.Errorf("%d events: %v", len(got), got)
	}
	id = fresh()
	d.send(id, "PXE_BOOTING", "PREPARING", "REGISTERING", "PREPARING")
	if got := recent(id); got.GetLastErrorEvent().GetMessage() != "[unexpectedly received in registering]" || got.GetState() != loop {
		t.Errorf("registering <- preparing: %v", got)
	}
	id = fresh()
	d.send(id, "PXE_BOOTING", "PREPARING", "REGISTERING", "WAITING", "INSTALLING", "CRASHED", "PXE_BOOTING")
	if got := recent(id); got.GetState() != loop {
		t.Errorf("crashed while installing: %v", got)
	}
	id = fresh()
	d.send(id, "MACHINE_RECLAIM")
	d.clock.Advance(6 * time.Minute)
	d.send(id, "PHONED_HOME")
	if got := recent(id); got.GetState() != failed {
		t.Errorf("phoned home after reclaim: %v", got)
	}
	d.send(id, "PXE_BOOTING")
	if got := recent(id); got.GetState() == failed {
		t.Errorf("booting after that: %v", got)
	}
	n := len(recent(id).GetEvents())
	d.send(id, "ALIVE")
	if got := recent(id); len(got.GetEvents()) != n {
		t.Errorf("a sign of life is stored: %v", got)
	}

	// An unknown machine creates nothing and fails nobody else's events.
	stranger := uuid.NewString()
	resp, err := d.events.Send(t.Context(), &infrav2.EventServiceSendRequest{Events: map[string]*apiv2.MachineProvisioningEvent{
		stranger: {Event: ev("PXE_BOOTING")}, id: {Event: ev("PREPARING")}, "no uuid": {},
	}})
	check(t, err)
	if resp.GetEvents() != 1 || !slices.Equal(resp.GetFailed(), []string{stranger, "no uuid"}) && !slices.Equal(resp.GetFailed(), []string{"no uuid", stranger}) {
		t.Errorf("%v", resp)
	}
	_, err = d.machines.Get(t.Context(), &adminv2.MachineServiceGetRequest{Uuid: stranger})
	wantCode(t, err, connect.CodeNotFound, "machine "+stranger+": not found")
}

// TestConcurrentEvents sends many events of one machine at once: none is lost,
// and the newest are kept.
func TestConcurrentEvents(t *testing.T) {
	d := newDatacenter(t)
	id := d.found(4, "Ethernet1", "sw1", "sw2")
	var wg sync.WaitGroup
	for range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			resp, err := d.events.Send(t.Context(), &infrav2.EventServiceSendRequest{Events: map[string]*apiv2.MachineProvisioningEvent{id: {Event: ev("PLANNED_REBOOT")}}})
			if err != nil || resp.GetEvents() != 1 {
				t.Errorf("%v, %v", resp, err)
			}
		}()
	}
	wg.Wait()
	if got := d.get(id).GetRecentProvisioningEvents().GetEvents(); len(got) != 20 {
		t.Errorf("%d events", len(got))
	}
}

// TestProjectsAreApart checks that a project sees nothing of another's machine.
func TestProjectsAreApart(t *testing.T) {
	d := newDatacenter(t)
	id, _ := d.waiting(4, "Ethernet1", "sw1", "sw2")
	d.report(id, "10.1.1.1:623")
	_, err := d.create()
	check(t, err)
	stranger := dial(d.world, apiv2connect.NewMachineServiceClient, d.member(d.p2, owner))
	missing := "machine " + id + ": not found"
	for name, call := range map[string]func(c apiv2connect.MachineServiceClient, project string) error{
		"Get": func(c apiv2connect.MachineServiceClient, p string) error {
			_, err := c.Get(t.Context(), &apiv2.MachineServiceGetRequest{Uuid: id, Project: p})
			return err
		},
		"GetBMC": func(c apiv2connect.MachineServiceClient, p string) error {
			resp, err := c.GetBMC(t.Context(), &apiv2.MachineServiceGetBMCRequest{Uuid: id, Project: p})
			if err == nil && resp.GetBmc().GetBmc().GetPassword() != "calvin" {
				return fmt.Errorf("report %v", resp)
			}
			return err
		},
		"Update": func(c apiv2connect.MachineServiceClient, p string) error {
			_, err := c.Update(t.Context(), &apiv2.MachineServiceUpdateRequest{Uuid: id, Project: p, UpdateMeta: &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER}})
			return err
		},
		"BMCCommand": func(c apiv2connect.MachineServiceClient, p string) error {
			_, err := c.BMCCommand(t.Context(), &apiv2.MachineServiceBMCCommandRequest{Uuid: id, Project: p, Command: apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_ON})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, call(stranger, d.p2), connect.CodeNotFound, missing)
			wantCode(t, call(stranger, d.p1), connect.CodePermissionDenied, "")
			check(t, call(d.own, d.p1))
		})
	}
	_, err = stranger.Delete(t.Context(), &apiv2.MachineServiceDeleteRequest{Uuid: id, Project: d.p2})
	wantCode(t, err, connect.CodeNotFound, missing)
	if list, err := stranger.List(t.Context(), &apiv2.MachineServiceListRequest{Project: d.p2}); err != nil || len(list.GetMachines()) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
}

// TestUpdate changes what may be changed of an allocation.
func TestUpdate(t *testing.T) {
	d := newDatacenter(t)
	d.waiting(4, "Ethernet1", "sw1", "sw2")
	m, err := d.create()
	check(t, err)
	key := publicKey(t)
	update := func(description string, at *apiv2.UpdateMeta, keys ...string) (*apiv2.Machine, error) {
		resp, err := d.own.Update(t.Context(), &apiv2.MachineServiceUpdateRequest{
			Uuid: m.GetUuid(), Project: d.p1, UpdateMeta: at, Description: &description, SshPublicKeys: keys,
			Labels: &apiv2.UpdateLabels{Strategy: &apiv2.UpdateLabels_Replace{Replace: &apiv2.Labels{Labels: map[string]string{"env": "prod"}}}},
		})
		return resp.GetMachine(), err
	}
	seen := &apiv2.UpdateMeta{UpdatedAt: m.GetMeta().GetUpdatedAt()}
	_, err = update("web", seen, "not a key")
	wantCode(t, err, connect.CodeInvalidArgument, "")
	d.clock.Advance(time.Second)
	now, err := update("web", seen, key)
	check(t, err)
	if a := now.GetAllocation(); a.GetDescription() != "web" || !slices.Equal(a.GetSshPublicKeys(), []string{key}) || now.GetMeta().GetLabels().GetLabels()["env"] != "prod" || now.GetMeta().GetGeneration() != 1 {
		t.Errorf("updated to %v", now)
	}
	_, err = update("mail", seen)
	wantCode(t, err, connect.CodeAborted, "cannot update machine ("+m.GetUuid()+"): the entity was already modified, please retry")
	// Events of the machine do not get in the way of who changes its allocation.
	d.send(m.GetUuid(), "INSTALLING")
	_, err = update("mail", &apiv2.UpdateMeta{UpdatedAt: now.GetMeta().GetUpdatedAt()})
	check(t, err)
	_, err = update("dns", &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER})
	check(t, err)
}

func publicKey(t *testing.T) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	key, err := ssh.NewPublicKey(pub)
	check(t, err)
	return string(ssh.MarshalAuthorizedKey(key)[:len(ssh.MarshalAuthorizedKey(key))-1])
}

// TestMachineQueries filters machines by everything a query can ask for.
func TestMachineQueries(t *testing.T) {
	d := newDatacenter(t)
	free := d.found(2, "Ethernet2", "sw1", "sw2")
	d.waiting(4, "Ethernet1", "sw1", "sw2")
	m, err := d.create(func(q *apiv2.MachineServiceCreateRequest) {
		q.Labels = &apiv2.Labels{Labels: map[string]string{"env": "prod"}}
	})
	check(t, err)
	d.report(m.GetUuid(), "10.1.1.7:623")
	a := m.GetAllocation()
	for name, c := range map[string]struct {
		q    *apiv2.MachineQuery
		want int // 1 the allocated machine, 2 the free one, 3 both, 0 none
	}{
		"nothing":           {&apiv2.MachineQuery{}, 3},
		"uuid":              {&apiv2.MachineQuery{Uuid: &m.Uuid}, 1},
		"name":              {&apiv2.MachineQuery{Name: proto.String("www")}, 1},
		"partition":         {&apiv2.MachineQuery{Partition: proto.String("elsewhere")}, 0},
		"size":              {&apiv2.MachineQuery{Size: proto.String(medium)}, 2},
		"rack":              {&apiv2.MachineQuery{Rack: proto.String("r01")}, 3},
		"labels":            {&apiv2.MachineQuery{Labels: &apiv2.Labels{Labels: map[string]string{"env": "prod"}}}, 1},
		"allocation":        {&apiv2.MachineQuery{Allocation: &apiv2.MachineAllocationQuery{Project: &d.p1, Image: proto.String(debian12), FilesystemLayout: proto.String("debian")}}, 1},
		"other allocation":  {&apiv2.MachineQuery{Allocation: &apiv2.MachineAllocationQuery{Project: &d.p2}}, 0},
		"network":           {&apiv2.MachineQuery{Network: &apiv2.MachineNetworkQuery{Networks: []string{d.net1}, Ips: a.GetNetworks()[0].GetIps(), Asns: []uint32{a.GetNetworks()[0].GetAsn()}}}, 1},
		"nic":               {&apiv2.MachineQuery{Nic: &apiv2.MachineNicQuery{NeighborNames: []string{"Ethernet2"}}}, 2},
		"disk":              {&apiv2.MachineQuery{Disk: &apiv2.MachineDiskQuery{Names: []string{"/dev/sda"}, Sizes: []uint64{1 << 31}}}, 3},
		"bmc":               {&apiv2.MachineQuery{Bmc: &apiv2.MachineBMCQuery{Address: proto.String("10.1.1.7")}}, 1},
		"hardware":          {&apiv2.MachineQuery{Hardware: &apiv2.MachineHardwareQuery{CpuCores: proto.Uint32(2)}}, 2},
		"state":             {&apiv2.MachineQuery{State: apiv2.MachineState_MACHINE_STATE_AVAILABLE.Enum()}, 3},
		"waiting":           {&apiv2.MachineQuery{Waiting: proto.Bool(true)}, 1},
		"preallocated":      {&apiv2.MachineQuery{Preallocated: proto.Bool(true)}, 0},
		"not allocated":     {&apiv2.MachineQuery{NotAllocated: proto.Bool(true)}, 2},
		"and":               {&apiv2.MachineQuery{Rack: proto.String("r01"), Size: proto.String(large)}, 1},
		"fru of no machine": {&apiv2.MachineQuery{Fru: &apiv2.MachineFRUQuery{BoardSerial: proto.String("x")}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := d.machines.List(t.Context(), &adminv2.MachineServiceListRequest{Query: c.q})
			check(t, err)
			got := 0
			for _, found := range list.GetMachines() {
				got |= map[string]int{m.GetUuid(): 1, free: 2}[found.GetUuid()]
			}
			if got != c.want {
				t.Errorf("%v finds %d, want %d", c.q, got, c.want)
			}
			own, err := d.own.List(t.Context(), &apiv2.MachineServiceListRequest{Project: d.p1, Query: c.q})
			check(t, err)
			if len(own.GetMachines()) != c.want&1 {
				t.Errorf("in the project, %v finds %d machines", c.q, len(own.GetMachines()))
			}
		})
	}
}

// TestIssues produces issues and makes them disappear.
func TestIssues(t *testing.T) {
	d := newDatacenter(t)
	id := uuid.NewString()
	d.report(id, "10.1.1.1:623")
	issues := func(q *apiv2.MachineIssuesQuery) []string {
		resp, err := d.machines.Issues(t.Context(), &adminv2.MachineServiceIssuesRequest{Query: q})
		check(t, err)
		var out []string
		for _, m := range resp.GetIssues() {
			for _, i := range m.GetIssues() {
				if m.GetUuid() == id {
					out = append(out, i.GetType().String()[len("MACHINE_ISSUE_TYPE_"):])
				}
			}
		}
		return out
	}
	want := func(name string, q *apiv2.MachineIssuesQuery, want ...string) {
		t.Helper()
		if got := issues(q); !slices.Equal(got, want) {
			t.Errorf("%s: issues %v, want %v", name, got, want)
		}
	}
	want("found by its BMC", nil, "LIVELINESS_NOT_AVAILABLE")
	d.send(id, "PXE_BOOTING")
	want("alive", nil)
	d.send(id, "CRASHED")
	want("crashed", nil, "CRASH_LOOP", "LAST_EVENT_ERROR")
	want("only", &apiv2.MachineIssuesQuery{Only: []apiv2.MachineIssueType{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_CRASH_LOOP}}, "CRASH_LOOP")
	want("omit beats only", &apiv2.MachineIssuesQuery{
		Only: []apiv2.MachineIssueType{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_CRASH_LOOP}, Omit: []apiv2.MachineIssueType{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_CRASH_LOOP},
	})
	want("severity", &apiv2.MachineIssuesQuery{Severity: apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_MAJOR.Enum()}, "CRASH_LOOP")
	d.clock.Advance(21 * time.Minute)
	want("BMC silent", nil, "CRASH_LOOP", "LAST_EVENT_ERROR", "BMC_INFO_OUTDATED")
	other := uuid.NewString()
	d.report(other, "10.1.1.1:623")
	want("one of two", &apiv2.MachineIssuesQuery{MachineQuery: &apiv2.MachineQuery{Uuid: &id}}, "CRASH_LOOP", "LAST_EVENT_ERROR", "BMC_INFO_OUTDATED", "BMC_NON_DISTINCT_IP")
	_, err := d.machines.Delete(t.Context(), &adminv2.MachineServiceDeleteRequest{Uuid: other})
	check(t, err)
	d.report(id, "10.1.1.1:623")
	d.send(id, "PLANNED_REBOOT")
	want("rebooted", nil, "LAST_EVENT_ERROR")
	d.clock.Advance(8 * 24 * time.Hour)
	d.report(id, "10.1.1.1:623")
	want("after a week", nil)
}

// TestForget deletes machines from the inventory.
func TestForget(t *testing.T) {
	d := newDatacenter(t)
	id, _ := d.waiting(4, "Ethernet1", "sw1", "sw2")
	forget := func() error {
		_, err := d.machines.Delete(t.Context(), &adminv2.MachineServiceDeleteRequest{Uuid: id})
		return err
	}
	wantCode(t, forget(), connect.CodeFailedPrecondition, "machine "+id+": is alive; power it off, and wait until it counts as dead")
	_, err := d.create()
	check(t, err)
	wantCode(t, forget(), connect.CodeFailedPrecondition, "machine "+id+": is allocated; delete the allocation first")
}

// commands streams the BMC commands of the partition until the test ends.
func (d *datacenter) commands() <-chan *infrav2.WaitForBMCCommandResponse {
	d.t.Helper()
	got := make(chan *infrav2.WaitForBMCCommandResponse, 8)
	ctx, cancel := context.WithCancel(d.t.Context())
	stream, err := d.bmc.WaitForBMCCommand(ctx, &infrav2.WaitForBMCCommandRequest{Partition: partition1})
	check(d.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			got <- stream.Msg()
		}
	}()
	d.t.Cleanup(func() { cancel(); <-ended; stream.Close() })
	return got
}

// TestLifeOverV2 installs and deletes a machine whose boot image and BMC agent
// speak the v2 API.
func TestLifeOverV2(t *testing.T) {
	d := newDatacenter(t)
	d.rack("pxe", "edge1", "edge2", 2) // switches that report nothing
	d.update(func(tx *store.Tx) error {
		for _, id := range []string{"edge1", "edge2"} {
			if _, err := records.Leaves.Delete(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	d.loops()
	commands := d.commands()
	id, told := d.waiting(4, "Ethernet1", "edge1", "edge2")
	d.report(id, "10.1.1.1:623")
	m, err := d.create()
	check(t, err)
	if got := <-told; got.GetUuid() != m.GetAllocation().GetUuid() {
		t.Errorf("told %v", got)
	}
	obey := func(want apiv2.MachineBMCCommand) {
		t.Helper()
		c := <-commands
		if c.GetUuid() != id || c.GetBmcCommand() != want {
			t.Errorf("command %v, want %s", c, want)
		}
		_, err := d.bmc.BMCCommandDone(t.Context(), &infrav2.BMCCommandDoneRequest{CommandId: c.GetCommandId()})
		check(t, err)
	}
	d.send(id, "INSTALLING")
	_, err = d.boot.InstallationSucceeded(t.Context(), &infrav2.BootServiceInstallationSucceededRequest{Uuid: id, ConsolePassword: "console"})
	check(t, err)
	obey(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_MACHINE_CREATED)
	d.send(id, "BOOTING_NEW_KERNEL", "PHONED_HOME")
	if e := d.get(id).GetRecentProvisioningEvents(); e.GetLastErrorEvent() != nil || e.GetEvents()[0].GetEvent() != ev("PHONED_HOME") {
		t.Errorf("events %v", e)
	}
	_, err = d.own.Delete(t.Context(), &apiv2.MachineServiceDeleteRequest{Uuid: id, Project: d.p1})
	check(t, err)
	obey(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_OFF)
	obey(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_MACHINE_DELETED)
	d.until("the address is free", func() bool { return records.IPs.Count(d.db.Snapshot(), "machine", id) == 0 })
	_, err = d.boot.Dhcp(t.Context(), &infrav2.BootServiceDhcpRequest{Uuid: id, Partition: partition1})
	check(t, err)
	d.send(id, "PREPARING", "REGISTERING", "WAITING")
	if m := d.get(id); m.GetAllocation() != nil || m.GetRecentProvisioningEvents().GetLastErrorEvent() != nil {
		t.Errorf("in the end: %v", m)
	}
}

// TestSuperUserPassword: no password is shared by all BMCs.
func TestSuperUserPassword(t *testing.T) {
	d := newDatacenter(t)
	id := d.found(4, "Ethernet1", "sw1", "sw2")
	resp, err := d.boot.SuperUserPassword(t.Context(), &infrav2.BootServiceSuperUserPasswordRequest{Uuid: id})
	check(t, err)
	if !resp.GetFeatureDisabled() || resp.GetSuperUserPassword() != "" {
		t.Errorf("%v", resp)
	}
	boot, err := d.boot.Boot(t.Context(), &infrav2.BootServiceBootRequest{Mac: "aa:bb:cc:dd:ee:ff", Partition: partition1})
	check(t, err)
	if boot.GetKernel() != "https://boot.example/kernel" || !slices.Equal(boot.GetInitRamDisks(), []string{"https://boot.example/initrd"}) || boot.GetCmdline() != "quiet" {
		t.Errorf("%v", boot)
	}
}

// TestWatchMachine sees a machine enter a project, change there, and leave it.
func TestWatchMachine(t *testing.T) {
	d := newDatacenter(t)
	id, _ := d.waiting(4, "Ethernet1", "sw1", "sw2")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := dial(d.world, ingotv1connect.NewWatchServiceClient, d.member(d.p1, viewer)).Project(ctx, connect.NewRequest(&ingotv1.WatchServiceProjectRequest{
		Project: d.p1, Types: []string{"metalstack.api.v2.Machine"},
	}))
	check(t, err)
	defer stream.Close()
	next := func(what string, is func(*apiv2.Machine) bool) {
		t.Helper()
		for stream.Receive() {
			for _, r := range stream.Msg().GetChange().GetResources() {
				var m *apiv2.Machine
				if r.GetResource() != nil {
					m = &apiv2.Machine{}
					check(t, r.GetResource().UnmarshalTo(m))
				}
				if r.GetId() != id {
					t.Errorf("%s of another project is shown", r.GetId())
				}
				if is(m) {
					return
				}
			}
		}
		t.Fatalf("%s: not seen: %v", what, stream.Err())
	}
	_, err = d.create()
	check(t, err)
	next("created", func(m *apiv2.Machine) bool { return m.GetAllocation().GetName() == "www" })
	d.send(id, "INSTALLING")
	next("installing", func(m *apiv2.Machine) bool {
		e := m.GetRecentProvisioningEvents().GetEvents()
		return len(e) > 0 && e[0].GetEvent() == ev("INSTALLING")
	})
	_, err = d.own.Delete(t.Context(), &apiv2.MachineServiceDeleteRequest{Uuid: id, Project: d.p1})
	check(t, err)
	next("deleted", func(m *apiv2.Machine) bool { return m == nil })
}

package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func testSwitch(id string) *apiv2.Switch {
	nic := func(name, identifier string) *apiv2.SwitchNic {
		return &apiv2.SwitchNic{Name: name, Identifier: identifier, Mac: "00:00:00:00:00:01"}
	}
	return &apiv2.Switch{
		Id: id, Partition: "partition-1", Rack: proto.String("r01"), ManagementIp: "10.1.1.1", ReplaceMode: apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_OPERATIONAL,
		Os:   &apiv2.SwitchOS{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC, Version: "4.1", MetalCoreVersion: "v1"},
		Nics: []*apiv2.SwitchNic{nic("Ethernet0", "Eth1/1"), nic("Ethernet1", "Eth1/2")},
	}
}

func connectMachine(w *world, switchID, port, machine string) {
	w.t.Helper()
	w.store(func(tx *store.Tx) error {
		return records.Connections.Insert(tx, &privatev1.Connection{Switch: switchID, Port: port, Machine: machine})
	})
}

const machineID = "00000000-0000-0000-0000-00000000000a"

func TestSwitches(t *testing.T) {
	w := newNetWorld(t)
	ctx := t.Context()
	infra := dial(w.world, infrav2connect.NewSwitchServiceClient, w.world.admin)
	admin := dial(w.world, adminv2connect.NewSwitchServiceClient, w.world.admin)
	for _, id := range []string{"sw1", "sw2"} {
		resp, err := infra.Register(ctx, &infrav2.SwitchServiceRegisterRequest{Switch: testSwitch(id)})
		check(t, err)
		if len(resp.GetSwitch().GetNics()) != 2 || resp.GetSwitch().GetMeta().GetGeneration() != 0 {
			t.Errorf("registered: %v", resp)
		}
		connectMachine(w.world, id, "Ethernet1", machineID)
	}
	beat, err := infra.Heartbeat(ctx, &infrav2.SwitchServiceHeartbeatRequest{
		Id: "sw1", Duration: durationpb.New(time.Second),
		PortStates: map[string]apiv2.SwitchPortStatus{"Ethernet0": apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP, "Ethernet1": apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP},
		BgpPortStates: map[string]*apiv2.SwitchBGPPortState{"Ethernet1": {
			Neighbor: "m1", PeerGroup: "MACHINE", VrfName: "vrf46", BgpState: apiv2.BGPState_BGP_STATE_ESTABLISHED,
		}},
	})
	check(t, err)
	if beat.GetLastSync().GetDuration().AsDuration() != time.Second || beat.GetLastSyncError() != nil {
		t.Errorf("heartbeat: %v", beat)
	}
	_, err = infra.Heartbeat(ctx, &infrav2.SwitchServiceHeartbeatRequest{Id: "sw1", PortStates: map[string]apiv2.SwitchPortStatus{"Ethernet0": apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP}})
	wantCode(t, err, connect.CodeInvalidArgument, "")
	got, err := infra.Get(ctx, &infrav2.SwitchServiceGetRequest{Id: "sw1"})
	check(t, err)
	sw := got.GetSwitch()
	if n := sw.GetNics()[1]; n.GetState().GetActual() != apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP || n.GetBgpPortState().GetBgpState() != apiv2.BGPState_BGP_STATE_ESTABLISHED {
		t.Errorf("port: %v", n)
	}
	if c := sw.GetMachineConnections(); len(c) != 1 || c[0].GetMachineId() != machineID || c[0].GetNic().GetName() != "Ethernet1" {
		t.Errorf("connections: %v", c)
	}
	list, err := admin.List(ctx, &adminv2.SwitchServiceListRequest{Query: &apiv2.SwitchQuery{
		Rack: proto.String("r01"), Os: &apiv2.SwitchOSQuery{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC.Enum()}, ConnectedMachineId: proto.String(machineID),
	}})
	check(t, err)
	if len(list.GetSwitches()) != 2 {
		t.Errorf("list: %v", list)
	}

	w.store(func(tx *store.Tx) error {
		return records.Machines.Insert(tx, &privatev1.Machine{Uuid: machineID, Partition: "partition-1"})
	})
	for _, c := range []struct {
		query *apiv2.MachineQuery
		want  int // switches
		ports int // with the machine
	}{
		{&apiv2.MachineQuery{}, 2, 2},
		{&apiv2.MachineQuery{Uuid: proto.String(machineID)}, 2, 2},
		{&apiv2.MachineQuery{Partition: proto.String("partition-2")}, 2, 0},
		{&apiv2.MachineQuery{Uuid: proto.String("00000000-0000-0000-0000-00000000000b")}, 0, 0},
	} {
		cm, err := admin.ConnectedMachines(ctx, &adminv2.SwitchServiceConnectedMachinesRequest{MachineQuery: c.query})
		check(t, err)
		ports := 0
		for _, sm := range cm.GetSwitchesWithMachines() {
			for _, p := range sm.GetConnections() {
				if p.GetMachine().GetUuid() == machineID && p.GetNic().GetName() == "Ethernet1" {
					ports++
				}
			}
		}
		if len(cm.GetSwitchesWithMachines()) != c.want || ports != c.ports {
			t.Errorf("connected machines by %v: %v", c.query, cm)
		}
	}

	port, err := admin.Port(ctx, &adminv2.SwitchServicePortRequest{Id: "sw1", NicName: "Ethernet0", Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN})
	check(t, err)
	if s := port.GetSwitch().GetNics()[0].GetState(); s.GetDesired() != apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN {
		t.Errorf("port state: %v", s)
	}
	_, err = admin.Port(ctx, &adminv2.SwitchServicePortRequest{Id: "sw1", NicName: "Ethernet9", Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN})
	wantCode(t, err, connect.CodeInvalidArgument, "port Ethernet9 does not exist on switch sw1")

	_, err = admin.Update(ctx, &adminv2.SwitchServiceUpdateRequest{Id: "sw1", UpdateMeta: &apiv2.UpdateMeta{}, Description: proto.String("left")})
	wantCode(t, err, connect.CodeAborted, "cannot update switch (sw1): the entity was already modified, please retry")
	server := &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER}
	_, err = admin.Update(ctx, &adminv2.SwitchServiceUpdateRequest{Id: "sw1", UpdateMeta: server, Os: &apiv2.SwitchOS{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_CUMULUS, Version: "5.0", MetalCoreVersion: "v1"}})
	wantCode(t, err, connect.CodeInvalidArgument, "cannot update switch os vendor from SONiC to Cumulus, use replace instead")
	up, err := admin.Update(ctx, &adminv2.SwitchServiceUpdateRequest{Id: "sw1", UpdateMeta: server, Description: proto.String("left")})
	check(t, err)
	if up.GetSwitch().GetDescription() != "left" {
		t.Errorf("updated: %v", up)
	}

	_, err = admin.Delete(ctx, &adminv2.SwitchServiceDeleteRequest{Id: "sw1"})
	wantCode(t, err, connect.CodeFailedPrecondition, "cannot delete switch sw1 while it still has machines connected to it")
	three := testSwitch("sw3")
	_, err = infra.Register(ctx, &infrav2.SwitchServiceRegisterRequest{Switch: three})
	check(t, err)
	moved, err := admin.Migrate(ctx, &adminv2.SwitchServiceMigrateRequest{OldSwitch: "sw1", NewSwitch: "sw3"})
	check(t, err)
	if c := moved.GetSwitch().GetMachineConnections(); len(c) != 1 {
		t.Errorf("migrated: %v", moved)
	}
	_, err = admin.Delete(ctx, &adminv2.SwitchServiceDeleteRequest{Id: "sw1"})
	check(t, err)
	_, err = admin.Delete(ctx, &adminv2.SwitchServiceDeleteRequest{Id: "sw3", Force: true})
	check(t, err)
	_, err = admin.Get(ctx, &adminv2.SwitchServiceGetRequest{Id: "sw3"})
	wantCode(t, err, connect.CodeNotFound, "switch sw3: not found")
}

// leafWorld is a netWorld with a fabric in partition-1 and a leaf.
type leafWorld struct {
	*netWorld
	leaf  ingotv1connect.LeafServiceClient // as leaf1
	token string
}

func newLeafWorld(t *testing.T) *leafWorld {
	t.Helper()
	w := &leafWorld{netWorld: newNetWorld(t)}
	_, err := dial(w.world, ingotv1connect.NewFabricServiceClient, w.world.admin).Put(t.Context(), connect.NewRequest(&ingotv1.FabricServicePutRequest{Fabric: testFabric()}))
	check(t, err)
	w.token = w.farEnd(ingotv1.FarEnd_FAR_END_LEAF, "partition-1", "leaf1")
	w.leaf = dial(w.world, ingotv1connect.NewLeafServiceClient, w.token)
	return w
}

func testFabric() *ingotv1.Fabric {
	return &ingotv1.Fabric{
		Partition: "partition-1", BootSupernet: "fd00:b::/48", BootVni: 1000, BootAddress: "fd00:b::1", Loopbacks: "10.255.0.0/24",
		FirstAsn: 4200000001, AsnCount: 16, BootMedium: ingotv1.BootMedium_BOOT_MEDIUM_UKI, BootDomain: "boot.lab",
	}
}

// count does what the loop does.
func (w *leafWorld) count(id string) {
	w.t.Helper()
	w.store(func(tx *store.Tx) error { _, err := network.NextGeneration(tx, id); return err })
}

func TestFabrics(t *testing.T) {
	w := newLeafWorld(t)
	ctx := t.Context()
	c := dial(w.world, ingotv1connect.NewFabricServiceClient, w.world.admin)
	got, err := c.Get(ctx, connect.NewRequest(&ingotv1.FabricServiceGetRequest{Partition: "partition-1"}))
	check(t, err)
	if f := got.Msg.GetFabric(); f.GetBootSupernet() != "fd00:b::/48" || f.GetMeta().GetGeneration() != 0 {
		t.Errorf("fabric: %v", f)
	}
	other := testFabric()
	other.Partition, other.BootVni = "partition-2", 1001
	_, err = c.Put(ctx, connect.NewRequest(&ingotv1.FabricServicePutRequest{Fabric: other}))
	wantCode(t, err, connect.CodeAlreadyExists, "fabric of partition partition-2: fd00:b::/48 overlaps fd00:b::/48 of partition partition-1; choose another range")
	_, err = c.Get(ctx, connect.NewRequest(&ingotv1.FabricServiceGetRequest{Partition: "partition-2"}))
	wantCode(t, err, connect.CodeNotFound, "fabric of partition partition-2: not found")
	stick := testFabric()
	stick.BootMedium = ingotv1.BootMedium_BOOT_MEDIUM_STICK
	_, err = c.Put(ctx, connect.NewRequest(&ingotv1.FabricServicePutRequest{Fabric: stick}))
	wantCode(t, err, connect.CodeInvalidArgument, "fabric of partition partition-1: its boot_medium cannot be a stick, which somebody has to put into each server; choose uki or ipxe, and stick for single servers with 'ingot bmc update'")
	_, err = w.create(&adminv2.NetworkServiceCreateRequest{Id: proto.String("boot"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Vrf: proto.Uint32(12), Prefixes: []string{"fd00:b:0:7::/64"}})
	wantCode(t, err, connect.CodeAlreadyExists, "fd00:b:0:7::/64 overlaps fd00:b::/48")
}

func TestLeaf(t *testing.T) {
	w := newLeafWorld(t)
	ctx := t.Context()
	_, err := w.leaf.Report(ctx, connect.NewRequest(&ingotv1.LeafServiceReportRequest{Switch: "leaf1", Partition: "partition-1"}))
	wantCode(t, err, connect.CodeNotFound, "leaf leaf1: not found")
	reg, err := w.leaf.Register(ctx, connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{Switch: testSwitch("leaf1"), Uplinks: []string{"Ethernet0"}, FrrVersion: "8.4"}))
	check(t, err)
	if reg.Msg.GetSwitch().GetId() != "leaf1" {
		t.Errorf("registered: %v", reg.Msg)
	}
	_, err = w.leaf.Register(ctx, connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{Switch: testSwitch("leaf2")}))
	wantCode(t, err, connect.CodePermissionDenied, "")

	stream, err := w.leaf.Configure(ctx, connect.NewRequest(&ingotv1.LeafServiceConfigureRequest{Switch: "leaf1", Partition: "partition-1"}))
	check(t, err)
	defer func() { _ = stream.Close() }() // the test has what it wants
	next := func() *ingotv1.LeafConfiguration {
		t.Helper()
		for stream.Receive() {
			if c := stream.Msg().GetConfiguration(); c != nil {
				return c
			}
		}
		t.Fatal(stream.Err())
		return nil
	}
	w.count("leaf1")
	c := next()
	if c.GetGeneration().GetN() != 1 || c.GetAsn() != 4200000001 || c.GetLoopback() != "10.255.0.1" || len(c.GetPorts()) != 1 ||
		c.GetPorts()[0].GetBootPrefix() != "fd00:b:0:100::/64" || c.GetPorts()[0].GetClass() != ingotv1.PortClass_PORT_CLASS_BOOT {
		t.Errorf("first configuration: %v", c)
	}
	connectMachine(w.world, "leaf1", "Ethernet1", machineID)
	w.count("leaf1")
	if c = next(); c.GetGeneration().GetN() != 2 || c.GetPorts()[0].GetMachine() != machineID {
		t.Errorf("second configuration: %v", c)
	}
	check(t, stream.Close())

	// A leaf that has the newest is told nothing until there is a newer one.
	stream, err = w.leaf.Configure(ctx, connect.NewRequest(&ingotv1.LeafServiceConfigureRequest{Switch: "leaf1", Partition: "partition-1", Have: c.GetGeneration()}))
	check(t, err)
	_, err = dial(w.world, adminv2connect.NewSwitchServiceClient, w.world.admin).Port(ctx, &adminv2.SwitchServicePortRequest{Id: "leaf1", NicName: "Ethernet1", Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN})
	check(t, err)
	w.count("leaf1")
	if c = next(); c.GetGeneration().GetN() != 3 || c.GetPorts()[0].GetClass() != ingotv1.PortClass_PORT_CLASS_DOWN {
		t.Errorf("third configuration: %v", c)
	}

	_, err = w.leaf.Report(ctx, connect.NewRequest(&ingotv1.LeafServiceReportRequest{
		Switch: "leaf1", Partition: "partition-1", Generation: c.GetGeneration(),
		Ports: []*ingotv1.PortReport{{Name: "Ethernet1", Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_DOWN, Class: ingotv1.PortClass_PORT_CLASS_DOWN}},
	}))
	check(t, err)
	p, ok := records.LeafPorts.Peek(w.db.Snapshot(), records.PortKey("leaf1", "Ethernet1"))
	if !ok || p.GetClass() != ingotv1.PortClass_PORT_CLASS_DOWN {
		t.Errorf("reported port: %v", p)
	}
}

func TestLeafCertificate(t *testing.T) {
	w := newLeafWorld(t)
	ctx := t.Context()
	_, err := w.leaf.Register(ctx, connect.NewRequest(&ingotv1.LeafServiceRegisterRequest{Switch: testSwitch("leaf1")}))
	check(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"api.example"}}, key)
	check(t, err)
	ask := func(csr []byte) ([][]byte, error) {
		resp, err := w.leaf.Certificate(ctx, connect.NewRequest(&ingotv1.LeafServiceCertificateRequest{Switch: "leaf1", Partition: "partition-1", Request: csr}))
		if err != nil {
			return nil, err
		}
		return resp.Msg.GetCertificates(), nil
	}
	ders, err := ask(csr)
	check(t, err)
	cert, err := x509.ParseCertificate(ders[0])
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.srv.CA())
	for _, name := range []string{"boot.boot.lab", "fd00:b::1"} {
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: w.clock.Now()}); err != nil {
			t.Error(err)
		}
	}
	if slices.Contains(cert.DNSNames, "api.example") || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("names %v", cert.DNSNames)
	}
	csr[len(csr)-1] ^= 1
	_, err = ask(csr)
	wantCode(t, err, connect.CodeInvalidArgument, "")
}

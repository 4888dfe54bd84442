package api_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/metal-stack/api/go/metalstack/api/v2/apiv2connect"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/loop"
	"github.com/ingot-cloud/ingot/network"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// The things of a datacenter.
const (
	large      = "c1-large-x86"
	medium     = "n1-medium-x86"
	debian12   = "debian-12.0.20251220"
	debian13   = "debian-13.0.20260131"
	fwImage    = "firewall-ubuntu-3.0.20260201"
	partition1 = "partition-1"
)

// A datacenter is a world with a partition that has two leaves, sw1 and sw2,
// with sizes, images, layouts and networks, and two projects with a private
// network each.
type datacenter struct {
	*world
	p1, p2     string // projects
	net1, net2 string // their private networks

	machines adminv2connect.MachineServiceClient
	own      apiv2connect.MachineServiceClient // of p1's owner
	events   infrav2connect.EventServiceClient
	boot     infrav2connect.BootServiceClient
	bmc      infrav2connect.BMCServiceClient
	timeline ingotv1connect.TimelineServiceClient
}

func newDatacenter(t *testing.T) *datacenter {
	t.Helper()
	w := newWorld(t)
	d := &datacenter{world: w}
	d.p1, d.p2 = w.project(w.tenant("t1")), w.project(w.tenant("t2"))
	d.machines = dial(w, adminv2connect.NewMachineServiceClient, w.admin)
	d.own = dial(w, apiv2connect.NewMachineServiceClient, w.member(d.p1, owner))
	d.events = dial(w, infrav2connect.NewEventServiceClient, w.admin)
	d.boot = dial(w, infrav2connect.NewBootServiceClient, w.admin)
	d.bmc = dial(w, infrav2connect.NewBMCServiceClient, w.admin)
	d.timeline = dial(w, ingotv1connect.NewTimelineServiceClient, w.admin)
	d.update(func(tx *store.Tx) error {
		if err := records.Partitions.Insert(tx, &apiv2.Partition{
			Id: partition1, DnsServers: []*apiv2.DNSServer{{Ip: "10.0.0.53"}},
			BootConfiguration: &apiv2.PartitionBootConfiguration{KernelUrl: "https://boot.example/kernel", ImageUrl: "https://boot.example/initrd", Commandline: "quiet"},
		}); err != nil {
			return err
		}
		for id, cores := range map[string]uint64{large: 4, medium: 2} {
			if err := records.Sizes.Insert(tx, size(id, cores)); err != nil {
				return err
			}
		}
		for id, f := range map[string]apiv2.ImageFeature{
			debian12: apiv2.ImageFeature_IMAGE_FEATURE_MACHINE, debian13: apiv2.ImageFeature_IMAGE_FEATURE_MACHINE, fwImage: apiv2.ImageFeature_IMAGE_FEATURE_FIREWALL,
		} {
			if err := records.Images.Insert(tx, &apiv2.Image{
				Id: id, Url: "https://images.example/" + id, Features: []apiv2.ImageFeature{f}, ExpiresAt: timestamppb.New(time.Now().AddDate(1, 0, 0)),
				Classification: apiv2.ImageClassification_IMAGE_CLASSIFICATION_SUPPORTED,
			}); err != nil {
				return err
			}
		}
		if err := records.FilesystemLayouts.Insert(tx, layout("debian", "debian", ">= 12.0")); err != nil {
			return err
		}
		return records.FilesystemLayouts.Insert(tx, layout("firewall", "firewall-ubuntu", ">= 3.0"))
	})
	d.update(func(tx *store.Tx) error {
		_, err := network.PutFabric(tx, &ingotv1.Fabric{
			Partition: partition1, BootSupernet: "fd00::/48", BootVni: 9000, BootAddress: "fd00:0:0:ff00::1", Loopbacks: "10.255.0.0/24", FirstAsn: 4200000000, AsnCount: 16,
		})
		return err
	})
	d.rack("r01", "sw1", "sw2", 16)
	d.network("internet", &adminv2.NetworkServiceCreateRequest{
		Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Prefixes: []string{"1.2.3.0/24"}, Vrf: proto.Uint32(11), NatType: apiv2.NATType_NAT_TYPE_IPV4_MASQUERADE.Enum(),
	})
	d.network("underlay-partition-1", &adminv2.NetworkServiceCreateRequest{
		Type: apiv2.NetworkType_NETWORK_TYPE_UNDERLAY, Partition: proto.String(partition1), Prefixes: []string{"10.253.0.0/16"},
	})
	d.network("tenant-super-partition-1", &adminv2.NetworkServiceCreateRequest{
		Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Partition: proto.String(partition1), Prefixes: []string{"12.110.0.0/16"}, DestinationPrefixes: []string{"1.2.3.0/24"},
		DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(22)},
	})
	d.net1, d.net2 = d.private(d.p1), d.private(d.p2)
	return d
}

func (d *datacenter) update(fn func(tx *store.Tx) error) {
	d.t.Helper()
	check(d.t, d.db.Update(d.t.Context(), fn))
}

func size(id string, cores uint64) *apiv2.Size {
	return &apiv2.Size{Id: id, Constraints: []*apiv2.SizeConstraint{
		{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_CORES, Min: cores, Max: cores},
		{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_MEMORY, Min: 1024, Max: 1 << 40},
		{Type: apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_STORAGE, Min: 1024, Max: 1 << 40},
	}}
}

func layout(id, os, version string) *apiv2.FilesystemLayout {
	return &apiv2.FilesystemLayout{
		Id:    id,
		Disks: []*apiv2.Disk{{Device: "/dev/sda", Partitions: []*apiv2.DiskPartition{{Number: 1, Size: 1024, GptType: apiv2.GPTType_GPT_TYPE_LINUX.Enum()}}}},
		Constraints: &apiv2.FilesystemLayoutConstraints{
			Sizes: []string{large, medium}, Images: map[string]string{os: version},
		},
	}
}

func (d *datacenter) network(id string, q *adminv2.NetworkServiceCreateRequest) {
	d.t.Helper()
	q.Id = &id
	d.update(func(tx *store.Tx) error { _, err := network.Create(tx, q, id); return err })
}

// private makes a private network of a project.
func (d *datacenter) private(project string) string {
	d.t.Helper()
	id := uuid.NewString()
	d.update(func(tx *store.Tx) error {
		_, err := network.Create(tx, &adminv2.NetworkServiceCreateRequest{
			Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: &project, ParentNetwork: proto.String("tenant-super-partition-1"),
		}, id)
		return err
	})
	return id
}

// rack adds two leaves with ports Ethernet0 and so on.
func (d *datacenter) rack(rack, a, b string, ports int) {
	d.t.Helper()
	for _, id := range []string{a, b} {
		sw := &apiv2.Switch{
			Id: id, Partition: partition1, Rack: &rack, ManagementIp: "10.1.0.1", ReplaceMode: apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_OPERATIONAL,
			Os: &apiv2.SwitchOS{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC},
		}
		for p := range ports {
			sw.Nics = append(sw.Nics, &apiv2.SwitchNic{
				Name: fmt.Sprintf("Ethernet%d", p), Identifier: fmt.Sprintf("Eth1/%d", p+1), Mac: fmt.Sprintf("cc:cc:cc:cc:cc:%02x", p),
			})
		}
		d.update(func(tx *store.Tx) error {
			return network.RegisterLeaf(tx, &ingotv1.LeafServiceRegisterRequest{Switch: sw})
		})
	}
}

// loops runs the loops as long as the test.
func (d *datacenter) loops() {
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(d.t.Context())
	go func() {
		ended <- loop.Run(ctx, d.db, slog.New(slog.DiscardHandler), loop.Leaves(d.db), loop.Machines(d.db, uuid.NewString))
	}()
	d.t.Cleanup(func() {
		cancel()
		check(d.t, <-ended)
	})
}

// until waits until something holds.
func (d *datacenter) until(what string, holds func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// hardware is that of a server of a size on the same port of two leaves.
func hardware(cores uint32, port string, leaves ...string) *apiv2.MachineHardware {
	h := &apiv2.MachineHardware{
		Memory: 1024, Cpus: []*apiv2.MetalCPU{{Cores: cores}}, Disks: []*apiv2.MachineBlockDevice{{Name: "/dev/sda", Size: 1 << 31}},
	}
	for i, leaf := range leaves {
		h.Nics = append(h.Nics, &apiv2.MachineNic{
			Name: fmt.Sprintf("lan%d", i), Mac: fmt.Sprintf("aa:aa:aa:aa:aa:%02x", i),
			Neighbors: []*apiv2.MachineNic{{Name: port, Identifier: port, Hostname: leaf, Mac: "bb:bb:bb:bb:bb:bb"}},
		})
	}
	return h
}

func ev(name string) apiv2.MachineProvisioningEventType {
	return apiv2.MachineProvisioningEventType(apiv2.MachineProvisioningEventType_value["MACHINE_PROVISIONING_EVENT_TYPE_"+name])
}

// send sends events of one machine, one after the other.
func (d *datacenter) send(id string, names ...string) {
	d.t.Helper()
	for _, name := range names {
		resp, err := d.events.Send(d.t.Context(), &infrav2.EventServiceSendRequest{Events: map[string]*apiv2.MachineProvisioningEvent{id: {Event: ev(name)}}})
		check(d.t, err)
		if resp.GetEvents() != 1 {
			d.t.Fatalf("event %s was not accepted: %v", name, resp)
		}
	}
}

// found makes a machine by a PXE boot and registers it, as a boot image does
// that speaks the v2 API. It has sent its events until it waits.
func (d *datacenter) found(cores uint32, port, a, b string) string {
	d.t.Helper()
	id := uuid.NewString()
	_, err := d.boot.Dhcp(d.t.Context(), &infrav2.BootServiceDhcpRequest{Uuid: id, Partition: partition1})
	check(d.t, err)
	d.send(id, "PREPARING", "REGISTERING")
	_, err = d.boot.Register(d.t.Context(), &infrav2.BootServiceRegisterRequest{
		Uuid: id, Partition: partition1, Hardware: hardware(cores, port, a, b), MetalHammerVersion: "v0.1",
	})
	check(d.t, err)
	d.send(id, "WAITING")
	return id
}

// waiting is found with the Wait stream open, and returns what that yields.
func (d *datacenter) waiting(cores uint32, port, a, b string) (string, <-chan *apiv2.MachineAllocation) {
	d.t.Helper()
	id := d.found(cores, port, a, b)
	return id, d.wait(id)
}

// wait opens the v2 API's Wait stream of a machine until the test ends.
func (d *datacenter) wait(id string) <-chan *apiv2.MachineAllocation {
	d.t.Helper()
	got := make(chan *apiv2.MachineAllocation, 8)
	ctx, cancel := context.WithCancel(d.t.Context())
	stream, err := d.boot.Wait(ctx, &infrav2.BootServiceWaitRequest{Uuid: id})
	check(d.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			got <- stream.Msg().GetAllocation()
		}
	}()
	d.t.Cleanup(func() { cancel(); <-ended; stream.Close() })
	d.until("machine "+id+" waits", func() bool {
		m, _ := records.Machines.Peek(d.db.Snapshot(), id)
		return m.GetListening()
	})
	return got
}

// want is a request for a machine of project p1 that succeeds.
func (d *datacenter) want(edit ...func(*apiv2.MachineServiceCreateRequest)) *apiv2.MachineServiceCreateRequest {
	q := &apiv2.MachineServiceCreateRequest{
		Project: d.p1, Name: "www", Partition: proto.String(partition1), Size: proto.String(large), Image: debian12,
		Networks: []*apiv2.MachineAllocationNetwork{{Network: d.net1}}, AllocationType: apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_MACHINE,
	}
	for _, e := range edit {
		e(q)
	}
	return q
}

// get returns a machine as admins see it.
func (d *datacenter) get(id string) *apiv2.Machine {
	d.t.Helper()
	m, err := d.machines.Get(d.t.Context(), &adminv2.MachineServiceGetRequest{Uuid: id})
	check(d.t, err)
	return m.GetMachine()
}

// A leaf is a fake leaf switch: it has the configuration it shall have, and
// tells of a port what it is told to.
type leaf struct {
	d      *datacenter
	id     string
	token  string
	boot   ingotv1connect.BootServiceClient
	client ingotv1connect.LeafServiceClient
	mu     sync.Mutex
	conf   *ingotv1.LeafConfiguration
}

// leaf runs a leaf as long as the test.
func (d *datacenter) leaf(id string) *leaf {
	d.t.Helper()
	token := d.farEnd(ingotv1.FarEnd_FAR_END_LEAF, partition1, id)
	l := &leaf{d: d, id: id, token: token, boot: dial(d.world, ingotv1connect.NewBootServiceClient, token), client: dial(d.world, ingotv1connect.NewLeafServiceClient, token)}
	ctx, cancel := context.WithCancel(d.t.Context())
	stream, err := l.client.Configure(ctx, connect.NewRequest(&ingotv1.LeafServiceConfigureRequest{Switch: id, Partition: partition1}))
	check(d.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			if c := stream.Msg().GetConfiguration(); c != nil {
				l.mu.Lock()
				l.conf = c
				l.mu.Unlock()
			}
		}
	}()
	d.t.Cleanup(func() { cancel(); <-ended; stream.Close() })
	return l
}

// port returns what a port shall be, and the generation of that.
func (l *leaf) port(name string) (*ingotv1.LeafPort, *ingotv1.Generation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.conf.GetPorts() {
		if p.GetName() == name {
			return p, l.conf.GetGeneration()
		}
	}
	return nil, nil
}

// moves waits until a port shall be of a class, and reports that it is, and who
// was heard on it.
func (l *leaf) moves(name string, class ingotv1.PortClass, heard *ingotv1.Neighbor) {
	l.d.t.Helper()
	l.d.until(fmt.Sprintf("%s of %s is wanted to be %s", name, l.id, class), func() bool { p, _ := l.port(name); return p.GetClass() == class })
	p, g := l.port(name)
	_, err := l.client.Report(l.d.t.Context(), connect.NewRequest(&ingotv1.LeafServiceReportRequest{
		Switch: l.id, Partition: partition1, Generation: g, Ports: []*ingotv1.PortReport{{
			Name: name, Class: class, Vrf: p.GetVrf(), Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP, Neighbor: heard,
		}},
	}))
	check(l.d.t, err)
}

// A server is a fake server with its leaves: what it does goes through the API.
type server struct {
	d      *datacenter
	uuid   string
	port   string
	leaves map[string]*leaf
	bootID string
	key    ed25519.PrivateKey
	token  string
	on     string // the leaf it calls through
	agent  ingotv1connect.AgentServiceClient
}

// server returns a fake server on a port of some leaves.
func (d *datacenter) server(port string, leaves ...*leaf) *server {
	s := &server{d: d, uuid: uuid.NewString(), port: port, leaves: map[string]*leaf{}}
	for _, l := range leaves {
		s.leaves[l.id] = l
	}
	return s
}

// source is the address of the server on a leaf.
func (s *server) source(leaf, port string) string {
	l, _ := records.Leaves.Peek(s.d.db.Snapshot(), leaf)
	a := netip.MustParsePrefix(l.GetBootPrefix()).Addr().As16()
	a[7], a[15] = byte(l.GetPorts()[port]), 5
	return netip.AddrFrom16(a).String()
}

// begin starts a boot through a leaf.
func (s *server) begin(leaf string) error {
	resp, err := s.leaves[leaf].boot.Begin(s.d.t.Context(), connect.NewRequest(&ingotv1.BootServiceBeginRequest{
		Switch: leaf, SourceAddress: s.source(leaf, s.port), Uuid: s.uuid, Partition: partition1,
	}))
	if err == nil {
		s.bootID = resp.Msg.GetBootId()
		_, s.key, _ = ed25519.GenerateKey(nil)
	}
	return err
}

// proof is the request for a token through a leaf.
func (s *server) proof(leaf string) *ingotv1.BootServiceTokenRequest {
	return &ingotv1.BootServiceTokenRequest{
		Switch: leaf, SourceAddress: s.source(leaf, s.port), Uuid: s.uuid, Partition: partition1, BootId: s.bootID,
		PublicKey: s.key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(s.key, []byte("ingot boot "+s.bootID)),
	}
}

// identify gets a token through a leaf.
func (s *server) identify(leaf string, req *ingotv1.BootServiceTokenRequest) error {
	resp, err := s.leaves[leaf].boot.Token(s.d.t.Context(), connect.NewRequest(req))
	if err == nil {
		s.on = leaf
		s.use(resp.Msg.GetToken())
	}
	return err
}

// inventory is what the agent finds.
func (s *server) inventory() *ingotv1.Inventory {
	leaves := make([]string, 0, len(s.leaves))
	for leaf := range s.leaves {
		leaves = append(leaves, leaf)
	}
	slices.Sort(leaves)
	return &ingotv1.Inventory{
		Hardware: hardware(4, s.port, leaves...), AgentVersion: "v1", Disks: []*ingotv1.Disk{{Name: "sda", Serial: "serial-a", Size: 1 << 31}},
	}
}

// report reports a step.
func (s *server) report(step ingotv1.AgentStep, state ingotv1.StepState, message string) {
	s.d.t.Helper()
	_, err := s.agent.Report(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceReportRequest{
		Uuid: s.uuid, BootId: s.bootID, Step: step, State: state, Message: message, Percent: 50,
	}))
	check(s.d.t, err)
}

// clean goes from the power on until the machine waits, and returns what it is
// told then.
func (s *server) clean(leaf string) <-chan *ingotv1.AgentServiceWaitResponse {
	s.d.t.Helper()
	check(s.d.t, s.begin(leaf))
	check(s.d.t, s.identify(leaf, s.proof(leaf)))
	resp, err := s.agent.Register(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceRegisterRequest{Uuid: s.uuid, BootId: s.bootID, Inventory: s.inventory()}))
	check(s.d.t, err)
	if resp.Msg.GetSize() != large || !slices.Equal(resp.Msg.GetWipe(), []string{"sda"}) {
		s.d.t.Fatalf("registered as %v", resp.Msg)
	}
	s.report(ingotv1.AgentStep_AGENT_STEP_WIPE, ingotv1.StepState_STEP_STATE_BEGUN, "1 disk")
	s.report(ingotv1.AgentStep_AGENT_STEP_WIPE, ingotv1.StepState_STEP_STATE_PROGRESS, "sda")
	check(s.d.t, s.proves(s.wiped()))
	return s.wait()
}

// wait opens the agent's stream until the test ends.
func (s *server) wait() <-chan *ingotv1.AgentServiceWaitResponse {
	s.d.t.Helper()
	ctx, cancel := context.WithCancel(s.d.t.Context())
	stream, err := s.agent.Wait(ctx, connect.NewRequest(&ingotv1.AgentServiceWaitRequest{Uuid: s.uuid, BootId: s.bootID}))
	check(s.d.t, err)
	got, ended := make(chan *ingotv1.AgentServiceWaitResponse, 64), make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			got <- stream.Msg()
		}
		close(got)
	}()
	s.d.t.Cleanup(func() { cancel(); <-ended; stream.Close() })
	if first, ok := <-got; !ok || first.GetInstallation() != nil {
		s.d.t.Fatalf("the stream began with %v, %v", first, stream.Err())
	}
	return got
}

// phase returns the phase the machine is in, and what it waits for.
func (s *server) phase() (string, *ingotv1.Timeline) {
	s.d.t.Helper()
	resp, err := s.d.timeline.GetAny(s.d.t.Context(), connect.NewRequest(&ingotv1.TimelineServiceGetAnyRequest{Uuid: s.uuid}))
	if connect.CodeOf(err) == connect.CodeNotFound && err != nil {
		return "unknown", nil
	}
	check(s.d.t, err)
	return strings.TrimPrefix(resp.Msg.GetTimeline().GetPhase().String(), "MACHINE_PHASE_"), resp.Msg.GetTimeline()
}

func (s *server) reaches(phase string) {
	s.d.t.Helper()
	s.d.until(phase, func() bool { is, _ := s.phase(); return is == phase })
}

// moves lets both leaves, or those that are named, move the server's port.
func (s *server) moves(class ingotv1.PortClass, description string, leaves ...string) {
	s.d.t.Helper()
	for id, l := range s.leaves {
		if len(leaves) > 0 && !slices.Contains(leaves, id) {
			continue
		}
		var heard *ingotv1.Neighbor
		if description != "" {
			heard = &ingotv1.Neighbor{SystemName: s.uuid, SystemDescription: description, Seen: timestamppb.New(s.d.clock.Now())}
		}
		l.moves(s.port, class, heard)
	}
}

// sign signs with the key of the boot.
func (s *server) sign(message string) []byte { return ed25519.Sign(s.key, []byte(message)) }

// use makes the agent use another token.
func (s *server) use(token string) {
	s.token = token
	s.agent = s.calling(token, s.leaves[s.on].token, s.source(s.on, s.port))
}

// calling returns a client with a machine's token, for which a leaf vouches.
func (s *server) calling(token, leaf, source string) ingotv1connect.AgentServiceClient {
	return ingotv1connect.NewAgentServiceClient(&http.Client{Transport: vouched{leaf, source, bearer{token, s.d.http.Transport}}}, s.d.url)
}

// vouched is what metal-boot adds.
type vouched struct {
	leaf, source string
	next         http.RoundTripper
}

func (v vouched) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(ingotv1.LeafHeader, v.leaf)
	r.Header.Set(ingotv1.SourceHeader, v.source)
	return v.next.RoundTrip(r)
}

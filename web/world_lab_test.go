//go:build lab

package web_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"github.com/metal-stack/api/go/metalstack/infra/v2/infrav2connect"

	"github.com/ingot-cloud/ingot/api"
	"github.com/ingot-cloud/ingot/cli"
	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
	"github.com/ingot-cloud/ingot/web"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A world is a control plane with the page, and a partition to look at.
type world struct {
	t     *testing.T
	clock *storetest.Clock
	db    *store.DB
	srv   *api.Server
	addr  string
	admin string
	dir   string // of the command line
	tls   *tls.Config
	down  func() error // stops serving
}

const partition = "fra-1"

// newWorld starts a control plane. instead is served in place of what it
// serves at some paths.
func newWorld(t *testing.T, instead map[string]http.Handler) *world {
	t.Helper()
	pages := web.Pages()
	maps.Copy(pages, instead)
	w := &world{t: t, clock: storetest.NewClock(), dir: t.TempDir()}
	w.clock.Set(time.Now())
	w.db = storetest.OpenAt(t, w.clock, records.Tables()...)
	ln := w.listen("127.0.0.1:0")
	w.addr = ln.Addr().String()
	var err error
	w.srv, err = api.New(t.Context(), api.Config{
		DB: w.db, Ring: secret.NewRing(), URL: "https://" + w.addr, Now: w.clock.Now, Log: slog.New(slog.DiscardHandler), Pages: pages,
	})
	check(t, err)
	_, err = w.srv.Bootstrap(t.Context(), func(token string) error { w.admin = token; return nil })
	check(t, err)
	w.tls = w.srv.TLS("127.0.0.1")
	w.serve(ln)
	t.Cleanup(func() { check(t, w.down()) })
	check(t, os.WriteFile(filepath.Join(w.dir, "ca.crt"), w.srv.CA(), 0o600))
	w.furnish()
	return w
}

func (w *world) listen(addr string) net.Listener {
	w.t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(w.t.Context(), "tcp", addr)
	check(w.t, err)
	return ln
}

// serve serves until down is called.
func (w *world) serve(ln net.Listener) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.srv.Serve(ctx, ln, w.tls) }()
	w.down = func() error { cancel(); return <-ended }
}

// spki returns the hash of the server's public key.
func (w *world) spki() string {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.srv.CA())
	c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(w.t.Context(), "tcp", w.addr)
	check(w.t, err)
	defer c.Close()
	sum := sha256.Sum256(c.(*tls.Conn).ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ingot runs the command line and returns what it prints.
func (w *world) ingot(args ...string) string {
	w.t.Helper()
	env := map[string]string{"HOME": w.dir, "INGOT_API_URL": "https://" + w.addr, "INGOT_CA_FILE": filepath.Join(w.dir, "ca.crt"), "INGOT_TOKEN": w.admin}
	var out, errs bytes.Buffer
	if code := cli.Main(w.t.Context(), cli.Options{Args: args, In: strings.NewReader(""), Out: &out, Err: &errs, Env: func(k string) string { return env[k] }}); code != 0 {
		w.t.Fatalf("ingot %v: %s", args, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// dial returns a client with a token.
func dial[C any](w *world, token string, construct func(connect.HTTPClient, string, ...connect.ClientOption) C) C {
	w.t.Helper()
	c, err := client.New(client.Config{URL: "https://" + w.addr, CA: w.srv.CA(), Token: token})
	check(w.t, err)
	w.t.Cleanup(c.Close)
	return client.Of(c, construct)
}

func (w *world) update(fn func(tx *store.Tx) error) {
	w.t.Helper()
	check(w.t, w.db.Update(w.t.Context(), fn))
}

// furnish makes the partition with its plan and its site.
func (w *world) furnish() {
	w.t.Helper()
	now := timestamppb.New(w.clock.Now())
	w.update(func(tx *store.Tx) error {
		if err := records.Partitions.Insert(tx, &apiv2.Partition{Id: partition}); err != nil {
			return err
		}
		return records.Sizes.Insert(tx, &apiv2.Size{Id: "c1-large-x86"})
	})
	w.update(func(tx *store.Tx) error {
		if _, err := network.PutFabric(tx, &ingotv1.Fabric{
			Partition: partition, BootSupernet: "fd00:10::/44", BootVni: 1000, BootAddress: "fd00:b007::1", Loopbacks: "10.255.0.0/20", FirstAsn: 4200000001, AsnCount: 1024,
			ServicePorts: []*ingotv1.ServicePort{{Switch: "leaf01", Port: "swp1"}, {Switch: "leaf02", Port: "swp1"}},
		}); err != nil {
			return err
		}
		bmc := &ingotv1.BMC{Id: "bmc-1", Partition: partition, Address: "10.1.1.1:443", User: "root"}
		if err := records.BMCs.Insert(tx, bmc); err != nil {
			return err
		}
		if err := records.Secrets.Put(tx, &privatev1.Sealed{Id: records.BMCPasswordKey(partition, bmc.Id)}); err != nil {
			return err
		}
		if err := records.BMCStatuses.Put(tx, &privatev1.BMCStatus{Partition: partition, Id: bmc.Id, Status: &ingotv1.BMCStatus{LastSeen: now}}); err != nil {
			return err
		}
		return records.Sites.Put(tx, &ingotv1.Site{Partition: partition, Seen: now, Medium: &ingotv1.Medium{Url: "https://mgmt/boot.iso", Size: 21_800_000, Built: now}})
	})
}

// rack adds two leaves with ports swp1 and so on, the last two of which lead
// to other switches.
func (w *world) rack(rack string, ports int, leaves ...string) {
	w.t.Helper()
	for i, id := range leaves {
		sw := &apiv2.Switch{
			Id: id, Partition: partition, Rack: &rack, ManagementIp: "10.1.0.1", ReplaceMode: apiv2.SwitchReplaceMode_SWITCH_REPLACE_MODE_OPERATIONAL,
			Os: &apiv2.SwitchOS{Vendor: apiv2.SwitchOSVendor_SWITCH_OS_VENDOR_SONIC},
		}
		for p := 1; p <= ports; p++ {
			sw.Nics = append(sw.Nics, &apiv2.SwitchNic{Name: fmt.Sprintf("swp%d", p), Identifier: fmt.Sprintf("swp%d", p), Mac: fmt.Sprintf("cc:cc:cc:cc:%02x:%02x", i, p)})
		}
		w.update(func(tx *store.Tx) error {
			if err := network.RegisterLeaf(tx, &ingotv1.LeafServiceRegisterRequest{
				Switch: sw, Uplinks: []string{fmt.Sprintf("swp%d", ports), fmt.Sprintf("swp%d", ports-1)},
			}); err != nil {
				return err
			}
			return records.SwitchSyncs.Put(tx, &privatev1.SwitchSync{Switch: id, LastSync: &apiv2.SwitchSync{Time: timestamppb.New(w.clock.Now())}})
		})
		for p := 1; p <= ports; p++ {
			if p < 14 || p > ports-2 {
				w.up(id, fmt.Sprintf("swp%d", p))
			}
		}
	}
}

func (w *world) up(leaf, port string) {
	w.update(func(tx *store.Tx) error {
		return records.LeafPorts.Put(tx, &privatev1.LeafPort{Switch: leaf, Port: port, Status: apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP})
	})
}

// A server is a machine as the store has it.
type server struct {
	*privatev1.Machine
	w     *world
	agent ingotv1connect.AgentServiceClient
}

// machine puts a machine in a phase on a port of leaves, since some time.
func (w *world) machine(n int, phase ingotv1.MachinePhase, since time.Duration, name, port string, leaves ...string) *server {
	w.t.Helper()
	at := timestamppb.New(w.clock.Now().Add(-since))
	m := &privatev1.Machine{
		Uuid: fmt.Sprintf("1ab00000-0000-4000-8000-%012d", n), Meta: &apiv2.Meta{CreatedAt: at, UpdatedAt: at}, Partition: partition, Rack: "r01", Size: "c1-large-x86", Phase: phase, PhaseSince: at,
		BootId: uuid.NewString(), LastEvent: at, Liveliness: apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE,
	}
	w.update(func(tx *store.Tx) error {
		if name != "" {
			m.Allocation = uuid.NewString()
			a := &privatev1.Allocation{Machine: m.Uuid, Partition: partition, Size: m.Size, Rack: m.Rack, Allocation: &apiv2.MachineAllocation{
				Uuid: m.Allocation, Name: name, Hostname: name, Project: "0a0a0a0a-0000-4000-8000-000000000001", Image: &apiv2.Image{Id: "debian-12.0.20251220"}, Meta: &apiv2.Meta{},
				AllocationType: apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_MACHINE,
				Networks:       []*apiv2.MachineNetwork{{Network: "n1", NetworkType: apiv2.NetworkType_NETWORK_TYPE_CHILD, Vrf: 23, Ips: []string{fmt.Sprintf("10.0.16.%d", n)}}},
			}}
			if phase == ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME || phase == ingotv1.MachinePhase_MACHINE_PHASE_BOOTING_NEW_KERNEL {
				a.Installed = at
			}
			if err := records.Allocations.Insert(tx, a); err != nil {
				return err
			}
		}
		for _, leaf := range leaves {
			if err := records.Connections.Put(tx, &privatev1.Connection{Switch: leaf, Port: port, Machine: m.Uuid}); err != nil {
				return err
			}
		}
		if err := records.Hardware.Put(tx, &privatev1.Hardware{Uuid: m.Uuid, Inventory: &ingotv1.Inventory{Hardware: &apiv2.MachineHardware{
			Memory: 64 << 30, Cpus: []*apiv2.MetalCPU{{Cores: 16}}, Disks: []*apiv2.MachineBlockDevice{{Name: "nvme0n1", Size: 960e9}},
		}}}); err != nil {
			return err
		}
		return records.Machines.Insert(tx, m)
	})
	return &server{Machine: m, w: w}
}

// past gives a machine what happened to it: the newest first, one line each,
// "seconds ago, source, step, took in ms, message".
func (s *server) past(lines ...string) *server {
	s.w.t.Helper()
	e := &privatev1.Events{Uuid: s.Uuid}
	for _, line := range lines {
		var ago, took float64
		var source int32
		var step, message string
		_, err := fmt.Sscanf(line, "%g %d %s %g %q", &ago, &source, &step, &took, &message)
		check(s.w.t, err)
		e.Steps = append(e.Steps, &privatev1.Event{
			Time: timestamppb.New(s.w.clock.Now().Add(-time.Duration(ago * 1e9))), Source: source, Step: step, TookMs: int64(took), Message: message, Failed: strings.HasPrefix(message, "failed"), BootId: s.BootId,
		})
	}
	s.w.update(func(tx *store.Tx) error { return records.Events.Put(tx, e) })
	return s
}

// reports reports as the agent of the machine.
func (s *server) reports(req *ingotv1.AgentServiceReportRequest) {
	s.w.t.Helper()
	if s.agent == nil {
		user := "ingot"
		t, err := dial(s.w, s.w.admin, adminv2connect.NewTokenServiceClient).Create(s.w.t.Context(), &adminv2.TokenServiceCreateRequest{
			User: &user, TokenCreateRequest: &apiv2.TokenServiceCreateRequest{MachineRoles: map[string]apiv2.MachineRole{s.Uuid: apiv2.MachineRole_MACHINE_ROLE_EDITOR}},
		})
		check(s.w.t, err)
		s.agent = dial(s.w, t.GetSecret(), ingotv1connect.NewAgentServiceClient)
	}
	req.Uuid, req.BootId = s.Uuid, s.BootId
	_, err := s.agent.Report(s.w.t.Context(), connect.NewRequest(req))
	check(s.w.t, err)
}

// sends sends a provisioning event of the v2 API.
func (s *server) sends(event apiv2.MachineProvisioningEventType, message string) {
	s.w.t.Helper()
	resp, err := dial(s.w, s.w.admin, infrav2connect.NewEventServiceClient).Send(s.w.t.Context(), &infrav2.EventServiceSendRequest{
		Events: map[string]*apiv2.MachineProvisioningEvent{s.Uuid: {Event: event, Message: message}},
	})
	check(s.w.t, err)
	if resp.GetEvents() != 1 {
		s.w.t.Fatalf("event not accepted: %v", resp)
	}
}

type machineRecord = privatev1.Machine

// happened changes the record of a machine.
func (s *server) happened(change func(*machineRecord)) {
	s.w.t.Helper()
	s.w.update(func(tx *store.Tx) error {
		_, err := records.Machines.Change(tx, s.Uuid, func(m *privatev1.Machine) error { change(m); return nil })
		return err
	})
}

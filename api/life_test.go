package api_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A site is a fake management server: it scans the BMCs it is told of, and
// carries out every operation at once.
type site struct {
	d       *datacenter
	client  ingotv1connect.SiteServiceClient
	behind  map[string]string // machine by BMC
	mu      sync.Mutex
	done    map[string]ingotv1.OperationAction // by id
	wanted  *ingotv1.SiteWanted
	blind   bool // does not see the power go off
	actions []string
}

// newSite runs a site as long as the test.
func (d *datacenter) newSite(behind map[string]string) *site {
	d.t.Helper()
	s := &site{d: d, behind: behind, done: map[string]ingotv1.OperationAction{}}
	s.client = dial(d.world, ingotv1connect.NewSiteServiceClient, d.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt1"))
	bmcs := dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin)
	for id := range behind {
		resp, err := bmcs.Create(d.t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: &ingotv1.BMC{
			Id: id, Partition: partition1, Address: "10.1.1." + id[1:] + ":443", User: "root", Password: "calvin-" + id,
		}}))
		check(d.t, err)
		if resp.Msg.GetBmc().GetPassword() != "" {
			d.t.Error("the password came back")
		}
	}
	ctx, cancel := context.WithCancel(d.t.Context())
	stream, err := s.client.Wanted(ctx, connect.NewRequest(&ingotv1.SiteServiceWantedRequest{Partition: partition1}))
	check(d.t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for stream.Receive() {
			if w := stream.Msg().GetWanted(); w != nil {
				s.obey(w)
			}
		}
	}()
	d.t.Cleanup(func() { cancel(); <-ended; stream.Close() })
	return s
}

// obey does what is wanted.
func (s *site) obey(w *ingotv1.SiteWanted) {
	ctx := s.d.t.Context()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted != nil && w.GetGeneration().GetN() <= s.wanted.GetGeneration().GetN() {
		s.d.t.Errorf("generation %v after %v", w.GetGeneration(), s.wanted.GetGeneration())
	}
	s.wanted = w
	for _, b := range w.GetBmcs() {
		if b.GetPassword() != "calvin-"+b.GetId() {
			s.d.t.Errorf("the password of %s is %q", b.GetId(), b.GetPassword())
		}
		if b.GetMachine() == "" {
			_, err := s.client.Report(ctx, connect.NewRequest(&ingotv1.SiteServiceReportRequest{Partition: partition1, Reports: []*ingotv1.BMCReport{{
				Id: b.GetId(), Machine: s.behind[b.GetId()], Status: &ingotv1.BMCStatus{PowerState: "On"},
				Report: &apiv2.MachineBMCReport{Bmc: &apiv2.MachineBMC{Address: b.GetAddress(), Mac: "dd:dd:dd:dd:dd:dd", Interface: "redfish"}},
			}}}))
			if err != nil && ctx.Err() == nil {
				s.d.t.Errorf("report: %v", err)
			}
		}
		o := b.GetOperation()
		if _, known := s.done[o.GetId()]; o == nil || known {
			continue
		}
		s.done[o.GetId()] = o.GetAction()
		s.actions = append(s.actions, o.GetAction().String())
		req := &ingotv1.SiteServiceDoneRequest{Partition: partition1, Operation: o.GetId()}
		if !s.blind {
			req.PowerOffSeen = timestamppb.New(s.d.clock.Now())
		}
		if _, err := s.client.Done(ctx, connect.NewRequest(req)); err != nil && ctx.Err() == nil {
			s.d.t.Errorf("done: %v", err)
		}
	}
}

// count returns how often an action was carried out.
func (s *site) count(a ingotv1.OperationAction) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, done := range s.done {
		if done == a {
			n++
		}
	}
	return n
}

// bmc returns what is wanted of a BMC.
func (s *site) bmc(id string) *ingotv1.BMCWanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.wanted.GetBmcs() {
		if b.GetId() == id {
			return b
		}
	}
	return nil
}

const (
	bootMedium = ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM
	powerOff   = ingotv1.OperationAction_OPERATION_ACTION_OFF
)

// TestLife drives a machine from the scan of its BMC through allocation,
// installation and deletion until it waits again, all through the API.
func TestLife(t *testing.T) {
	d := newDatacenter(t)
	before := d.db.Snapshot().Rev()
	d.loops()
	m1 := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	s := d.newSite(map[string]string{"b1": m1.uuid})

	m1.reaches("POWERING_ON")
	told := m1.clean("sw1")
	m1.reaches("WAITING")
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "agent")
	if m := d.get(m1.uuid); m.GetSize().GetId() != large || m.GetRack() != "r01" || m.GetPartition().GetId() != partition1 {
		t.Errorf("machine is %v", m)
	}

	q := d.want(func(q *apiv2.MachineServiceCreateRequest) { s := "#cloud-config: TOP-SECRET-USERDATA"; q.Userdata = &s })
	created, err := d.own.Create(t.Context(), q)
	check(t, err)
	if a := created.GetMachine().GetAllocation(); a.GetUserdata() != "" || a.GetNetworks()[0].GetIps()[0] != "12.110.0.1" || created.GetMachine().GetUuid() != m1.uuid {
		t.Errorf("created %v", created.GetMachine())
	}
	in := (<-told).GetInstallation()
	if in.GetAllocation().GetUserdata() != q.GetUserdata() || in.GetUrls()[0] != "https://images.example/"+debian12 || in.GetBootDisk() != "sda" {
		t.Errorf("installation %v", in)
	}
	m1.report(ingotv1.AgentStep_AGENT_STEP_PARTITION, ingotv1.StepState_STEP_STATE_BEGUN, "")
	m1.report(ingotv1.AgentStep_AGENT_STEP_IMAGE, ingotv1.StepState_STEP_STATE_PROGRESS, "writing "+debian12)
	if phase, tl := m1.phase(); phase != "INSTALLING" || tl.GetEntries()[len(tl.GetEntries())-1].GetMessage() != "writing "+debian12+": 50 %" {
		t.Errorf("in phase %s the timeline ends with %v", phase, tl.GetEntries()[len(tl.GetEntries())-1])
	}
	if st := m1.stands(); st.GetProgress().GetStep() != "image" || st.GetProgress().GetPercent() != 50 || st.GetWaiting().GetRemedy() == "" {
		t.Errorf("while it is installed it stands at %v", st)
	}
	_, err = m1.agent.Installed(t.Context(), connect.NewRequest(&ingotv1.AgentServiceInstalledRequest{
		Uuid: m1.uuid, BootId: m1.bootID, Allocation: in.GetAllocation().GetUuid(), ConsolePassword: "TOP-SECRET-CONSOLE",
	}))
	check(t, err)
	d.until("the disk is booted from", func() bool { b := s.bmc("b1"); return b.GetEnforce() && !b.GetMedium() })
	for _, description := range []string{"agent", "Debian 12, provisioned"} {
		d.clock.Advance(time.Second)
		m1.moves(ingotv1.PortClass_PORT_CLASS_MACHINE, description)
	}
	m1.reaches("PHONED_HOME")
	d.until("the BMC is left alone", func() bool { return !s.bmc("b1").GetEnforce() })
	if pw, err := d.machines.ConsolePassword(t.Context(), &adminv2.MachineServiceConsolePasswordRequest{Uuid: m1.uuid, Reason: "it does not answer"}); err != nil || pw.GetPassword() != "TOP-SECRET-CONSOLE" {
		t.Errorf("console password %v, %v", pw, err)
	}

	_, err = d.own.Delete(t.Context(), &apiv2.MachineServiceDeleteRequest{Uuid: m1.uuid, Project: d.p1})
	check(t, err)
	_, err = d.own.Get(t.Context(), &apiv2.MachineServiceGetRequest{Uuid: m1.uuid, Project: d.p1})
	wantCode(t, err, connect.CodeNotFound, "machine "+m1.uuid+": not found")
	d.until("power off", func() bool { return s.count(powerOff) == 1 })
	d.until("ports", func() bool {
		_, tl := m1.phase()
		return strings.HasPrefix(tl.GetWaiting().GetWhat(), "both leaves to move the ports into the boot VRF; missing: Ethernet1 of sw1")
	})
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "", "sw1")
	if n := records.IPs.Count(d.db.Snapshot(), "machine", m1.uuid); n != 1 || s.count(bootMedium) != 1 {
		t.Errorf("with one leaf moved: %d addresses taken, %d boots from the medium", n, s.count(bootMedium))
	}
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "", "sw2")
	d.until("a new boot", func() bool { return s.count(bootMedium) == 2 })
	if n := records.IPs.Count(d.db.Snapshot(), "machine", m1.uuid); n != 0 {
		t.Errorf("%d addresses still taken", n)
	}
	m1.reaches("POWERING_ON")
	m1.clean("sw2")
	m1.reaches("WAITING")

	stored := d.stored(before)
	for _, secret := range []string{"TOP-SECRET-USERDATA", "TOP-SECRET-CONSOLE", "calvin-b1"} {
		if bytes.Contains(stored, []byte(secret)) {
			t.Errorf("%s is in the store in clear", secret)
		}
	}
	if !bytes.Contains(stored, []byte(m1.uuid)) {
		t.Error("the store has not been looked at")
	}
}

// stored returns all that was written since a revision.
func (d *datacenter) stored(since store.Rev) []byte {
	var all []byte
	end := d.db.Snapshot().Rev()
	for e, err := range d.db.Watch(d.t.Context(), store.WatchOptions{After: since}) {
		check(d.t, err)
		if all = append(append(all, e.Key...), e.Value...); e.Last && e.Rev >= end {
			break
		}
	}
	return all
}

// TestRefresh replaces a machine's token.
func TestRefresh(t *testing.T) {
	d := newDatacenter(t)
	d.loops()
	m1 := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	d.newSite(map[string]string{"b1": m1.uuid})
	m1.reaches("POWERING_ON")
	check(t, m1.begin("sw1"))
	check(t, m1.identify("sw1", m1.proof("sw1")))
	refresh := func(message string) error {
		resp, err := m1.agent.Refresh(t.Context(), connect.NewRequest(&ingotv1.AgentServiceRefreshRequest{Uuid: m1.uuid, Signature: m1.sign(message)}))
		if err == nil {
			m1.use(resp.Msg.GetToken())
		}
		return err
	}
	wantCode(t, refresh("ingot refresh something"), connect.CodePermissionDenied, "machine "+m1.uuid+": rule signature: the token's key has not signed its id")
	d.clock.Advance(3 * time.Hour)
	check(t, refresh("ingot refresh "+tokenID(t, m1.token)))
	d.clock.Advance(3 * time.Hour)
	m1.report(ingotv1.AgentStep_AGENT_STEP_INVENTORY, ingotv1.StepState_STEP_STATE_DONE, "the new token counts")
	d.clock.Advance(2 * time.Hour)
	wantCode(t, refresh("ingot refresh "+tokenID(t, m1.token)), connect.CodeUnauthenticated, "token has expired")
}

// TestOperator lets a person help where no BMC answers.
func TestOperator(t *testing.T) {
	d := newDatacenter(t)
	d.loops()
	m1 := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	s := d.newSite(map[string]string{"b1": m1.uuid})
	m1.reaches("POWERING_ON")
	told := m1.clean("sw1")
	m1.reaches("WAITING")
	operator := dial(d.world, ingotv1connect.NewMachineServiceClient, d.admin)
	confirm := func() error {
		_, err := operator.ConfirmOff(t.Context(), connect.NewRequest(&ingotv1.MachineServiceConfirmOffRequest{Uuid: m1.uuid, Reason: "both plugs are out"}))
		return err
	}
	medium := func() error {
		_, err := operator.BootMedium(t.Context(), connect.NewRequest(&ingotv1.MachineServiceBootMediumRequest{Uuid: m1.uuid}))
		return err
	}

	check(t, medium())
	d.until("the medium is booted again", func() bool { return s.count(bootMedium) == 2 })
	m1.reaches("POWERING_ON")
	<-told // the old boot is over
	told = m1.clean("sw1")
	m1.reaches("WAITING")
	wantCode(t, confirm(), connect.CodeFailedPrecondition,
		"machine "+m1.uuid+": has no deleted allocation that waits for power off; 'ingot machine timeline' shows what it waits for")

	_, err := d.own.Create(t.Context(), d.want())
	check(t, err)
	in := (<-told).GetInstallation()
	m1.report(ingotv1.AgentStep_AGENT_STEP_PARTITION, ingotv1.StepState_STEP_STATE_BEGUN, "")
	_, err = m1.agent.Installed(t.Context(), connect.NewRequest(&ingotv1.AgentServiceInstalledRequest{Uuid: m1.uuid, BootId: m1.bootID, Allocation: in.GetAllocation().GetUuid(), ConsolePassword: "secret"}))
	check(t, err)
	wantCode(t, medium(), connect.CodeFailedPrecondition,
		"machine "+m1.uuid+": is allocated and installed, it boots from its disk; its project can give it back with 'ingot machine delete'")

	s.mu.Lock()
	s.blind = true // from now on nobody sees the power go off
	s.mu.Unlock()
	_, err = d.own.Delete(t.Context(), &apiv2.MachineServiceDeleteRequest{Uuid: m1.uuid, Project: d.p1})
	check(t, err)
	d.until("power off was tried", func() bool { return s.count(powerOff) == 1 })
	wantCode(t, medium(), connect.CodeFailedPrecondition, "")
	wantCode(t, confirm(), connect.CodeFailedPrecondition,
		"machine "+m1.uuid+`: its BMC reports power "On"; turn it off with 'ingot machine bmc-command --command off', or cut the BMC off, too`)
	_, err = s.client.Report(t.Context(), connect.NewRequest(&ingotv1.SiteServiceReportRequest{Partition: partition1, Reports: []*ingotv1.BMCReport{{
		Id: "b1", Status: &ingotv1.BMCStatus{LastError: "bmc b1: does not answer"},
	}}}))
	check(t, err)
	check(t, confirm())
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "")
	d.until("the addresses are free", func() bool { return records.IPs.Count(d.db.Snapshot(), "machine", m1.uuid) == 0 })
	_, tl := m1.phase()
	said := false
	for _, e := range tl.GetEntries() {
		said = said || e.GetMessage() == "ingot confirmed that it is off: both plugs are out"
	}
	if !said {
		t.Errorf("the timeline does not tell who confirmed what: %v", tl.GetEntries())
	}
}

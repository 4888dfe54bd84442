package api_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// returns goes from the power on until an allocated machine is told what to
// install, with all its disks kept.
func (s *server) returns(leaf string) *ingotv1.Installation {
	s.d.t.Helper()
	check(s.d.t, s.begin(leaf))
	check(s.d.t, s.identify(leaf, s.proof(leaf)))
	resp, err := s.agent.Register(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceRegisterRequest{Uuid: s.uuid, BootId: s.bootID, Inventory: s.inventory()}))
	check(s.d.t, err)
	if len(resp.Msg.GetWipe()) > 0 {
		s.d.t.Fatalf("the agent is told to wipe %v", resp.Msg.GetWipe())
	}
	stream, err := s.agent.Wait(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceWaitRequest{Uuid: s.uuid, BootId: s.bootID}))
	check(s.d.t, err)
	defer stream.Close()
	if !stream.Receive() {
		s.d.t.Fatal(stream.Err())
	}
	return stream.Msg().GetInstallation()
}

// starts has the installation reported and the system seen.
func (s *server) starts(in *ingotv1.Installation) {
	s.d.t.Helper()
	_, err := s.agent.Installed(s.d.t.Context(), connect.NewRequest(&ingotv1.AgentServiceInstalledRequest{
		Uuid: s.uuid, BootId: s.bootID, Allocation: in.GetAllocation().GetUuid(), ConsolePassword: "secret",
	}))
	check(s.d.t, err)
	s.seen()
}

// seen has both leaves move the port and hear the installed system.
func (s *server) seen() {
	s.d.t.Helper()
	for _, description := range []string{"agent", "Debian, provisioned"} {
		s.d.clock.Advance(time.Second)
		s.moves(ingotv1.PortClass_PORT_CLASS_MACHINE, description)
	}
	s.reaches("PHONED_HOME")
}

// TestReinstall puts another system on a machine, loses its power twice on the
// way, and then fails to put a third one on it.
func TestReinstall(t *testing.T) {
	d := newDatacenter(t)
	d.loops()
	m1 := d.server("Ethernet1", d.leaf("sw1"), d.leaf("sw2"))
	s := d.newSite(map[string]string{"b1": m1.uuid})
	m1.reaches("POWERING_ON")
	told := m1.clean("sw1")
	m1.reaches("WAITING")
	userdata := "#cloud-config"
	_, err := d.own.Create(t.Context(), d.want(func(q *apiv2.MachineServiceCreateRequest) { q.Userdata = &userdata }))
	check(t, err)
	in := (<-told).GetInstallation()
	m1.report(ingotv1.AgentStep_AGENT_STEP_PARTITION, ingotv1.StepState_STEP_STATE_BEGUN, "")
	m1.starts(in)
	was := d.get(m1.uuid).GetAllocation()

	member := dial(d.world, ingotv1connect.NewMachineServiceClient, d.member(d.p1, owner))
	reinstall := func(project, image string) (*apiv2.Machine, error) {
		resp, err := member.Reinstall(t.Context(), connect.NewRequest(&ingotv1.MachineServiceReinstallRequest{Uuid: m1.uuid, Project: project, Image: image}))
		if err != nil {
			return nil, err
		}
		return resp.Msg.GetMachine(), nil
	}
	_, err = reinstall(d.p2, debian13)
	wantCode(t, err, connect.CodePermissionDenied, "")
	_, err = reinstall(d.p1, debian13)
	wantCode(t, err, connect.CodeFailedPrecondition, "image "+debian13+": has no pinned digest; an operator must pin it with 'ingot image pin'")
	d.update(func(tx *store.Tx) error {
		for _, i := range []string{debian12, debian13} {
			if err := records.ImageSources.Insert(tx, &ingotv1.ImageSource{Image: i, Sha256: "5e"}); err != nil {
				return err
			}
		}
		return nil
	})
	m, err := reinstall(d.p1, debian13)
	check(t, err)
	if m.GetAllocation().GetImage().GetId() != debian13 {
		t.Errorf("the answer shows image %s", m.GetAllocation().GetImage().GetId())
	}
	_, err = reinstall(d.p1, debian13)
	wantCode(t, err, connect.CodeFailedPrecondition, "machine "+m1.uuid+": is being reinstalled with image "+debian13+" already; wait for it; 'ingot machine timeline' shows how far it is")

	d.until("the power cycle", func() bool { return s.count(bootMedium) == 2 })
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "agent")
	if in := m1.returns("sw1"); !in.GetReinstallation().GetIntact() || in.GetReinstallation().GetDisks()[0].GetSerial() != "serial-a" ||
		in.GetAllocation().GetImage().GetId() != debian13 || in.GetAllocation().GetUserdata() != userdata {
		t.Errorf("the agent is told %v", in)
	}
	m1.returns("sw2") // power was lost
	m1.report(ingotv1.AgentStep_AGENT_STEP_CHECK, ingotv1.StepState_STEP_STATE_BEGUN, "")
	m1.report(ingotv1.AgentStep_AGENT_STEP_PARTITION, ingotv1.StepState_STEP_STATE_BEGUN, "")
	in = m1.returns("sw1") // and again
	if in.GetReinstallation().GetIntact() {
		t.Error("the agent is told that there is something to go back to")
	}
	m1.report(ingotv1.AgentStep_AGENT_STEP_PARTITION, ingotv1.StepState_STEP_STATE_BEGUN, "")
	m1.starts(in)
	now := d.get(m1.uuid).GetAllocation()
	if now.GetImage().GetId() != debian13 {
		t.Errorf("image is %s", now.GetImage().GetId())
	}
	for _, a := range []*apiv2.MachineAllocation{was, now} {
		a.Image, a.Meta = nil, nil
	}
	if !proto.Equal(was, now) {
		t.Errorf("the allocation was\n%v\nand is\n%v", was, now)
	}
	if s.count(bootMedium) != 2 || len(s.actions) != 2 {
		t.Errorf("the BMC was asked for %v", s.actions)
	}

	_, err = reinstall(d.p1, debian12)
	check(t, err)
	d.until("the power cycle", func() bool { return s.count(bootMedium) == 3 })
	m1.moves(ingotv1.PortClass_PORT_CLASS_BOOT, "agent")
	m1.returns("sw1")
	m1.report(ingotv1.AgentStep_AGENT_STEP_CHECK, ingotv1.StepState_STEP_STATE_BEGUN, "")
	m1.report(ingotv1.AgentStep_AGENT_STEP_CHECK, ingotv1.StepState_STEP_STATE_FAILED, "image: the server answers 404 Not Found")
	if image := d.get(m1.uuid).GetAllocation().GetImage().GetId(); image != debian13 {
		t.Errorf("image is %s after %s could not be had", image, debian12)
	}
	wantCode(t, m1.begin("sw1"), connect.CodeFailedPrecondition, "machine "+m1.uuid+": rule installed: is allocated and installed, it boots from its disk; check the boot order that the BMC shows")
	m1.seen()
	if _, tl := m1.phase(); tl.GetWaiting() != nil {
		t.Errorf("waits for %v", tl.GetWaiting())
	}
}

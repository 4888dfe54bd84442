package machine

import (
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// Where signs come from, by their short names.
const (
	fromAPI   = ingotv1.TimelineSource_TIMELINE_SOURCE_API
	fromBMC   = ingotv1.TimelineSource_TIMELINE_SOURCE_BMC
	fromBoot  = ingotv1.TimelineSource_TIMELINE_SOURCE_BOOT
	fromAgent = ingotv1.TimelineSource_TIMELINE_SOURCE_AGENT
	fromLeaf  = ingotv1.TimelineSource_TIMELINE_SOURCE_LEAF
)

// signs collects what should have been seen of a machine in its phase. When
// nothing arrives, the first that is missing says where to look.
type signs struct {
	r     store.Reader
	m     *privatev1.Machine
	since time.Time // when the phase began
	all   []*ingotv1.Sign
}

// expected are the signs of each phase, in the order in which they arrive.
var expected = [phases][]func(*signs){
	discovered:       {(*signs).answer, (*signs).operation},
	poweringOn:       {(*signs).answer, (*signs).operation, (*signs).powered, (*signs).medium, (*signs).authority, (*signs).links, (*signs).inBootVRF, (*signs).script, (*signs).knock},
	booting:          {(*signs).powered, (*signs).knock, (*signs).window},
	preparing:        {(*signs).powered, (*signs).agent},
	registering:      {(*signs).powered, (*signs).agent},
	wiping:           {(*signs).powered, (*signs).agent},
	waiting:          {(*signs).powered, (*signs).agent, (*signs).cached},
	installing:       {(*signs).powered, (*signs).cached, (*signs).agent},
	bootingNewKernel: {(*signs).powered, (*signs).links, (*signs).inTenantVRF, (*signs).heard},
	reclaiming:       {(*signs).answer, (*signs).operation, (*signs).unpowered, (*signs).inBootVRF},
	crashed:          {(*signs).answer, (*signs).operation, (*signs).powered, (*signs).links},
}

// signsOf returns what should have been seen of m in its phase, and whether it
// was.
func signsOf(r store.Reader, m *privatev1.Machine) []*ingotv1.Sign {
	s := &signs{r: r, m: m, since: m.GetPhaseSince().AsTime()}
	for _, look := range expected[m.GetPhase()] {
		look(s)
	}
	return s.all
}

// add notes a sign, and what is known of it. The time of one that is missing
// is the beginning of the phase.
func (s *signs) add(source ingotv1.TimelineSource, what string, seen bool, at *timestamppb.Timestamp, detail string) {
	if at == nil && !seen {
		at = s.m.GetPhaseSince()
	}
	s.all = append(s.all, &ingotv1.Sign{Source: source, What: what, Seen: seen, Time: at, Detail: detail})
}

// bmc returns what the site last found at the machine's BMC.
func (s *signs) bmc() *ingotv1.BMCStatus {
	for b := range records.BMCStatuses.By(s.r, "machine", s.m.GetUuid()) {
		return b.GetStatus()
	}
	return nil
}

// answer: the BMC answers. Machines of the v2 API have no status.
func (s *signs) answer() {
	if b := s.bmc(); b != nil {
		s.add(fromBMC, "an answer of its BMC", b.GetLastError() == "", b.GetLastSeen(), b.GetLastError())
	}
}

// operation: what was ordered was carried out.
func (s *signs) operation() {
	rec, ok := records.Operations.Peek(s.r, s.m.GetUuid())
	o := rec.GetOperation()
	if !ok || o.GetDone() != nil && o.GetDone().AsTime().Before(s.since.Add(-doneWithin)) {
		return
	}
	what := "the operation '" + actionName(o.GetAction()) + "'"
	switch {
	case o.GetDone() != nil:
		s.add(fromBMC, what, o.GetError() == "", o.GetDone(), o.GetError())
	case rec.GetTaken() == nil:
		s.add(fromBMC, what, false, o.GetCreated(), "no management server has taken it")
	default:
		s.add(fromBMC, what, false, rec.GetTaken(), "the management server is at it")
	}
}

// powered: the BMC reports that power is on.
func (s *signs) powered() {
	if state, at := s.power(); state != "" && isOff(state) {
		s.add(fromBMC, "power on", false, nil, "the BMC reports "+state)
	} else if state != "" {
		s.add(fromBMC, "power on", true, at, "")
	}
}

// unpowered: power was seen to be off after the allocation was deleted.
func (s *signs) unpowered() {
	rec, ok := records.Reclaims.Peek(s.r, s.m.GetUuid())
	if !ok {
		return
	}
	detail := ""
	if state, _ := s.power(); rec.GetPowerOffSeen() == nil && state != "" {
		detail = "the BMC reports " + state
	}
	s.add(fromBMC, "power off", rec.GetPowerOffSeen() != nil, rec.GetPowerOffSeen(), detail)
}

// power returns what the BMC last reported, and when.
func (s *signs) power() (state string, at *timestamppb.Timestamp) {
	b, _ := records.MachineBMCs.Peek(s.r, s.m.GetUuid())
	return b.GetReport().GetBmc().GetPowerState(), b.GetReport().GetUpdatedAt()
}

// medium: the BMC presents the boot medium, and boots it.
func (s *signs) medium() {
	b := s.bmc()
	if b.GetMedium() == nil {
		return
	}
	detail := ""
	switch m := b.GetMedium(); {
	case !m.GetInserted() && s.kind() != stickMedium:
		detail = "the virtual drive is empty"
	case m.GetOverrideEnabled() == "Disabled" || !fromMedium(m.GetOverrideTarget()):
		detail = "the boot override is " + m.GetOverrideTarget() + ", " + m.GetOverrideEnabled()
	}
	s.add(fromBMC, "the boot medium", detail == "", b.GetMedium().GetChecked(), detail)
}

// ports calls look with each leaf port that is known to lead to the machine. A
// new machine's are not known before it has registered.
func (s *signs) ports(look func(where string, p *privatev1.LeafPort)) {
	for c := range records.Connections.By(s.r, "machine", s.m.GetUuid()) {
		p, _ := records.LeafPorts.Peek(s.r, records.PortKey(c.GetSwitch(), c.GetPort()))
		look(portOf(c), p)
	}
}

func (s *signs) links() {
	s.ports(func(where string, p *privatev1.LeafPort) {
		switch p.GetStatus() {
		case apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UP:
			s.add(fromLeaf, "link on "+where, true, nil, "")
		case apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UNSPECIFIED:
			s.add(fromLeaf, "link on "+where, false, nil, "the leaf has not reported the port")
		default:
			s.add(fromLeaf, "link on "+where, false, nil, "the port is down")
		}
	})
}

func (s *signs) inBootVRF()   { s.class(ingotv1.PortClass_PORT_CLASS_BOOT, "the boot VRF") }
func (s *signs) inTenantVRF() { s.class(ingotv1.PortClass_PORT_CLASS_MACHINE, "its network's VRF") }

func (s *signs) class(want ingotv1.PortClass, vrf string) {
	s.ports(func(where string, p *privatev1.LeafPort) {
		if p.GetClass() == want {
			s.add(fromLeaf, where+" in "+vrf, true, p.GetMoved(), "")
			return
		}
		sync, _ := records.SwitchSyncs.Peek(s.r, p.GetSwitch())
		s.add(fromLeaf, where+" in "+vrf, false, nil, sync.GetError())
	})
}

// knock: the boot medium has asked metal-boot for its boot id.
func (s *signs) knock() {
	b, ok := records.Boots.Peek(s.r, s.m.GetUuid())
	if ok && b.GetBootId() == s.m.GetBootId() && s.m.GetBootId() != "" {
		s.add(fromBoot, "a request for a boot id", true, b.GetBegan(), "through "+b.GetPort()+" of "+b.GetSwitch())
		return
	}
	s.add(fromBoot, "a request for a boot id", false, nil, s.refusal())
}

// refusal is why metal-boot or the control plane last refused the machine
// something in this phase.
func (s *signs) refusal() string {
	e, _ := records.Events.Peek(s.r, s.m.GetUuid())
	for _, step := range e.GetSteps() {
		if step.GetTime().AsTime().Before(s.since) || step.GetStep() == scriptStep {
			break // an earlier refusal is history
		}
		if step.GetStep() == refusedStep {
			return step.GetMessage()
		}
	}
	return ""
}

// window: the agent may ask for its token, and got it.
func (s *signs) window() {
	w, ok := records.BootWindows.Peek(s.r, s.m.GetUuid())
	s.add(fromAPI, "a boot window, opened by a power off that the BMC saw", ok, w.GetOpened(), "")
	s.add(fromBoot, "a request for the token", false, nil, s.refusal())
}

// agent: the agent has reported something in this boot.
func (s *signs) agent() {
	e, _ := records.Events.Peek(s.r, s.m.GetUuid())
	for _, step := range e.GetSteps() {
		if step.GetTime().AsTime().Before(s.since) {
			break
		}
		if ingotv1.TimelineSource(step.GetSource()) == fromAgent && step.GetBootId() == s.m.GetBootId() {
			s.add(fromAgent, "a report", !step.GetFailed(), step.GetTime(), step.GetStep()+": "+step.GetMessage())
			return
		}
	}
	s.add(fromAgent, "a report", false, nil, "")
}

// cached: the image of the allocation is in the partition's cache.
func (s *signs) cached() {
	a, ok := records.Allocations.Peek(s.r, s.m.GetUuid())
	if !ok {
		return
	}
	image := a.GetAllocation().GetImage().GetId()
	_, ok = records.CachedImages.Peek(s.r, records.CachedImageKey(s.m.GetPartition(), image))
	detail := ""
	source, _ := records.ImageSources.Peek(s.r, image)
	for _, c := range source.GetChecks() {
		if c.GetPartition() == s.m.GetPartition() && !ok {
			detail = c.GetError()
		}
	}
	s.add(fromAPI, "image "+image+" in the partition's cache", ok, nil, detail)
}

// heard: the installed system speaks LLDP.
func (s *signs) heard() {
	s.ports(func(where string, p *privatev1.LeafPort) {
		detail := ""
		if n := p.GetNeighbor(); n != nil {
			detail = "from " + n.GetSystemName() + ": " + n.GetSystemDescription()
		}
		s.add(fromLeaf, "LLDP of the installed system on "+where, p.GetHeard() != nil, p.GetHeard(), detail)
	})
}

package network

import (
	"maps"
	"slices"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	infrav2 "github.com/metal-stack/api/go/metalstack/infra/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// syncEvery is how old the record of a switch's last report may get while
	// nothing in it changes.
	syncEvery = 20 * time.Second
	// PortBatch is how many ports of a report one transaction takes in.
	PortBatch = 64
)

// Report notes what a leaf reports of itself, its ports aside (ReportPort).
func Report(tx *store.Tx, q *ingotv1.LeafServiceReportRequest) error {
	if _, err := records.Leaves.Get(tx, q.GetSwitch()); err != nil {
		return err
	}
	bgp := map[string]*apiv2.SwitchBGPPortState{}
	for _, p := range q.GetPorts() {
		if p.GetBgp() != nil {
			bgp[p.GetName()] = p.GetBgp()
		}
	}
	_, err := note(tx, q.GetSwitch(), &apiv2.SwitchSync{Time: timestamppb.New(tx.Now())}, q.GetError(), q.GetGeneration(), bgp)
	return err
}

// Heartbeat notes what a switch of another make reports of itself, its ports
// aside (HeartbeatPort), and returns its newest reports.
func Heartbeat(tx *store.Tx, q *infrav2.SwitchServiceHeartbeatRequest) (*privatev1.SwitchSync, error) {
	sw, err := records.Switches.Get(tx, q.GetId())
	if err != nil {
		return nil, err
	}
	bgp := map[string]*apiv2.SwitchBGPPortState{}
	for _, n := range sw.GetNics() {
		if _, ok := statusOf(q, n); !ok && len(q.GetPortStates()) > 0 {
			return nil, invalid("port_states lacks port %s of switch %s", n.GetName(), q.GetId()).Do("report all ports or none")
		}
		for _, name := range []string{n.GetName(), n.GetIdentifier()} {
			if s := q.GetBgpPortStates()[name]; s != nil {
				bgp[n.GetName()] = s
			}
		}
	}
	return note(tx, q.GetId(), &apiv2.SwitchSync{Time: timestamppb.New(tx.Now()), Duration: q.GetDuration()}, q.GetError(), nil, bgp)
}

// statusOf returns what a heartbeat says of a port, by name or identifier.
func statusOf(q *infrav2.SwitchServiceHeartbeatRequest, n *apiv2.SwitchNic) (apiv2.SwitchPortStatus, bool) {
	for _, name := range []string{n.GetName(), n.GetIdentifier()} {
		if s, ok := q.GetPortStates()[name]; ok {
			return s, true
		}
	}
	return 0, false
}

// HeartbeatPort notes the state of one port of a Heartbeat.
func HeartbeatPort(tx *store.Tx, q *infrav2.SwitchServiceHeartbeatRequest, n *apiv2.SwitchNic) error {
	s, ok := statusOf(q, n)
	if !ok {
		return nil
	}
	p, known := records.LeafPorts.Peek(tx, records.PortKey(q.GetId(), n.GetName()))
	if !known {
		p = &privatev1.LeafPort{Switch: q.GetId(), Port: n.GetName()}
	}
	if known && p.GetStatus() == s {
		return nil
	}
	p.Status = s
	return records.LeafPorts.Put(tx, p)
}

// note returns the record of a switch's reports with a new one in it. It stores
// it only if something else than counters changed, or if the stored one is
// getting old.
func note(tx *store.Tx, id string, at *apiv2.SwitchSync, problem string, g *ingotv1.Generation, bgp map[string]*apiv2.SwitchBGPPortState) (*privatev1.SwitchSync, error) {
	old, known := records.SwitchSyncs.Peek(tx, id)
	s := &privatev1.SwitchSync{Switch: id}
	if known {
		s = proto.Clone(old).(*privatev1.SwitchSync)
	}
	newest := s.GetLastSync()
	if problem != "" {
		at.Error = proto.String(problem)
		newest, s.LastSyncError = s.GetLastSyncError(), at
	} else {
		s.LastSync = at
	}
	s.Error, s.Generation, s.Bgp = problem, g, bgp
	fresh := newest != nil && tx.Now().Sub(newest.GetTime().AsTime()) < syncEvery
	if known && fresh && old.GetError() == problem && proto.Equal(old.GetGeneration(), g) && sameSessions(old.GetBgp(), bgp) {
		return s, nil
	}
	return s, records.SwitchSyncs.Put(tx, s)
}

// sameSessions compares BGP sessions without counters and times.
func sameSessions(a, b map[string]*apiv2.SwitchBGPPortState) bool {
	return maps.EqualFunc(a, b, func(x, y *apiv2.SwitchBGPPortState) bool {
		return x.GetBgpState() == y.GetBgpState() && x.GetVrfName() == y.GetVrfName() && x.GetNeighbor() == y.GetNeighbor() && x.GetPeerGroup() == y.GetPeerGroup()
	})
}

// Switch returns a switch as the v2 API shows it: with the VRF and the BGP
// filter each port is to have, the state it is in, the machines behind it, and
// the newest reports.
func Switch(r store.Reader, id string) (*apiv2.Switch, error) {
	sw, err := records.Switches.Get(r, id)
	if err != nil {
		return nil, err
	}
	return ShowSwitch(r, sw), nil
}

// ShowSwitch is Switch for a record.
func ShowSwitch(r store.Reader, sw *apiv2.Switch) *apiv2.Switch {
	s, err := siteOf(r, sw.GetId())
	if err != nil {
		s = &site{leaf: &privatev1.Leaf{Switch: sw.GetId()}} // not a leaf of Ingot's
	}
	sync, _ := records.SwitchSyncs.Peek(r, sw.GetId())
	sw.LastSync, sw.LastSyncError = sync.GetLastSync(), sync.GetLastSyncError()
	states := map[string]*privatev1.LeafPort{}
	for p := range records.LeafPorts.Prefix(r, records.PortKey(sw.GetId(), "")) {
		states[p.GetPort()] = p
	}
	for _, n := range sw.GetNics() {
		w := s.want(r, n.GetName())
		if slices.Contains(s.leaf.GetUplinks(), n.GetName()) {
			w = want{}
		}
		n.State = showState(n.GetState(), states[n.GetName()])
		n.BgpPortState = sync.GetBgp()[n.GetName()]
		n.Vrf, n.BgpFilter = showVRF(r, w)
		if w.machine != "" {
			sw.MachineConnections = append(sw.MachineConnections, &apiv2.MachineConnection{MachineId: w.machine, Nic: n})
		}
	}
	return sw
}

// showState joins what an operator wants of a port with what it is: a wish that
// has come true is not shown.
func showState(wanted *apiv2.NicState, p *privatev1.LeafPort) *apiv2.NicState {
	s := &apiv2.NicState{Desired: wanted.GetDesired().Enum(), Actual: p.GetStatus()}
	if s.Actual == 0 {
		s.Actual = apiv2.SwitchPortStatus_SWITCH_PORT_STATUS_UNKNOWN
	}
	if wanted.GetDesired() == 0 || wanted.GetDesired() == p.GetStatus() {
		s.Desired = nil
	}
	return s
}

// showVRF returns the VRF and the BGP filter of a port in the form of the v2
// API: a firewall's port is in the VRF "default" and filtered by the VNIs of its
// networks.
func showVRF(r store.Reader, w want) (*string, *apiv2.BGPFilter) {
	if w.class == machineClass {
		f := &apiv2.BGPFilter{}
		for _, p := range accepted(r, w.machine, w.allocation) {
			f.Cidrs = append(f.Cidrs, p.String())
		}
		return &w.vrf, f
	}
	if a := running(r, w.machine); a.GetAllocationType() == firewallType && w.class == bootClass {
		return proto.String("default"), firewallFilter(a)
	}
	if w.vrf == "" {
		return nil, nil
	}
	return &w.vrf, nil
}

// ConnectedTo returns the switches a machine is connected to.
func ConnectedTo(r store.Reader, machine string) []string {
	var out []string
	for c := range records.Connections.By(r, "machine", machine) {
		out = append(out, c.GetSwitch())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

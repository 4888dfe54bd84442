package leaf

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A Port is what a port of the switch is right now, as read from the device.
type Port struct {
	Name string
	MAC  net.HardwareAddr
	// Up means that the link has carrier.
	Up bool
	// VRF is the one the kernel has the port in; empty: the default one.
	VRF string
	// Class is that of the filter which is bound to the port; unspecified if
	// there is none.
	Class ingotv1.PortClass
	// BGP is the session on the port; nil if there is none.
	BGP *apiv2.SwitchBGPPortState
}

// sessions are FRR's BGP sessions by port.
func (l *Linux) sessions(ctx context.Context) (map[string]*apiv2.SwitchBGPPortState, error) {
	out, err := l.ask(ctx, bgpd, "show bgp vrf all neighbors json")
	if err != nil {
		return nil, err
	}
	return parseSessions([]byte(out), time.Now())
}

// session is the part of FRR's account of a BGP neighbour that is reported.
type session struct {
	State    string `json:"bgpState"`
	Group    string `json:"peerGroup"`
	Hostname string `json:"hostname"`
	UpMsec   int64  `json:"bgpTimerUpMsec"`
	Families map[string]struct {
		Sent     uint64 `json:"sentPrefixCounter"`
		Accepted uint64 `json:"acceptedPrefixCounter"`
	} `json:"addressFamilyInfo"`
}

// parseSessions reads `show bgp vrf all neighbors json`: by VRF, the VRF's own
// attributes and its neighbours side by side.
func parseSessions(b []byte, now time.Time) (map[string]*apiv2.SwitchBGPPortState, error) {
	sessions := map[string]*apiv2.SwitchBGPPortState{}
	if len(strings.TrimSpace(string(b))) == 0 {
		return sessions, nil // no instance at all
	}
	var vrfs map[string]map[string]json.RawMessage
	if err := json.Unmarshal(b, &vrfs); err != nil {
		return nil, fault.Wrap(fault.Internal, "frr", "lists its sessions in a form unknown to this version", err)
	}
	for vrf, members := range vrfs {
		for name, raw := range members {
			var s session
			if !strings.HasPrefix(string(raw), "{") || json.Unmarshal(raw, &s) != nil || s.State == "" {
				continue // an attribute of the VRF
			}
			p := &apiv2.SwitchBGPPortState{
				Neighbor: name, PeerGroup: s.Group, VrfName: vrf,
				BgpState: apiv2.BGPState(apiv2.BGPState_value["BGP_STATE_"+bgpStates[s.State]]),
			}
			if s.Hostname != "" {
				p.Neighbor = s.Hostname
			}
			if p.BgpState == apiv2.BGPState_BGP_STATE_ESTABLISHED {
				p.BgpTimerUpEstablished = timestamppb.New(now.Add(-time.Duration(s.UpMsec) * time.Millisecond).Truncate(time.Second))
			}
			for _, f := range s.Families {
				p.SentPrefixCounter += f.Sent
				p.AcceptedPrefixCounter += f.Accepted
			}
			sessions[name] = p
		}
	}
	return sessions, nil
}

// bgpStates are the states of RFC 4271 in FRR's words and the API's.
var bgpStates = map[string]string{
	"Idle": "IDLE", "Connect": "CONNECT", "Active": "ACTIVE", "OpenSent": "OPEN_SENT",
	"OpenConfirm": "OPEN_CONFIRM", "Established": "ESTABLISHED",
}

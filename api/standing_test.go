package api_test

import (
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// stands returns where the machine stands.
func (s *server) stands() *ingotv1.Standing {
	s.d.t.Helper()
	resp, err := s.d.timeline.ListAny(s.d.t.Context(), connect.NewRequest(&ingotv1.TimelineServiceListAnyRequest{Uuids: []string{s.uuid}}))
	check(s.d.t, err)
	if len(resp.Msg.GetStandings()) != 1 {
		s.d.t.Fatalf("asked for one machine: %v", resp.Msg)
	}
	return resp.Msg.GetStandings()[0]
}

func TestStandings(t *testing.T) {
	d := newDatacenter(t)
	m1, m2 := d.found(4, "Ethernet1", "sw1", "sw2"), d.found(4, "Ethernet2", "sw1", "sw2")
	for _, tt := range []struct {
		name string
		req  *ingotv1.TimelineServiceListAnyRequest
		want int
	}{
		{"all", &ingotv1.TimelineServiceListAnyRequest{}, 2},
		{"of the partition", &ingotv1.TimelineServiceListAnyRequest{Partition: new(partition1)}, 2},
		{"of another partition", &ingotv1.TimelineServiceListAnyRequest{Partition: new("partition-2")}, 0},
		{"one, and one that does not exist", &ingotv1.TimelineServiceListAnyRequest{Uuids: []string{m2, uuid.NewString()}}, 1},
		{"one of another partition", &ingotv1.TimelineServiceListAnyRequest{Partition: new("partition-2"), Uuids: []string{m1}}, 0},
	} {
		resp, err := d.timeline.ListAny(t.Context(), connect.NewRequest(tt.req))
		check(t, err)
		if len(resp.Msg.GetStandings()) != tt.want {
			t.Errorf("%s: %v", tt.name, resp.Msg)
		}
		for _, st := range resp.Msg.GetStandings() {
			if st.GetPhase() != ingotv1.MachinePhase_MACHINE_PHASE_WAITING || st.GetPhaseSince() == nil || st.GetWaiting().GetWhat() != "an allocation" {
				t.Errorf("%s: %v", tt.name, st)
			}
		}
	}
}

func TestSites(t *testing.T) {
	d := newDatacenter(t)
	site := dial(d.world, ingotv1connect.NewSiteServiceClient, d.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt1"))
	_, err := site.Cached(t.Context(), connect.NewRequest(&ingotv1.SiteServiceCachedRequest{
		Partition: partition1, Medium: &ingotv1.Medium{Url: "https://mgmt1/boot.iso", Size: 7},
	}))
	check(t, err)
	fabrics := dial(d.world, ingotv1connect.NewFabricServiceClient, d.admin)
	for partition, want := range map[string]int{"": 1, partition1: 1, "partition-2": 0} {
		req := &ingotv1.FabricServiceSitesRequest{}
		if partition != "" {
			req.Partition = &partition
		}
		resp, err := fabrics.Sites(t.Context(), connect.NewRequest(req))
		check(t, err)
		if got := resp.Msg.GetSites(); len(got) != want || want == 1 && (got[0].GetMedium().GetSize() != 7 || got[0].GetSeen() == nil) {
			t.Errorf("partition %q: %v", partition, got)
		}
	}
}

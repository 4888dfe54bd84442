package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

func TestTimeline(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	m := &ingotv1.Timeline{
		Phase: ingotv1.MachinePhase_MACHINE_PHASE_WAITING, PhaseSince: ago(90 * time.Second),
		Entries: []*ingotv1.TimelineEntry{
			{Time: ago(2 * time.Minute), Source: ingotv1.TimelineSource_TIMELINE_SOURCE_BMC, Step: "power", Message: "powered\non"},
			{Time: ago(90 * time.Second), Source: ingotv1.TimelineSource_TIMELINE_SOURCE_AGENT, Step: "image", Took: durationpb.New(1234 * time.Millisecond), Failed: true},
		},
		Waiting: &ingotv1.Waiting{What: "the agent", Since: ago(90 * time.Second), OverdueAt: ago(time.Minute), Remedy: "look at the console", Signs: []*ingotv1.Sign{
			{Source: ingotv1.TimelineSource_TIMELINE_SOURCE_BMC, What: "power on", Seen: true, Time: ago(90 * time.Second)},
			{Source: ingotv1.TimelineSource_TIMELINE_SOURCE_LEAF, What: "link on swp1 of leaf1", Time: ago(time.Minute), Detail: "the port is down"},
		}},
	}
	for _, c := range []struct{ overdue, want string }{
		{"-1m", "waiting: for the agent, since 1m30s, overdue by 1m\n"},
		{"5m", "waiting: for the agent, since 1m30s, for at most 5m more\n"},
		{"", "waiting: for the agent, since 1m30s\n"},
	} {
		m.Waiting.OverdueAt = nil
		if c.overdue != "" {
			at, err := parseTime(c.overdue, now)
			if err != nil {
				t.Fatal(err)
			}
			m.Waiting.OverdueAt = timestamppb.New(at)
		}
		var b strings.Builder
		p := printer{to: &b, now: now}
		if err := p.timeline(m.ProtoReflect()); err != nil {
			t.Fatal(err)
		}
		want := "TIME                  SOURCE  STEP   TOOK  FAILED  MESSAGE\n" +
			"2026-01-31T11:58:00Z  bmc     power        false   powered on\n" +
			"2026-01-31T11:58:30Z  agent   image  1.2s  true\n\n" +
			"phase:   waiting for 1m30s\n" + c.want + "do:      look at the console\n\n" +
			"SOURCE  WHAT                   SEEN   TIME                  DETAIL\n" +
			"bmc     power on               true   2026-01-31T11:58:30Z\n" +
			"leaf    link on swp1 of leaf1  false  2026-01-31T11:59:00Z  the port is down\n"
		if d := cmp.Diff(want, b.String()); d != "" {
			t.Error(d)
		}
	}
}

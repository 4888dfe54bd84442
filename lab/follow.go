package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// API returns a client with the rights of the data centre's operator.
func (d *DataCenter) API() (*client.Client, error) {
	return client.New(d.control.api())
}

// A Sighting is something new on the timeline of a server.
type Sighting struct {
	Server int // from 1
	*ingotv1.TimelineEntry
}

// Text says what happened in one line.
func (s Sighting) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %-5s %s", serverName(s.Server), strings.ToLower(strings.TrimPrefix(s.GetSource().String(), "TIMELINE_SOURCE_")), s.GetStep())
	if s.GetMessage() != "" {
		b.WriteString(": " + s.GetMessage())
	}
	if t := s.GetTook().AsDuration(); t > 0 {
		fmt.Fprintf(&b, " (%.1f s)", t.Seconds())
	}
	return b.String()
}

// A Goal says what a server shall reach.
type Goal struct {
	Server int // from 1
	Phase  ingotv1.MachinePhase
}

// Reach waits until every goal is reached, and hands what happens on the way
// to see, if that is set and if no earlier call saw it. An error says what the
// servers wait for.
func (d *DataCenter) Reach(ctx context.Context, see func(Sighting), goals ...Goal) error {
	c, err := d.API()
	if err != nil {
		return err
	}
	defer c.Close()
	timelines := client.Of(c, ingotv1connect.NewTimelineServiceClient)
	for {
		var missing []string
		for n := 1; n <= len(d.Servers); n++ {
			t, err := timelines.GetAny(ctx, connect.NewRequest(&ingotv1.TimelineServiceGetAnyRequest{Uuid: UUID(n)}))
			if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
				return d.stuck(ctx, missing, err)
			}
			line := &ingotv1.Timeline{}
			if err == nil {
				line = t.Msg.GetTimeline()
			}
			if see != nil {
				for _, e := range d.news[n].of(line.GetEntries()) {
					see(Sighting{n, e})
				}
			}
			for _, g := range goals {
				if g.Server == n && line.GetPhase() != g.Phase {
					missing = append(missing, explain(n, line))
				}
			}
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return d.stuck(ctx, missing, ctx.Err())
		case err := <-d.errs:
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// explain says where a server stands and what it waits for.
func explain(n int, t *ingotv1.Timeline) string {
	if t.GetPhase() == 0 {
		return serverName(n) + " has not been discovered yet"
	}
	s := fmt.Sprintf("%s is %s", serverName(n), PhaseName(t.GetPhase()))
	if w := t.GetWaiting(); w.GetWhat() != "" {
		s += fmt.Sprintf(" and waits %s for %s", time.Since(w.GetSince().AsTime()).Round(time.Second), w.GetWhat())
		if w.GetRemedy() != "" {
			s += " (" + w.GetRemedy() + ")"
		}
		if i := slices.IndexFunc(w.GetSigns(), func(s *ingotv1.Sign) bool { return !s.GetSeen() }); i >= 0 {
			s += strings.TrimSuffix("; missing: "+w.GetSigns()[i].GetWhat()+": "+w.GetSigns()[i].GetDetail(), ": ")
		}
	}
	return s
}

// PhaseName returns the word for a phase.
func PhaseName(p ingotv1.MachinePhase) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(p.String(), "MACHINE_PHASE_")), "_", " ")
}

func (d *DataCenter) stuck(ctx context.Context, missing []string, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fault.Wrap(fault.Unavailable, "lab", strings.Join(missing, "; "), err).Do("look at the consoles below " + d.plan.Dir)
}

// news is what was seen of a timeline: everything until a moment, and what
// happened at that moment.
type news struct {
	until time.Time
	then  map[string]bool
}

// of returns the entries that were not seen yet. A step that goes on is new
// whenever it reports.
func (w *news) of(entries []*ingotv1.TimelineEntry) []*ingotv1.TimelineEntry {
	var fresh []*ingotv1.TimelineEntry
	for _, e := range entries {
		at, text := e.GetTime().AsTime(), Sighting{TimelineEntry: e}.Text()
		if at.Before(w.until) || at.Equal(w.until) && w.then[text] {
			continue
		}
		if at.After(w.until) {
			w.until, w.then = at, map[string]bool{}
		}
		w.then[text] = true
		fresh = append(fresh, e)
	}
	return fresh
}

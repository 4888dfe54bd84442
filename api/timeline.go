package api

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/machine"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// timelines serves the stories of machines.
type timelines struct{ *Server }

var _ ingotv1connect.TimelineServiceHandler = timelines{}

// progress is what agents are doing at the moment.
type progress struct {
	mu  sync.Mutex
	now map[string]doing // by uuid
}

// doing is a step of an agent in one boot of its machine.
type doing struct {
	boot string
	*ingotv1.Progress
}

// note keeps a step that has begun or progresses, and forgets it when it ends.
func (p *progress) note(req *ingotv1.AgentServiceReportRequest, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := &ingotv1.Progress{Step: machine.StepName(req.GetStep()), Message: req.GetMessage(), Time: timestamppb.New(at)}
	switch req.GetState() {
	case ingotv1.StepState_STEP_STATE_BEGUN:
	case ingotv1.StepState_STEP_STATE_PROGRESS:
		now.Percent = new(req.GetPercent())
		if req.GetTimeLeft().AsDuration() > 0 {
			now.TimeLeft = req.GetTimeLeft()
		}
	default:
		delete(p.now, req.GetUuid())
		return
	}
	if p.now == nil {
		p.now = map[string]doing{}
	}
	p.now[req.GetUuid()] = doing{req.GetBootId(), now}
}

func (p *progress) forget(uuid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.now, uuid)
}

// of returns what the agent of a machine is doing in its running boot; nil if
// nothing is known.
func (p *progress) of(m *privatev1.Machine) *ingotv1.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.now[m.GetUuid()]; d.boot == m.GetBootId() {
		return d.Progress
	}
	return nil
}

// entryOf returns progress as the newest entry of a timeline.
func entryOf(p *ingotv1.Progress, boot string) *ingotv1.TimelineEntry {
	message := p.GetMessage()
	if p.Percent != nil {
		message = strings.TrimPrefix(fmt.Sprintf("%s: %d %%", message, p.GetPercent()), ": ")
		if left := p.GetTimeLeft().AsDuration(); left > 0 {
			message += ", " + left.Round(time.Second).String() + " left"
		}
	}
	return &ingotv1.TimelineEntry{Time: p.GetTime(), Source: ingotv1.TimelineSource_TIMELINE_SOURCE_AGENT, Step: p.GetStep(), Message: message, BootId: boot}
}

func (s *Server) timeline(ctx context.Context, m *privatev1.Machine) *ingotv1.Timeline {
	t := machine.Timeline(s.view(ctx), m)
	if t.Progress = s.progress.of(m); t.Progress != nil {
		t.Entries = append(t.Entries, entryOf(t.Progress, m.GetBootId()))
	}
	return t
}

// Get implements ingot.v1.
func (s timelines) Get(ctx context.Context, req *connect.Request[ingotv1.TimelineServiceGetRequest]) (*connect.Response[ingotv1.TimelineServiceGetResponse], error) {
	m, err := own(s.view(ctx), req.Msg.GetUuid(), req.Msg.GetProject())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.TimelineServiceGetResponse{Timeline: s.timeline(ctx, m)}), nil
}

// GetAny implements ingot.v1.
func (s timelines) GetAny(ctx context.Context, req *connect.Request[ingotv1.TimelineServiceGetAnyRequest]) (*connect.Response[ingotv1.TimelineServiceGetAnyResponse], error) {
	m, err := records.Machines.Get(s.view(ctx), req.Msg.GetUuid())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ingotv1.TimelineServiceGetAnyResponse{Timeline: s.timeline(ctx, m)}), nil
}

// ListAny implements ingot.v1.
func (s timelines) ListAny(ctx context.Context, req *connect.Request[ingotv1.TimelineServiceListAnyRequest]) (*connect.Response[ingotv1.TimelineServiceListAnyResponse], error) {
	r, out := s.view(ctx), &ingotv1.TimelineServiceListAnyResponse{}
	for m := range pickMachines(r, req.Msg.GetUuids()) {
		if req.Msg.Partition != nil && m.GetPartition() != req.Msg.GetPartition() {
			continue
		}
		st := machine.Stands(r, m)
		st.Progress = s.progress.of(m)
		out.Standings = append(out.Standings, st)
	}
	return connect.NewResponse(out), nil
}

// pickMachines yields those of some machines that exist; all if none is named.
func pickMachines(r store.Reader, uuids []string) iter.Seq[*privatev1.Machine] {
	if len(uuids) == 0 {
		return records.Machines.All(r)
	}
	return func(yield func(*privatev1.Machine) bool) {
		for _, uuid := range uuids {
			if m, ok := records.Machines.Peek(r, uuid); ok && !yield(m) {
				return
			}
		}
	}
}

package api

import (
	"context"
	"fmt"
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
)

// timelines serves the stories of machines.
type timelines struct{ *Server }

var _ ingotv1connect.TimelineServiceHandler = timelines{}

// progress is what agents are doing at the moment.
type progress struct {
	mu  sync.Mutex
	now map[string]*ingotv1.TimelineEntry // by uuid
}

// note keeps a step that has begun or progresses, and forgets it when it ends.
func (p *progress) note(req *ingotv1.AgentServiceReportRequest, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch req.GetState() {
	case ingotv1.StepState_STEP_STATE_BEGUN, ingotv1.StepState_STEP_STATE_PROGRESS:
	default:
		delete(p.now, req.GetUuid())
		return
	}
	message := req.GetMessage()
	if req.GetState() == ingotv1.StepState_STEP_STATE_PROGRESS {
		message = strings.TrimPrefix(fmt.Sprintf("%s: %d %%", message, req.GetPercent()), ": ")
		if left := req.GetTimeLeft().AsDuration(); left > 0 {
			message += ", " + left.Round(time.Second).String() + " left"
		}
	}
	if p.now == nil {
		p.now = map[string]*ingotv1.TimelineEntry{}
	}
	p.now[req.GetUuid()] = &ingotv1.TimelineEntry{
		Time: timestamppb.New(at), Source: ingotv1.TimelineSource_TIMELINE_SOURCE_AGENT, Step: machine.StepName(req.GetStep()), Message: message, BootId: req.GetBootId(),
	}
}

func (p *progress) forget(uuid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.now, uuid)
}

// of returns what the agent of a machine is doing in its running boot.
func (p *progress) of(m *privatev1.Machine) *ingotv1.TimelineEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.now[m.GetUuid()]; e.GetBootId() == m.GetBootId() {
		return e
	}
	return nil
}

func (s *Server) timeline(ctx context.Context, m *privatev1.Machine) *ingotv1.Timeline {
	t := machine.Timeline(s.view(ctx), m)
	if e := s.progress.of(m); e != nil {
		t.Entries = append(t.Entries, e)
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

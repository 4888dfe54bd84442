package machine

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// keepEvents is how many provisioning events of a machine the store keeps.
	keepEvents = 20
	// keepSteps is how many steps it keeps: those of two installations.
	keepSteps = 48
)

// A Step is something worth telling that moves no machine.
type Step struct {
	Source  ingotv1.TimelineSource
	Step    string // what it belongs to: an agent step, a port, an operation
	Message string
	Took    time.Duration
	Failed  bool
	BootID  string
}

// Happen lets h happen to a machine now: fault.NotFound if there is none.
func Happen(tx *store.Tx, uuid string, h Happening) (*privatev1.Machine, Outcome, error) {
	var out Outcome
	h.Time = tx.Now()
	m, err := records.Machines.Change(tx, uuid, func(m *privatev1.Machine) error {
		out = Next(m, h)
		return nil
	})
	if err != nil || out.Recorded == nil {
		return m, out, err
	}
	return m, out, remember(tx, uuid, func(e *privatev1.Events) {
		e.Events = newest(e.Events, out.Recorded, keepEvents)
	})
}

// Note adds a step to the story of a machine.
func Note(tx *store.Tx, uuid string, s Step) error {
	return remember(tx, uuid, func(e *privatev1.Events) {
		e.Steps = newest(e.Steps, &privatev1.Event{
			Time: timestamppb.New(tx.Now()), Source: int32(s.Source), Step: s.Step, Message: s.Message,
			TookMs: s.Took.Milliseconds(), Failed: s.Failed, BootId: s.BootID,
		}, keepSteps)
	})
}

// remember edits the events of a machine, which may have none yet.
func remember(tx *store.Tx, uuid string, edit func(*privatev1.Events)) error {
	e, err := records.Events.Get(tx, uuid)
	if isNotFound(err) {
		e, err = &privatev1.Events{Uuid: uuid}, nil
	}
	if err != nil {
		return err
	}
	edit(e)
	return records.Events.Put(tx, e)
}

// newest puts e first and keeps at most n.
func newest(events []*privatev1.Event, e *privatev1.Event, n int) []*privatev1.Event {
	events = append([]*privatev1.Event{e}, events...)
	return events[:min(len(events), n)]
}

// refusedStep is what a timeline calls a refusal.
const refusedStep = "refused"

// Refused tells the story of a machine that it was refused, unless nothing has
// happened since that was told: a refused machine keeps asking. A machine that
// is not known has no story.
func Refused(tx *store.Tx, uuid, why string) error {
	return once(tx, uuid, Step{Source: fromBoot, Step: refusedStep, Message: why, Failed: true})
}

// Troubled tells why an agent gets no further, likewise.
func Troubled(tx *store.Tx, uuid, bootID, why string) error {
	return once(tx, uuid, Step{Source: fromAgent, Step: "trouble", Message: why, Failed: true, BootID: bootID})
}

func once(tx *store.Tx, uuid string, s Step) error {
	if _, err := records.Machines.Get(tx, uuid); err != nil {
		return ignoreNotFound(err)
	}
	e, err := records.Events.Get(tx, uuid)
	if err != nil && !isNotFound(err) {
		return err
	}
	if len(e.GetSteps()) > 0 && e.GetSteps()[0].GetMessage() == s.Message && e.GetSteps()[0].GetBootId() == s.BootID {
		return nil
	}
	return Note(tx, uuid, s)
}

// StaysAlive reports whether a sign of life tells nothing new of a machine.
func StaysAlive(m *privatev1.Machine) bool {
	return m.GetLiveliness() == alive && table[m.GetPhase()][Alive].bare == same
}

package machine

import (
	"cmp"
	"errors"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// The actions on a BMC, by their short names.
const (
	actOn         = ingotv1.OperationAction_OPERATION_ACTION_ON
	actOff        = ingotv1.OperationAction_OPERATION_ACTION_OFF
	actReset      = ingotv1.OperationAction_OPERATION_ACTION_RESET
	actCycle      = ingotv1.OperationAction_OPERATION_ACTION_CYCLE
	actBIOS       = ingotv1.OperationAction_OPERATION_ACTION_BOOT_TO_BIOS
	actDisk       = ingotv1.OperationAction_OPERATION_ACTION_BOOT_FROM_DISK
	actBootMedium = ingotv1.OperationAction_OPERATION_ACTION_BOOT_MEDIUM
	actLEDOn      = ingotv1.OperationAction_OPERATION_ACTION_LED_ON
	actLEDOff     = ingotv1.OperationAction_OPERATION_ACTION_LED_OFF
	actShutdown   = ingotv1.OperationAction_OPERATION_ACTION_SHUTDOWN
	actInterrupt  = ingotv1.OperationAction_OPERATION_ACTION_INTERRUPT
)

const (
	// commandWithin is how long a person's command waits for somebody to take
	// it, takeWithin how long any other operation does: one that is carried out
	// hours later is a surprise.
	commandWithin, takeWithin = time.Minute, 10 * time.Minute
	// doneWithin is how long who took an operation has to end it: a firmware
	// may need minutes to insert a medium or to power off gracefully.
	doneWithin = 10 * time.Minute
	// windowOpen is how long after its power cycle a machine may ask for its
	// token: big servers test their memory for minutes.
	windowOpen = 15 * time.Minute
)

// commands maps the commands of the v2 API to actions.
var commands = map[apiv2.MachineBMCCommand]ingotv1.OperationAction{
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_ON:               actOn,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_OFF:              actOff,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_RESET:            actReset,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_CYCLE:            actCycle,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_BOOT_TO_BIOS:     actBIOS,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_BOOT_FROM_DISK:   actDisk,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_BOOT_FROM_PXE:    actBootMedium,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_ON:  actLEDOn,
	apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_OFF: actLEDOff,
}

// CommandOf returns what the v2 API calls an operation when it is given to a
// listener of that API.
func CommandOf(o *privatev1.Operation) apiv2.MachineBMCCommand {
	if o.GetCommand() != 0 {
		return o.GetCommand()
	}
	switch o.GetOperation().GetAction() {
	case actBootMedium:
		return apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_MACHINE_DELETED
	case actDisk:
		return apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_MACHINE_CREATED
	case actShutdown:
		return apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_OFF
	}
	for c, a := range commands {
		if a == o.GetOperation().GetAction() {
			return c
		}
	}
	return apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_UNSPECIFIED
}

func isNotFound(err error) bool { return errors.Is(err, fault.NotFound) }

func ignoreNotFound(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}

// object is how errors call a machine.
func object(uuid string) string { return "machine " + uuid }

// Command orders what a person asks of a BMC through the v2 API. A command
// that ends a running system is a planned reboot.
func Command(tx *store.Tx, id string, m *privatev1.Machine, c apiv2.MachineBMCCommand, by string) error {
	action, ok := commands[c]
	if !ok {
		return fault.Newf(fault.Invalid, object(m.GetUuid()), "command %s is not for people", c)
	}
	return ask(tx, id, m, action, c, "bmc command "+c.String()+" by "+by, by)
}

// ask orders what a person asks of a BMC, and tells of it where that ends a
// running system.
func ask(tx *store.Tx, id string, m *privatev1.Machine, action ingotv1.OperationAction, c apiv2.MachineBMCCommand, message, by string) error {
	if !connected(tx, m.GetUuid()) {
		return fault.Newf(fault.Precondition, "", "machine %q does not have bmc connections details yet", m.GetUuid())
	}
	if action == actBootMedium {
		if err := mayLose(tx, m); err != nil {
			return err
		}
	}
	if err := order(tx, id, m, action, c, "asked for by "+by); err != nil {
		return err
	}
	if m.GetPhase() == reclaiming {
		return nil // it stays on its way to the boot medium
	}
	switch action {
	case actOff, actReset, actCycle, actDisk, actBIOS, actShutdown, actInterrupt:
		_, _, err := Happen(tx, m.GetUuid(), Happening{Event: Rebooting, Message: message})
		return err
	default: // a boot medium's power cycle is told when it was done
		return nil
	}
}

// Shutdown orders that the operating system of a machine shuts down, or else
// that it loses power.
func Shutdown(tx *store.Tx, id, uuid, by string) error {
	return askOf(tx, id, uuid, actShutdown, by)
}

// Interrupt orders a non-maskable interrupt for a machine.
func Interrupt(tx *store.Tx, id, uuid, by string) error {
	return askOf(tx, id, uuid, actInterrupt, by)
}

func askOf(tx *store.Tx, id, uuid string, action ingotv1.OperationAction, by string) error {
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	return ask(tx, id, m, action, 0, actionName(action)+" by "+by, by)
}

// connected reports whether somebody can reach the BMC of a machine: by the
// operator's credentials, or by those the v2 API reported.
func connected(r store.Reader, uuid string) bool {
	b, ok := records.MachineBMCs.Peek(r, uuid)
	if !ok {
		return false
	}
	if b.GetBmc() != "" {
		return true
	}
	_, sealed := records.Secrets.Peek(r, records.MachineBMCPasswordKey(uuid))
	return sealed && b.GetReport().GetBmc().GetAddress() != "" && b.GetReport().GetBmc().GetUser() != ""
}

// Order orders an action on a machine's BMC. At most one runs per machine:
// fault.Precondition while another has not ended.
func Order(tx *store.Tx, id string, m *privatev1.Machine, action ingotv1.OperationAction, reason string) error {
	return order(tx, id, m, action, 0, reason)
}

func order(tx *store.Tx, id string, m *privatev1.Machine, action ingotv1.OperationAction, c apiv2.MachineBMCCommand, reason string) error {
	var attempts uint32
	switch old, err := records.Operations.Get(tx, m.GetUuid()); {
	case isNotFound(err):
	case err != nil:
		return err
	case old.GetOperation().GetDone() == nil:
		return fault.Newf(fault.Precondition, object(m.GetUuid()), "operation %s has not ended: %s", actionName(old.GetOperation().GetAction()), old.GetOperation().GetReason()).
			Do("wait for it; 'ingot machine timeline' shows how far it is")
	case old.GetOperation().GetAction() == action && old.GetOperation().GetError() != "":
		attempts = old.GetOperation().GetAttempts() + 1
	}
	return records.Operations.Put(tx, &privatev1.Operation{
		Operation: &ingotv1.Operation{Id: id, Machine: m.GetUuid(), Action: action, Reason: reason, Created: timestamppb.New(tx.Now()), Attempts: attempts},
		Partition: m.GetPartition(), Command: c,
	})
}

// Take gives an open operation to a listener: false if it ended or somebody
// else has it.
func Take(tx *store.Tx, uuid, listener string) (*privatev1.Operation, bool, error) {
	took := false
	o, err := records.Operations.Change(tx, uuid, func(o *privatev1.Operation) error {
		if took = o.GetOperation().GetDone() == nil && (o.GetListener() == "" || o.GetListener() == listener); took && o.GetListener() == "" {
			o.Listener, o.Taken = listener, timestamppb.New(tx.Now())
		}
		return nil
	})
	if isNotFound(err) {
		return nil, false, nil
	}
	return o, took, err
}

// A Result is how an operation ended.
type Result struct {
	ID    string
	Error string // empty if it succeeded
	// PowerOff is when the BMC was seen to report power off; nil if it was not.
	PowerOff *timestamppb.Timestamp
	// V2 is set for listeners of the v2 API, who observe no power off. Their
	// machines get their tokens in another way.
	V2 bool
}

// Done ends an operation once; repeating it, or ending one that was replaced,
// is a success without effect. A power cycle into the boot medium opens the
// boot window; one whose power off was not observed has failed, and so has
// turning power off.
func Done(tx *store.Tx, res Result) error {
	id, failure, powerOff := res.ID, res.Error, res.PowerOff
	o, ok := Lookup(tx, id)
	if !ok {
		return nil
	}
	uuid, first := o.GetOperation().GetMachine(), false
	if a := o.GetOperation().GetAction(); (a == actBootMedium || a == actOff || a == actShutdown) && failure == "" && powerOff == nil && !res.V2 {
		failure = "the BMC was not seen to report power off"
	}
	o, err := records.Operations.Change(tx, uuid, func(o *privatev1.Operation) error {
		op := o.GetOperation()
		if op.GetId() != id || op.GetDone() != nil {
			return nil
		}
		first = true
		op.Done, op.Error = timestamppb.New(tx.Now()), failure
		if powerOff != nil {
			op.PowerOffSeen = powerOff
		}
		return nil
	})
	if err != nil || !first {
		return err
	}
	op := o.GetOperation()
	name := actionName(op.GetAction())
	if failure != "" && repeated(tx, uuid, name, failure) {
		return nil
	}
	if err := Note(tx, uuid, Step{
		Source: fromBMC, Step: name, Message: cmp.Or(failure, op.GetReason()),
		Failed: failure != "", Took: tx.Now().Sub(op.GetCreated().AsTime()),
	}); err != nil || failure != "" {
		return err
	}
	if op.GetAction() != actBootMedium {
		return nil
	}
	if err := failedReclaim(tx, uuid, false); err != nil {
		return err
	}
	if powerOff != nil {
		if err := leaveOldSystem(tx, uuid, powerOff); err != nil {
			return err
		}
		if err := records.BootWindows.Put(tx, &ingotv1.BootWindow{
			Uuid: uuid, Operation: id, Opened: timestamppb.New(tx.Now()), Closes: timestamppb.New(tx.Now().Add(windowOpen)),
		}); err != nil {
			return err
		}
	}
	return rebooted(tx, uuid, op.GetReason())
}

// repeated reports whether an operation has failed in the same way the last
// time, so that trying for days does not fill the timeline.
func repeated(r store.Reader, uuid, name, failure string) bool {
	e, _ := records.Events.Peek(r, uuid)
	for _, s := range e.GetSteps() { // newest first
		if s.GetSource() == int32(fromBMC) && s.GetStep() == name {
			return s.GetFailed() && s.GetMessage() == failure
		}
	}
	return false
}

// rebooted moves the machine on after its power cycle, unless the boot that
// follows has already begun: a report may be slower than a firmware.
func rebooted(tx *store.Tx, uuid, reason string) error {
	boot, ok := records.Boots.Peek(tx, uuid)
	op, err := records.Operations.Get(tx, uuid)
	if err != nil {
		return err
	}
	m, err := records.Machines.Get(tx, uuid)
	if err != nil {
		return err
	}
	if ok && boot.GetBootId() == m.GetBootId() && boot.GetBegan().AsTime().After(op.GetOperation().GetCreated().AsTime()) {
		return nil
	}
	_, _, err = Happen(tx, uuid, Happening{Event: Rebooting, Message: "boot medium: " + reason})
	return err
}

// actionName returns an action in lower-case words.
func actionName(a ingotv1.OperationAction) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(a.String(), "OPERATION_ACTION_"), "_", " "))
}

// Expire ends an operation that nobody took or ended in time, false if it has
// time left. What a person wants now is not kept for somebody who comes later,
// and what has to happen is ordered again.
func Expire(tx *store.Tx, uuid string) (bool, error) {
	o, err := records.Operations.Get(tx, uuid)
	if err != nil || o.GetOperation().GetDone() != nil {
		return false, err
	}
	within := takeWithin
	if a := o.GetOperation().GetAction(); o.GetCommand() != 0 || a == actShutdown || a == actInterrupt {
		within = commandWithin
	}
	switch now := tx.Now(); {
	case o.GetTaken() == nil && now.Sub(o.GetOperation().GetCreated().AsTime()) >= within:
		return true, Done(tx, Result{ID: o.GetOperation().GetId(), Error: "nobody took it: no site of the partition is connected"})
	case o.GetTaken() != nil && now.Sub(o.GetTaken().AsTime()) >= doneWithin:
		return true, Done(tx, Result{ID: o.GetOperation().GetId(), Error: "whoever took it has not reported the end"})
	default:
		return false, nil
	}
}

// overtake gives up an order to boot the medium that an installation has
// overtaken: carried out now, it would end the new system.
func overtake(tx *store.Tx, uuid string) error {
	o, err := records.Operations.Get(tx, uuid)
	if err != nil || o.GetOperation().GetDone() != nil || o.GetOperation().GetAction() != actBootMedium {
		return ignoreNotFound(err)
	}
	return Done(tx, Result{ID: o.GetOperation().GetId(), Error: "given up: a system was installed in the meantime"})
}

// Lookup returns an operation by its id.
func Lookup(r store.Reader, id string) (*privatev1.Operation, bool) {
	for o := range records.Operations.By(r, "id", id) {
		return o, true
	}
	return nil, false
}

// Drop gives an operation back that its listener could not be told.
func Drop(tx *store.Tx, uuid, listener string) error {
	_, err := records.Operations.Change(tx, uuid, func(o *privatev1.Operation) error {
		if o.GetListener() == listener && o.GetOperation().GetDone() == nil {
			o.Listener, o.Taken = "", nil
		}
		return nil
	})
	return err
}

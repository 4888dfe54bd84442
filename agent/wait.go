package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// silence is how long the control plane may say nothing before the agent
// connects again.
const silence = 45 * time.Second

// wait announces the clean machine and waits for an instruction. A stream that
// breaks is opened again by the next try; nobody needs to hear of that.
func (a *Agent) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := a.refresh(ctx, time.Now()); err != nil {
		return err
	}
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	stream, err := a.api.agent.Wait(ctx, connect.NewRequest(&ingotv1.AgentServiceWaitRequest{
		Uuid: a.uuid, BootId: a.bootID,
	}))
	if err != nil {
		return waitFailed(ctx, a.uuid, err)
	}
	defer stream.Close()
	opened := time.Now()
	for stream.Receive() {
		quiet.Reset(silence)
		m := stream.Msg()
		switch {
		case m.GetReboot() != "":
			a.reboot = m.GetReboot()
			return fault.New(fault.Precondition, "machine "+a.uuid, m.GetReboot(), "")
		case m.GetInstallation() != nil:
			a.install = m.GetInstallation()
			return check(a.install)
		}
		if err := a.refresh(ctx, opened); err != nil {
			return err
		}
	}
	err = stream.Err()
	if err == nil {
		err = errClosed
	}
	return waitFailed(ctx, a.uuid, err)
}

var (
	errSilent = errors.New("no sign of life from the control plane")
	errClosed = errors.New("the control plane closed the stream")
)

func waitFailed(ctx context.Context, uuid string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return fault.Wrap(fault.Unavailable, "machine "+uuid, "stopped waiting", err)
}

// check refuses an instruction that leaves something open.
func check(i *ingotv1.Installation) error {
	switch {
	case i.GetAllocation() == nil:
		return fault.New(fault.Invalid, "installation", "names no allocation", "")
	case i.GetAllocation().GetFilesystemLayout() == nil:
		return fault.New(fault.Invalid, "installation", "has no file system layout", "")
	case len(i.GetUrls()) == 0:
		return fault.New(fault.Invalid, "installation", "has no image url", "")
	case i.GetSource().GetSha256() == "" && i.GetSource().GetSha512() == "":
		return fault.New(fault.Invalid, "image "+i.GetSource().GetImage(), "has no pinned digest", "pin it with 'ingot image pin'")
	}
	return nil
}

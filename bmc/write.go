package bmc

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/ingot-cloud/ingot/fault"
)

// A resource is one to be changed: where it is, and what shall be different;
// nil if nothing is. Some BMCs take changes only at a resource beside it.
type resource struct {
	at, beside string
	change     map[string]any
}

// change reads a resource and changes it, under the tag (ETag) that it showed.
// If it has become another one in between it is read again; a BMC that still
// refuses gets the change without regard to tags.
func (r *Redfish) change(ctx context.Context, what string, of func(*pass) (resource, error)) error {
	var status int
	for try := 1; ; try++ {
		to, err := of(r.pass(ctx, unlimited))
		if err != nil || to.change == nil {
			return err
		}
		tag := r.known[to.at].tag
		if try == 3 {
			tag = map[bool]string{true: "*"}[status == http.StatusPreconditionRequired]
		}
		err = r.send(ctx, what, http.MethodPatch, to.at, tag, to.change)
		status = statusOf(err)
		switch mistagged := status == http.StatusPreconditionFailed || status == http.StatusPreconditionRequired; {
		case mistagged && try < 3:
			continue
		case status != 0 && to.beside != "" && to.beside != to.at:
			p := r.pass(ctx, unlimited)
			read[link](p, to.beside, always)
			err = r.send(ctx, what, http.MethodPatch, to.beside, r.known[to.beside].tag, to.change)
		}
		return explain(r.object, what, err)
	}
}

const (
	// busyTries is how often a BMC is asked that says it is busy.
	busyTries = 4
	// busyPause is the longest pause between them.
	busyPause = 5 * time.Second
	// taskPoll is how often a task is asked about when the BMC does not say.
	taskPoll = 500 * time.Millisecond
)

// send makes one request that changes something, and waits for its task if the
// BMC has made one. A BMC that is busy has done nothing and is asked again.
func (r *Redfish) send(ctx context.Context, what, method, at, tag string, body map[string]any) error {
	c := r.client.WithContext(ctx)
	headers := map[string]string{}
	if !strings.HasPrefix(at, "/") {
		return fault.Wrap(fault.Unavailable, r.object, what, errElsewhere)
	}
	if tag != "" {
		headers["If-Match"] = tag
	}
	call := c.PostWithHeaders
	if method == http.MethodPatch {
		call = c.PatchWithHeaders
	}
	for try := 1; ; try++ {
		resp, err := call(at, body, headers)
		if statusOf(err) == http.StatusServiceUnavailable && try < busyTries {
			if err := sleep(ctx, min(time.Duration(try)*taskPoll, busyPause)); err != nil {
				return fault.Wrap(fault.Unavailable, r.object, what+": busy", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			return nil
		}
		task := schemas.ParseTaskMonitorInfo(c, resp)
		if task == nil || task.TaskMonitor == "" {
			return nil // it will be done some time; what is asked later tells
		}
		monitor, err := url.Parse(task.TaskMonitor) // it may be a whole address
		if err != nil || monitor.Path == "" {
			return fault.Newf(fault.Unavailable, r.object, "%s: was promised, but its task is at no address", what)
		}
		return r.wait(ctx, what, monitor.RequestURI(), task.RetryAfter)
	}
}

// wait waits for what the BMC has only promised (DSP0266, "Tasks"): a task
// monitor answers 202 until it is done, and a task says how it ended.
func (r *Redfish) wait(ctx context.Context, what, at string, after time.Time) error {
	c := r.client.WithContext(ctx)
	for {
		pause := time.Until(after)
		if pause <= 0 {
			pause = taskPoll
		}
		if err := sleep(ctx, pause); err != nil {
			return fault.Wrap(fault.Unavailable, r.object, what+": not done in time", err)
		}
		resp, err := c.Get(at)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusAccepted {
			after = time.Time{}
			if next := schemas.ParseTaskMonitorInfo(c, resp); next != nil {
				after = next.RetryAfter
			}
			continue
		}
		var task taskDoc
		_ = json.Unmarshal(text, &task) // a monitor answers as the request would have: that may be no task
		switch {
		case slices.Contains([]string{"New", "Starting", "Running", "Pending", "Stopping", "Service"}, task.TaskState):
			after = time.Time{}
		case slices.Contains([]string{"Exception", "Killed", "Cancelled", "Interrupted"}, task.TaskState):
			return fault.Newf(fault.Unavailable, r.object, "%s: its task ended with %s: %s", what, task.TaskState, shorten(task.said()))
		default:
			return nil
		}
	}
}

// taskDoc is a Task.
type taskDoc struct {
	TaskState string
	Messages  []struct{ Message string }
}

func (t taskDoc) said() string {
	var all []string
	for _, m := range t.Messages {
		all = append(all, m.Message)
	}
	return strings.Join(all, " ")
}

// sleep waits for d, or less if ctx ends: then it says why.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

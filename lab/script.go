package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// A Command is one line of a script: what a data centre shall do, or what
// shall have happened to it before the next line.
//
//	break FAULT [ON]           make something fail, see Faults
//	mend FAULT [ON]            undo that
//	allocate SERVER [IMAGE]    as a member of the project demo
//	release SERVER             delete the allocation
//	wait SERVER PHASE [TIME]   at most ten minutes, if no time is given
//	sleep TIME
//	capture WIRE [off]         into WIRE.pcap in the data centre's folder
//	report                     write a bug report into that folder
type Command struct {
	Line int // in the script, from 1
	Name string
	Args []string
}

// String returns the command as it is written.
func (c Command) String() string { return strings.Join(append([]string{c.Name}, c.Args...), " ") }

// A verb is what a command's name means. What do returns besides its error is
// worth telling a person.
type verb struct {
	least, most int // arguments
	check       func(args []string) error
	do          func(ctx context.Context, d *DataCenter, args []string) (string, error)
}

var verbs = map[string]verb{
	"break":    {1, 2, checkFault, quietly(func(ctx context.Context, d *DataCenter, a []string) error { return d.Break(ctx, a[0], second(a)) })},
	"mend":     {1, 2, checkFault, quietly(func(ctx context.Context, d *DataCenter, a []string) error { return d.Mend(ctx, a[0], second(a)) })},
	"allocate": {1, 2, nil, quietly(playAllocate)},
	"release":  {1, 1, nil, quietly(playRelease)},
	"wait":     {2, 3, checkWait, quietly(playWait)},
	"sleep":    {1, 1, checkSleep, quietly(playSleep)},
	"capture":  {1, 2, checkCapture, quietly(playCapture)},
	"report":   {0, 0, nil, func(ctx context.Context, d *DataCenter, _ []string) (string, error) { return d.Report(ctx) }},
}

func quietly(do func(context.Context, *DataCenter, []string) error) func(context.Context, *DataCenter, []string) (string, error) {
	return func(ctx context.Context, d *DataCenter, args []string) (string, error) { return "", do(ctx, d, args) }
}

// second returns the argument that may be left out.
func second(args []string) string {
	if len(args) < 2 {
		return ""
	}
	return args[1]
}

// ParseScript reads commands, one on a line; what follows # is a remark. A
// script with an error does nothing: the error names every line that has one.
func ParseScript(r io.Reader) ([]Command, error) {
	var out []Command
	var wrong []string
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		c := Command{Line: n, Name: f[0], Args: f[1:]}
		if err := c.check(); err != nil {
			wrong = append(wrong, fmt.Sprintf("line %d: %v", n, err))
		}
		out = append(out, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, "script", "cannot be read", err)
	}
	if len(wrong) > 0 {
		return nil, fault.New(fault.Invalid, "script", strings.Join(wrong, "; "), "'ingot-lab replay --help' lists the commands")
	}
	return out, nil
}

func (c Command) check() error {
	v, ok := verbs[c.Name]
	switch {
	case !ok:
		return fault.New(fault.Invalid, "command "+c.Name, "not known", "")
	case len(c.Args) < v.least || len(c.Args) > v.most:
		return fault.Newf(fault.Invalid, "command "+c.Name, "has %d arguments", len(c.Args))
	case v.check != nil:
		return v.check(c.Args)
	}
	return nil
}

func checkFault(args []string) error {
	_, err := faultOf(args[0], second(args))
	return err
}

func checkWait(args []string) error {
	if _, err := phaseOf(args[1]); err != nil {
		return err
	}
	if len(args) < 3 {
		return nil
	}
	return checkSleep(args[2:])
}

func checkSleep(args []string) error {
	if d, err := time.ParseDuration(args[0]); err != nil || d <= 0 {
		return fault.New(fault.Invalid, "time "+args[0], "is none", "write it like 90s or 2m")
	}
	return nil
}

func checkCapture(args []string) error {
	if on := second(args); on != "" && on != "off" {
		return fault.New(fault.Invalid, "capture", "is begun without a second word and ended by \"off\"", "")
	}
	return nil
}

// phaseOf returns the phase of a name like "phoned-home".
func phaseOf(name string) (ingotv1.MachinePhase, error) {
	n, ok := ingotv1.MachinePhase_value["MACHINE_PHASE_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))]
	if !ok || n == 0 {
		return 0, fault.New(fault.Invalid, "phase "+name, "not known", "write it like waiting or phoned-home")
	}
	return ingotv1.MachinePhase(n), nil
}

// Play carries out commands one after the other, says what it does, and ends
// with the first that fails.
func (d *DataCenter) Play(ctx context.Context, script []Command, say func(format string, args ...any)) error {
	for _, c := range script {
		start := time.Now()
		say("%s ...", c)
		said, err := verbs[c.Name].do(ctx, d, c.Args)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", c.Line, c, err)
		}
		say("%s: done in %.1f s%s", c, time.Since(start).Seconds(), strings.TrimSuffix(": "+said, ": "))
	}
	return nil
}

func playWait(ctx context.Context, d *DataCenter, args []string) error {
	n, err := d.numberOf(args[0])
	if err != nil {
		return err
	}
	phase, err := phaseOf(args[1])
	if err != nil {
		return err
	}
	patience := 10 * time.Minute
	if len(args) > 2 {
		if patience, err = time.ParseDuration(args[2]); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return d.Reach(ctx, nil, Goal{Server: n, Phase: phase})
}

func playSleep(ctx context.Context, _ *DataCenter, args []string) error {
	t, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

func playCapture(_ context.Context, d *DataCenter, args []string) error {
	w, err := d.wireOf(args[0])
	switch {
	case err != nil:
		return err
	case second(args) == "off":
		return w.EndCapture()
	}
	return w.Capture(filepath.Join(d.plan.Dir, w.Name()+".pcap"))
}

// playAllocate allocates a server for the project demo, which is made if there
// is none.
func playAllocate(ctx context.Context, d *DataCenter, args []string) error {
	n, err := d.numberOf(args[0])
	if err != nil {
		return err
	}
	image := second(args)
	if image == "" {
		image = Busybox
	}
	p, err := d.demoProject(ctx)
	if err != nil {
		return err
	}
	return d.Allocate(ctx, n, p, image)
}

func (d *DataCenter) demoProject(ctx context.Context) (Project, error) {
	d.demo.Lock()
	defer d.demo.Unlock()
	var err error
	if d.demo.project.ID == "" {
		d.demo.project, err = d.NewProject(ctx, "demo")
	}
	return d.demo.project, err
}

// playRelease deletes a server's allocation, whichever project has it.
func playRelease(ctx context.Context, d *DataCenter, args []string) error {
	n, err := d.numberOf(args[0])
	if err != nil {
		return err
	}
	project, err := d.Ingot(ctx, "machine", "describe", UUID(n), "--admin", "-o", "template", "--template", "{{.allocation.project}}")
	if err != nil {
		return err
	}
	return d.Free(ctx, n, project)
}

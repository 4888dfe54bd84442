package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A VM is a machine that QEMU plays. It has a power button, a reset line and
// a front bezel, and keeps its disks and firmware variables while it is off.
type VM struct {
	spec Spec
	dir  string // absolute

	power sync.Mutex // held while the power changes

	mu    sync.Mutex // guards what follows
	run   *process   // nil when off
	media string     // host file in the virtual CD drive; empty without
	order Override
	hooks []func(Event)
}

// An Event is something that happened to a VM.
type Event string

// The events of a VM.
const (
	PoweredOn  Event = "powered on"
	PoweredOff Event = "powered off" // by whomever, the guest included
	WasReset   Event = "reset"
)

// A Target is what a server's firmware tries first, in Redfish's words.
type Target string

// The targets of a server. Its own order is disks first, the virtual CD last.
const (
	OwnOrder Target = "None"
	FromCD   Target = "Cd"
	FromUSB  Target = "Usb"
	FromDisk Target = "Hdd"
	// FromSetup is the menu of the firmware, where there is one.
	FromSetup Target = "BiosSetup"
)

// An Override says what the firmware tries first, from its next start on. It
// is what a BMC sets; the zero value is the server's own order.
type Override struct {
	Target Target
	// Once ends the override with that start.
	Once bool
}

// process is one run of QEMU, from power on to power off.
type process struct {
	cmd   *exec.Cmd
	qmp   *qmp
	ended chan struct{} // closed when the process is gone
	err   error         // how it ended; read it after ended
}

// NewVM prepares a machine, powered off, that keeps its files in dir. Its
// disks and variables are those of an earlier VM in the same dir.
func NewVM(dir string, s Spec) (*VM, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("vm %s: %w", s.Name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("vm %s: %w", s.Name, err)
	}
	if err := s.prepare(dir); err != nil {
		return nil, fmt.Errorf("vm %s: %w", s.Name, err)
	}
	return &VM{spec: s, dir: dir}, nil
}

// Spec returns what the VM is made of.
func (v *VM) Spec() Spec { return v.spec }

// On reports whether the VM has power.
func (v *VM) On() bool { return v.running() != nil }

func (v *VM) running() *process {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.run
}

// Notify calls f, in no particular goroutine, for everything that happens to
// the VM from now on. f must not change the VM's power itself.
func (v *VM) Notify(f func(Event)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hooks = append(v.hooks, f)
}

func (v *VM) happened(e Event) {
	v.mu.Lock()
	hooks := v.hooks
	v.mu.Unlock()
	for _, f := range hooks {
		f(e)
	}
}

// PowerOn starts the VM; one that has power stays as it is. The VM outlives
// ctx, which bounds only the start.
func (v *VM) PowerOn(ctx context.Context) error {
	v.power.Lock()
	defer v.power.Unlock()
	if v.On() {
		return nil
	}
	if err := v.start(ctx); err != nil {
		return fmt.Errorf("vm %s: power on: %w", v.spec.Name, err)
	}
	v.happened(PoweredOn)
	return nil
}

// start runs QEMU with the processor halted, consumes the override and lets go.
func (v *VM) start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	order, media := v.order, v.media
	v.mu.Unlock()
	monitor, theirs, err := qmpPair()
	if err != nil {
		return err
	}
	files := []*os.File{theirs}
	forget := func() { // QEMU has them, or nobody
		for _, f := range files {
			_ = f.Close()
		}
	}
	for _, n := range v.spec.NICs {
		if n.Port != nil {
			f, err := n.Port.plug()
			if err != nil {
				forget()
				return errors.Join(err, monitor.Close())
			}
			files = append(files, f)
		}
	}
	var complaints bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(ctx), qemuProgram, v.spec.arguments(v.dir, media, order)...)
	cmd.Dir, cmd.ExtraFiles = v.dir, files
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	// QEMU must not outlive us, nor get the interrupt that is meant for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = cmd.Start()
	forget()
	if err != nil {
		return errors.Join(err, monitor.Close())
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go v.reap(p, &complaints) // ends with the process
	p.qmp, err = newQMP(monitor, func(name string, _ json.RawMessage) {
		if name == "RESET" {
			go v.wasReset(p) // ends after at most one command
		}
	})
	if err == nil {
		v.mu.Lock()
		v.run = p
		v.mu.Unlock()
		v.consume(p)
		err = p.qmp.do("cont", nil, nil)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-p.ended
		return errors.Join(err, p.err)
	}
	return nil
}

// reap waits for the end of the process and notes that the power is off.
func (v *VM) reap(p *process, complaints *bytes.Buffer) {
	err := p.cmd.Wait()
	if err != nil {
		p.err = fmt.Errorf("%s: %w: %s", qemuProgram, err, bytes.TrimSpace(tail(complaints.Bytes(), 2000)))
	}
	for _, n := range v.spec.NICs {
		if n.Port != nil {
			n.Port.unplug()
		}
	}
	v.mu.Lock()
	was := v.run == p
	if was {
		v.run = nil
	}
	v.mu.Unlock()
	close(p.ended)
	if was {
		v.happened(PoweredOff)
	}
}

// wasReset runs after the firmware has taken the boot order of this start.
func (v *VM) wasReset(p *process) {
	v.consume(p)
	v.happened(WasReset)
}

// consume ends an override that was for one start only.
func (v *VM) consume(p *process) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run != p {
		return
	}
	if v.order.Once {
		v.order = Override{}
	}
	// If this fails, the process has just ended and needs no order.
	_ = v.arm(p)
}

// arm makes the current order that of the next start. v.mu is held.
func (v *VM) arm(p *process) error {
	if p == nil {
		return nil
	}
	for _, d := range v.spec.removable(v.order) {
		at := "/machine/peripheral/" + d.id
		var have int
		if err := p.qmp.do("qom-get", map[string]any{"path": at, "property": "bootindex"}, &have); err != nil {
			return err
		}
		if have == d.index {
			continue // setting the same value is an error to QEMU
		}
		if err := p.qmp.do("qom-set", map[string]any{"path": at, "property": "bootindex", "value": d.index}, nil); err != nil {
			return err
		}
	}
	return nil
}

// SetOverride sets what the firmware tries first from the next start on.
func (v *VM) SetOverride(o Override) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.order = o
	if err := v.arm(v.run); err != nil && !errors.Is(err, errQMPClosed) {
		return fmt.Errorf("vm %s: boot order: %w", v.spec.Name, err)
	}
	return nil
}

// Override returns the override in force for the next start.
func (v *VM) Override() Override {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.order
}

// PowerOff takes the power away at once and returns when it is gone.
func (v *VM) PowerOff() error {
	v.power.Lock()
	defer v.power.Unlock()
	p := v.running()
	if p == nil {
		return nil
	}
	if err := p.qmp.do("quit", nil, nil); err != nil {
		_ = p.cmd.Process.Kill()
	}
	select {
	case <-p.ended:
	case <-time.After(qmpTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	p.qmp.close()
	return nil
}

// Reset restarts the firmware without taking the power away.
func (v *VM) Reset() error { return v.command("system_reset") }

// PressPower presses the power button of a running VM: the guest is asked to
// shut down, and may not.
func (v *VM) PressPower() error { return v.command("system_powerdown") }

// NMI sends the guest a non-maskable interrupt.
func (v *VM) NMI() error { return v.command("inject-nmi") }

func (v *VM) command(name string) error {
	p := v.running()
	if p == nil {
		return fmt.Errorf("vm %s: is off", v.spec.Name)
	}
	if err := p.qmp.do(name, nil, nil); err != nil {
		return fmt.Errorf("vm %s: %w", v.spec.Name, err)
	}
	return nil
}

// Insert puts a file of the host into the virtual CD drive.
func (v *VM) Insert(file string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run != nil {
		err := v.run.qmp.do("blockdev-change-medium", map[string]any{
			"id": "cdrom", "filename": file, "format": "raw", "read-only-mode": "read-only", "force": true,
		}, nil)
		if err != nil && !errors.Is(err, errQMPClosed) { // a server that has just gone off takes it at its next start
			return fmt.Errorf("vm %s: insert: %w", v.spec.Name, err)
		}
	}
	v.media = file
	return nil
}

// Eject empties the virtual CD drive, whatever the guest does with it.
func (v *VM) Eject() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run != nil && v.media != "" {
		err := v.run.qmp.do("eject", map[string]any{"id": "cdrom", "force": true}, nil)
		if err == nil {
			err = v.run.qmp.do("blockdev-close-tray", map[string]any{"id": "cdrom"}, nil)
		}
		if err != nil && !errors.Is(err, errQMPClosed) {
			return fmt.Errorf("vm %s: eject: %w", v.spec.Name, err)
		}
	}
	v.media = ""
	return nil
}

// SetLink takes the carrier of the i-th NIC away or gives it back, as when
// the cable is pulled. Power cycles give it back.
func (v *VM) SetLink(i int, up bool) error {
	p := v.running()
	if p == nil {
		return fmt.Errorf("vm %s: is off", v.spec.Name)
	}
	return p.qmp.do("set_link", map[string]any{"name": nicID(i), "up": up}, nil)
}

// Wait returns when the VM has no power any more: nil, or how QEMU failed.
func (v *VM) Wait(ctx context.Context) error {
	p := v.running()
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("vm %s: still on: %w", v.spec.Name, ctx.Err())
	}
}

// PID returns the process id of QEMU, zero when the VM is off.
func (v *VM) PID() int {
	if p := v.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// SerialLog returns the file that has everything the VM ever printed on its
// serial port.
func (v *VM) SerialLog() string { return filepath.Join(v.dir, "serial.log") }

// Console connects to the serial port of a VM that has power: what is written
// is typed, what is read is printed from now on. One connection at a time.
func (v *VM) Console(ctx context.Context) (net.Conn, error) {
	c, err := dialSocket(ctx, v.dir, serialSocket)
	if err != nil {
		return nil, fmt.Errorf("vm %s: console: %w", v.spec.Name, err)
	}
	return c, nil
}

// WaitSerial waits until what the VM prints on its serial port, from offset
// bytes on, matches, and returns the match with its groups.
func (v *VM) WaitSerial(ctx context.Context, offset int64, pattern *regexp.Regexp) ([]string, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var seen []byte
	for {
		f, err := os.Open(v.SerialLog())
		if err == nil {
			var more []byte
			more, err = io.ReadAll(io.NewSectionReader(f, offset+int64(len(seen)), 16<<20))
			seen = append(seen, more...)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("vm %s: serial log: %w", v.spec.Name, err)
		}
		if m := pattern.FindSubmatch(seen); m != nil {
			groups := make([]string, len(m))
			for i := range m {
				groups[i] = string(m[i])
			}
			return groups, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("vm %s: never printed %q: %w; the end of its serial log:\n%s", v.spec.Name, pattern, ctx.Err(), tail(seen, 3000))
		}
	}
}

// Close takes the power away. The VM's files stay.
func (v *VM) Close() error { return v.PowerOff() }

func nicID(i int) string { return "nic" + strconv.Itoa(i) }

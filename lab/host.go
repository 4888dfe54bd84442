package lab

import (
	"context"
	"fmt"
	"sync"

	"github.com/ingot-cloud/ingot/fault"
)

// A ResetType is what a BMC can do to its server's power, in Redfish's words.
type ResetType string

// The reset types of a lab server.
const (
	On               ResetType = "On"
	ForceOn          ResetType = "ForceOn"
	ForceOff         ResetType = "ForceOff"
	GracefulShutdown ResetType = "GracefulShutdown"
	ForceRestart     ResetType = "ForceRestart"
	PowerCycle       ResetType = "PowerCycle"
	PushPowerButton  ResetType = "PushPowerButton"
	Nmi              ResetType = "Nmi"
)

var resetTypes = []ResetType{On, ForceOn, ForceOff, GracefulShutdown, ForceRestart, PowerCycle, PushPowerButton, Nmi}

// Power is a server's power as its BMC sees it.
type Power interface {
	// On reports whether the server has power.
	On() bool
	// SetPower acts on the power, and returns when that is done or, for what
	// needs the operating system's consent, asked for. A server that is off
	// refuses what needs power, with fault.Precondition.
	SetPower(ctx context.Context, t ResetType) error
}

// Order is a server's boot order as its BMC sees it.
type Order interface {
	Override() Override
	SetOverride(o Override) error
}

// Media is a server's virtual CD drive as its BMC sees it.
type Media interface {
	// Insert puts a file of this machine into the empty drive.
	Insert(file string) error
	// Eject empties the drive.
	Eject() error
}

// needsPower reports whether t means nothing to a server that is off.
func (t ResetType) needsPower() bool {
	switch t {
	case GracefulShutdown, ForceRestart, Nmi:
		return true
	}
	return false
}

// SetPower does to v what a BMC asks for.
func (v *VM) SetPower(ctx context.Context, t ResetType) error {
	if !v.On() && t.needsPower() {
		return fault.Newf(fault.Precondition, "vm "+v.spec.Name, "is off, so it cannot do %s", t)
	}
	switch t {
	case On, ForceOn:
		return v.PowerOn(ctx)
	case ForceOff:
		return v.PowerOff()
	case GracefulShutdown:
		return v.PressPower()
	case PushPowerButton:
		if v.On() {
			return v.PressPower()
		}
		return v.PowerOn(ctx)
	case ForceRestart:
		return v.Reset()
	case PowerCycle:
		if err := v.PowerOff(); err != nil {
			return err
		}
		return v.PowerOn(ctx)
	case Nmi:
		return v.NMI()
	}
	return fault.Newf(fault.Invalid, "vm "+v.spec.Name, "knows no reset type %q", t)
}

// A Shell is a server without iron: it has power, an order and a drive, and
// does nothing with them but remember. BMCs of many servers can be tried on it
// in one process.
type Shell struct {
	// Deaf says that the operating system does not obey a graceful shutdown.
	// It is set before the shell is used.
	Deaf bool

	mu         sync.Mutex
	on         bool
	order      Override
	media      string
	starts     []string
	interrupts int
}

// On reports whether the shell has power.
func (s *Shell) On() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// SetPower remembers the power. A graceful shutdown is obeyed at once.
func (s *Shell) SetPower(_ context.Context, t ResetType) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on && t.needsPower() {
		return fault.Newf(fault.Precondition, "server", "is off, so it cannot do %s", t)
	}
	was := s.on
	switch t {
	case On, ForceOn, PowerCycle:
		s.on = true
	case ForceOff:
		s.on = false
	case GracefulShutdown:
		s.on = s.Deaf
	case PushPowerButton:
		s.on = !s.on
	case ForceRestart:
	case Nmi:
		s.interrupts++
	default:
		return fault.Newf(fault.Invalid, "server", "knows no reset type %q", t)
	}
	if t == ForceRestart || t == PowerCycle || s.on && !was {
		s.start()
	}
	return nil
}

// start is what the firmware does: it takes the order, and what was for once
// is used up.
func (s *Shell) start() {
	from := "disk"
	switch {
	case s.order.Target == FromCD && s.media != "":
		from = s.media
	case s.order.Target == FromUSB:
		from = "stick"
	case s.order.Target == FromSetup:
		from = "setup"
	}
	s.starts = append(s.starts, from)
	if s.order.Once {
		s.order = Override{}
	}
}

// Interrupts returns how often the shell got an NMI.
func (s *Shell) Interrupts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.interrupts
}

// Starts lists what the shell started from, each time: "disk", "setup" or the
// file in the drive.
func (s *Shell) Starts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.starts...)
}

// Override returns the override in force for the next start.
func (s *Shell) Override() Override {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order
}

// SetOverride sets the override for the next start.
func (s *Shell) SetOverride(o Override) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = o
	return nil
}

// Insert remembers the file in the drive.
func (s *Shell) Insert(file string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.media != "" {
		return fmt.Errorf("drive: holds %s", s.media)
	}
	s.media = file
	return nil
}

// Eject empties the drive.
func (s *Shell) Eject() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.media = ""
	return nil
}

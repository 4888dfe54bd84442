// Package bmc speaks to baseboard management controllers: it reads what a
// server is, switches its power, sets where it boots from and inserts virtual
// media. It decides nothing and remembers nothing about a server.
//
// There is one small interface per ability, because BMCs differ in what they
// can do. Redfish has them all.
package bmc

import (
	"context"
	"fmt"
	"time"

	"github.com/ingot-cloud/ingot/secret"
)

// An Endpoint is where a BMC is and how to prove who we are.
type Endpoint struct {
	// Address is the base address of the service, https://host or
	// https://host:port.
	Address string
	// User and Password are an account of the BMC.
	User     string
	Password secret.String
	// CA is one or more certificates, in PEM, that vouch for the BMC. A
	// certificate that the BMC itself shows is enough whatever names it has,
	// for few BMCs know theirs. Without CA the system's roots decide.
	CA []byte
	// Insecure accepts any certificate. Whoever sits between can then read the
	// password.
	Insecure bool
}

// An Inspector reads what a server is and what state it is in.
type Inspector interface {
	// Scan reads, in at most MaxRequests requests, what may have changed and as
	// much of the rest as is unknown or old. What was not read this time is as
	// it was read last. Absent and malformed parts are left out and no error.
	Scan(ctx context.Context) (Inventory, error)
	// Inventory is Scan with as many requests as it takes.
	Inventory(ctx context.Context) (Inventory, error)
	// State reads the state alone.
	State(ctx context.Context) (State, error)
}

// A Lamp switches the light that shows a technician which server is meant.
type Lamp interface {
	// SetLED switches it. What is so already is not written again.
	SetLED(ctx context.Context, on bool) error
}

// A Switcher switches a server's power.
type Switcher interface {
	// SetPower acts on the power. What is so already stays so. It returns when
	// the BMC has accepted the request; State tells when it is done.
	SetPower(ctx context.Context, a PowerAction) error
}

// A Booter sets where a server boots from.
type Booter interface {
	// SetBoot sets the override of the server's own boot order, from the next
	// start on. What is so already is not written again.
	SetBoot(ctx context.Context, t Target, d Duration) error
}

// A Loader loads virtual media.
type Loader interface {
	// Insert makes the image at an http or https address the medium in the
	// virtual CD drive. The BMC fetches it, at once or as the server reads.
	// Another medium is ejected first.
	Insert(ctx context.Context, url string) error
	// Eject empties the drive.
	Eject(ctx context.Context) error
}

// Power is whether a server has power.
type Power string

// The power states that matter; others are passed on as the BMC names them.
const (
	On  Power = "On"
	Off Power = "Off"
)

// A PowerAction is something to do to a server's power.
type PowerAction int

// The actions of SetPower.
const (
	PowerOn  PowerAction = iota
	PowerOff             // at once
	Shutdown             // asks the operating system, which may refuse
	Cycle                // off at once, then on
	Reset                // restarts without taking the power away
	NMI                  // makes the operating system panic, for a dump
)

func (a PowerAction) String() string {
	names := [...]string{"power on", "power off", "shut down", "power cycle", "reset", "interrupt"}
	if a >= 0 && int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("power action %d", int(a))
}

// A Target is what a server boots from, in Redfish's words.
type Target string

// The targets Ingot uses; an inventory may show others.
const (
	None Target = "None" // the server's own order
	CD   Target = "Cd"
	USB  Target = "Usb"
	Disk Target = "Hdd"
	// Setup is the menu of the server's firmware.
	Setup Target = "BiosSetup"
)

// A Duration is how long a boot override lasts, in Redfish's words.
type Duration string

// The durations of a boot override.
const (
	Once       Duration = "Once"
	Continuous Duration = "Continuous"
	Disabled   Duration = "Disabled"
)

// State is what changes about a server by itself.
type State struct {
	Power Power
	// Boot and BootDuration are the override in force for the next start.
	Boot         Target
	BootDuration Duration
	// HasMedia reports whether the server has a virtual CD drive at all;
	// Media is the address of the image in it, empty without. A BMC may cut
	// credentials from it, or show only part of it.
	HasMedia bool
	Inserted bool
	Media    string
}

// Inventory is what a BMC knows about its server and itself. What it does not
// tell is empty.
type Inventory struct {
	State
	// UUID is that of the server's SMBIOS as the BMC spells it.
	UUID, Serial, Manufacturer, Model string
	// Parts are the numbers that a spare is ordered by.
	Parts PartNumbers
	// BIOS and Firmware are the versions of the server's and the BMC's
	// firmware.
	BIOS, Firmware string
	// BMCMACs and MACs are the addresses of the BMC's and the server's network
	// cards, in lower case.
	BMCMACs, MACs []string
	// LED is the state of the light that shows where the server is.
	LED LED
	// Consumed is the electrical power it takes, nil if unknown.
	Consumed *Consumption
	// Supplies are its power supplies, without empty bays.
	Supplies []Part
	// Sensors are its thermometers and fans.
	Sensors []Sensor
	// Complete reports whether everything was read at least once.
	Complete bool
	// ReadAt is when the BMC was asked.
	ReadAt time.Time
}

// PartNumbers are those of a server's field replaceable units.
type PartNumbers struct {
	Product, Chassis, ChassisSerial       string
	Board, BoardSerial, BoardManufacturer string
}

// An LED is whether the light that shows where a server is shines.
type LED string

// The states of an LED, in the words of the metal-stack API.
const (
	LEDOn  LED = "LED-ON"
	LEDOff LED = "LED-OFF"
)

// Consumption is electrical power in watts: the average of the last minutes,
// and its bounds. Without minutes it is that of the moment.
type Consumption struct{ Average, Min, Max, Minutes float32 }

// A Part is something that can break. State and Health are in Redfish's words:
// Enabled, Absent ..., and OK, Warning or Critical.
type Part struct{ Name, State, Health string }

// Broken reports whether the BMC says that a part needs attention.
func (p Part) Broken() bool { return p.Health != "" && p.Health != "OK" }

// A Sensor is what something measures.
type Sensor struct {
	Part
	Reading float32
	Unit    string // °C, RPM or Percent
}

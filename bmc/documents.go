package bmc

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// What follows is what Ingot reads of Redfish's resources (DMTF DSP0268).
// Everything else in them is skipped, and a property of another type than the
// standard gives it counts as absent: a BMC that is sloppy about its fans must
// not be one that nobody can reset.

// link is a reference to another resource.
type link struct {
	ID string `json:"@odata.id"`
}

// located sets where a document is: where it was asked for, whatever it says.
func (l *link) located(at string) { l.ID = at }

// health is the Status of a resource.
type health struct{ State, Health string }

// action is something a resource can do.
type action struct {
	Target     string   `json:"target"`
	Info       string   `json:"@Redfish.ActionInfo"`
	ResetTypes []string `json:"ResetType@Redfish.AllowableValues"`
}

// systemDoc is a ComputerSystem.
type systemDoc struct {
	link
	SystemType, UUID, SerialNumber       string
	Manufacturer, Model, PartNumber, SKU string
	BiosVersion, PowerState              string
	lamp                                 //
	Boot                                 bootDoc
	EthernetInterfaces, VirtualMedia     link
	Links                                struct{ Chassis, ManagedBy []link }
	Settings                             struct{ SettingsObject link } `json:"@Redfish.Settings"`
	Actions                              struct {
		Reset action `json:"#ComputerSystem.Reset"`
	}
	SerialConsole struct {
		SSH struct {
			ServiceEnabled       bool
			Port                 *uint
			ConsoleEntryCommand  string
			SharedWithManagerCLI bool
		}
	}
}

// lamp is the light that shows a technician which server is meant.
type lamp struct {
	LocationIndicatorActive *bool
	IndicatorLED            string // deprecated, and the only one of older BMCs
}

// bootDoc is the Boot of a ComputerSystem.
type bootDoc struct {
	Target  Target   `json:"BootSourceOverrideTarget"`
	Enabled string   `json:"BootSourceOverrideEnabled"`
	Targets []Target `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
}

// managerDoc is a Manager, as a rule the BMC itself.
type managerDoc struct {
	link
	ManagerType, FirmwareVersion, Model string
	EthernetInterfaces, VirtualMedia    link
}

// driveDoc is a VirtualMedia.
type driveDoc struct {
	link
	MediaTypes []string
	Image      string
	Inserted   *bool
	Actions    struct {
		Insert action `json:"#VirtualMedia.InsertMedia"`
		Eject  action `json:"#VirtualMedia.EjectMedia"`
	}
}

// chassisDoc is a Chassis.
type chassisDoc struct {
	link
	Manufacturer, Model, PartNumber, SKU, SerialNumber string
	lamp
	Power, PowerSubsystem, Thermal, ThermalSubsystem, EnvironmentMetrics link
}

// powerDoc is a Power, which newer services have split up.
type powerDoc struct {
	PowerControl []struct {
		PowerConsumedWatts number
		PowerMetrics       struct{ IntervalInMin, MinConsumedWatts, MaxConsumedWatts, AverageConsumedWatts number }
	}
	PowerSupplies []supplyDoc
}

// supplyDoc is a PowerSupply, alone or in a Power.
type supplyDoc struct {
	Name   string
	Status health
}

// thermalDoc is a Thermal, which newer services have split up.
type thermalDoc struct {
	Temperatures []struct {
		Name           string
		ReadingCelsius number
		Status         health
	}
	Fans []struct {
		Name, FanName, ReadingUnits string
		Reading                     number
		Status                      health
	}
}

// powerSubsystemDoc and thermalSubsystemDoc are what Power and Thermal became.
type (
	powerSubsystemDoc   struct{ PowerSupplies link }
	thermalSubsystemDoc struct{ Fans, ThermalMetrics link }
)

// fanDoc is a Fan.
type fanDoc struct {
	Name         string
	SpeedPercent struct{ Reading, SpeedRPM number }
	Status       health
}

// thermalMetricsDoc is a ThermalMetrics.
type thermalMetricsDoc struct {
	TemperatureReadingsCelsius []struct {
		DeviceName, DataSourceURI string
		Reading                   number
	} `json:"TemperatureReadingsCelsius"`
}

// metricsDoc is an EnvironmentMetrics.
type metricsDoc struct {
	PowerWatts struct{ Reading number }
}

// cardDoc is an EthernetInterface.
type cardDoc struct{ MACAddress, PermanentMACAddress string }

// actionInfoDoc is an ActionInfo.
type actionInfoDoc struct {
	Parameters []struct {
		Name            string
		AllowableValues []string
	}
}

// memberDoc is a member of a collection, as a link or, expanded, whole: then it has an id or a name.
type memberDoc struct {
	At   string `json:"@odata.id"`
	Tag  string `json:"@odata.etag"`
	Id   string //nolint:revive // as Redfish has it
	Name string
}

// number is a JSON number. Some BMCs write it in quotes.
type number float64

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(b []byte) error {
	if f, err := strconv.ParseFloat(strings.Trim(string(b), `" `), 32); err == nil { // anything else counts as absent
		*n = number(f)
	}
	return nil
}

// decode reads a document. What is of another type than expected stays zero.
func decode(b []byte, into any) error {
	err := json.Unmarshal(b, into)
	var odd *json.UnmarshalTypeError
	if errors.As(err, &odd) {
		return nil
	}
	return err
}

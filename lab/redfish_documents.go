package lab

import (
	"path"
	"strconv"
	"strings"
)

// object is a JSON object.
type object = map[string]any

// Where things are in a BMC.
const (
	rootPath        = "/redfish/v1"
	sessionsPath    = rootPath + "/SessionService/Sessions"
	systemPath      = rootPath + "/Systems/1"
	chassisPath     = rootPath + "/Chassis/1"
	managerPath     = rootPath + "/Managers/BMC"
	mediaPath       = managerPath + "/VirtualMedia/Cd"
	systemMediaPath = systemPath + "/VirtualMedia/Cd"
)

// document returns the resource at a path, nil if there is none.
func (b *BMC) document(at string) object {
	switch at {
	case "/redfish":
		return object{"v1": rootPath + "/"}
	case rootPath:
		return b.root()
	case rootPath + "/SessionService":
		return resource(at, "SessionService.v1_1_8.SessionService", "SessionService", object{
			"ServiceEnabled": true, "SessionTimeout": int(sessionTimeout.Seconds()), "Sessions": link(sessionsPath),
		})
	case sessionsPath:
		return b.sessionCollection()
	case rootPath + "/Systems":
		return collection(at, "ComputerSystem", systemPath)
	case systemPath:
		return b.system()
	case systemPath + "/Bios":
		return resource(at, "Bios.v1_2_1.Bios", "Bios", object{"Attributes": object{"BootMode": "Uefi", "SecureBoot": "Disabled"}})
	case systemPath + "/EthernetInterfaces":
		var members []string
		for i := range b.cfg.Board.NICs {
			members = append(members, at+"/"+strconv.Itoa(i+1))
		}
		return collection(at, "EthernetInterface", members...)
	case rootPath + "/Chassis":
		return collection(at, "Chassis", chassisPath)
	case chassisPath:
		return resource(at, "Chassis.v1_25_0.Chassis", "1", object{
			"ChassisType": "RackMount", "Manufacturer": b.cfg.Board.Manufacturer, "Model": b.cfg.Board.Model, "SerialNumber": b.cfg.Board.Serial,
			"PowerState": b.powerState(), "PartNumber": "C-" + b.cfg.Board.Model,
			"Power": link(chassisPath + "/Power"), "Thermal": link(chassisPath + "/Thermal"),
			"Links": object{"ComputerSystems": links(systemPath), "ManagedBy": links(managerPath)},
		})
	case chassisPath + "/Power":
		return b.powerDocument(at)
	case chassisPath + "/Thermal":
		return b.thermalDocument(at)
	case rootPath + "/Managers":
		return collection(at, "Manager", managerPath)
	case managerPath:
		return b.manager()
	case managerPath + "/EthernetInterfaces":
		return collection(at, "EthernetInterface", at+"/1")
	case managerPath + "/EthernetInterfaces/1":
		return ethernet(at, "1", b.cfg.Board.MAC)
	case managerPath + "/VirtualMedia", mediaPath:
		if b.has(MediaOnSystem) {
			return nil
		}
		if at == mediaPath {
			return b.mediaDocument(at)
		}
		return collection(at, "VirtualMedia", mediaPath)
	case systemPath + "/VirtualMedia":
		return collection(at, "VirtualMedia", systemMediaPath)
	case systemMediaPath:
		return b.mediaDocument(at)
	}
	if at == accountServicePath || strings.HasPrefix(at, accountServicePath+"/") {
		return b.accountDocument(at)
	}
	if doc := b.serviceDocument(at); doc != nil {
		return doc
	}
	if n, ok := strings.CutPrefix(at, systemPath+"/EthernetInterfaces/"); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 1 && i <= len(b.cfg.Board.NICs) {
			return ethernet(at, n, b.cfg.Board.NICs[i-1])
		}
	}
	if id, ok := strings.CutPrefix(at, sessionsPath+"/"); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.sessions {
			if s.id == id {
				return b.sessionDocument(at, id)
			}
		}
	}
	return b.certificateDocument(at)
}

func (b *BMC) root() object {
	return resource(rootPath+"/", "ServiceRoot.v1_16_1.ServiceRoot", "RootService", object{
		"RedfishVersion": "1.18.0", "UUID": b.cfg.Board.UUID, "Vendor": b.cfg.Board.Manufacturer, "Product": "Lab BMC",
		"Systems": link(rootPath + "/Systems"), "Managers": link(rootPath + "/Managers"), "Chassis": link(rootPath + "/Chassis"),
		"AccountService": link(accountServicePath), "EventService": link(eventsPath), "TaskService": link(tasksPath),
		"SessionService": link(rootPath + "/SessionService"), "Links": object{"Sessions": link(sessionsPath)},
		"ProtocolFeaturesSupported": object{"ExpandQuery": object{"NoLinks": true, "Links": true, "ExpandAll": true, "Levels": true, "MaxLevels": 1}},
	})
}

func (b *BMC) powerState() string {
	if b.cfg.Power.On() {
		return "On"
	}
	return "Off"
}

func (b *BMC) system() object {
	board, o := b.cfg.Board, b.override()
	enabled, target := "Disabled", OwnOrder
	if o.Target != "" && o.Target != OwnOrder {
		enabled, target = "Continuous", o.Target
		if o.Once {
			enabled = "Once"
		}
	}
	doc := resource(systemPath, "ComputerSystem.v1_22_0.ComputerSystem", "1", object{
		"SystemType": "Physical", "UUID": board.UUID, "SerialNumber": board.Serial, "Manufacturer": board.Manufacturer, "Model": board.Model,
		"PartNumber": "P-" + board.Model, "LocationIndicatorActive": b.Lit(),
		"BiosVersion": board.BIOS, "PowerState": b.powerState(), "Status": object{"State": "Enabled", "Health": "OK"},
		"Boot": b.boots(object{
			"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target, "BootSourceOverrideMode": "UEFI",
			"BootSourceOverrideTarget@Redfish.AllowableValues":  b.targets(),
			"BootSourceOverrideEnabled@Redfish.AllowableValues": []string{"Disabled", "Once", "Continuous"},
			"BootSourceOverrideMode@Redfish.AllowableValues":    []string{"UEFI"},
		}),
		"SecureBoot": link(systemPath + "/SecureBoot"), "Storage": link(systemPath + "/Storage"),
		"Bios": link(systemPath + "/Bios"), "EthernetInterfaces": link(systemPath + "/EthernetInterfaces"), "VirtualMedia": link(systemPath + "/VirtualMedia"),
		"Links": object{"Chassis": links(chassisPath), "ManagedBy": links(managerPath)},
		"Actions": object{"#ComputerSystem.Reset": object{
			"target": systemPath + "/Actions/ComputerSystem.Reset", "ResetType@Redfish.AllowableValues": resetTypes,
		}},
	})
	if b.uart != nil {
		doc["SerialConsole"] = b.uart.document(b.has(SharesConsole))
	}
	return doc
}

// targets are what a client may have the server start from.
func (b *BMC) targets() []Target {
	all := []Target{OwnOrder, FromCD, FromUSB, FromDisk}
	if b.cfg.Setup {
		all = append(all, FromSetup)
	}
	return all
}

// Watts that a server takes, and those that its BMC takes anyway.
const wattsOn, wattsOff = 180, 12

func (b *BMC) powerDocument(at string) object {
	watts := wattsOff
	if b.cfg.Power.On() {
		watts = wattsOn
	}
	supply := func(n string) object {
		return object{"MemberId": n, "Name": "PSU " + n, "PowerCapacityWatts": 800, "Status": object{"State": "Enabled", "Health": "OK"}}
	}
	return resource(at, "Power.v1_7_2.Power", "Power", object{
		"PowerControl": []any{object{
			"MemberId": "0", "Name": "Server", "PowerConsumedWatts": watts,
			"PowerMetrics": object{"IntervalInMin": 1, "AverageConsumedWatts": watts, "MinConsumedWatts": watts, "MaxConsumedWatts": watts},
		}},
		"PowerSupplies": []any{supply("1"), supply("2")},
	})
}

func (b *BMC) thermalDocument(at string) object {
	celsius, rpm := 21, 0
	if b.cfg.Power.On() {
		celsius, rpm = 38, 6000
	}
	return resource(at, "Thermal.v1_7_2.Thermal", "Thermal", object{
		"Temperatures": []any{object{"MemberId": "0", "Name": "CPU", "ReadingCelsius": celsius, "Status": object{"State": "Enabled", "Health": "OK"}}},
		"Fans":         []any{object{"MemberId": "0", "Name": "FAN1", "Reading": rpm, "ReadingUnits": "RPM", "Status": object{"State": "Enabled", "Health": "OK"}}},
	})
}

func (b *BMC) manager() object {
	doc := resource(managerPath, "Manager.v1_19_1.Manager", "BMC", object{
		"ManagerType": "BMC", "FirmwareVersion": b.cfg.Board.Firmware, "Manufacturer": b.cfg.Board.Manufacturer,
		"Status": object{"State": "Enabled", "Health": "OK"}, "PowerState": "On",
		"EthernetInterfaces": link(managerPath + "/EthernetInterfaces"),
		"Links":              object{"ManagerForServers": links(systemPath), "ManagerForChassis": links(chassisPath)},
	})
	if !b.has(MediaOnSystem) {
		doc["VirtualMedia"] = link(managerPath + "/VirtualMedia")
	}
	return doc
}

func (b *BMC) mediaDocument(at string) object {
	image, _ := b.media.holds()
	doc := object{
		"MediaTypes": []string{"CD", "DVD"}, "Image": nil, "ImageName": nil, "Inserted": false, "ConnectedVia": "NotConnected", "WriteProtected": true,
		"TransferProtocolType": nil, "VerifyCertificate": true,
		"Actions": object{
			"#VirtualMedia.InsertMedia": object{
				"target": at + "/Actions/VirtualMedia.InsertMedia",
				"TransferProtocolType@Redfish.AllowableValues": []string{"HTTP", "HTTPS"},
			},
			"#VirtualMedia.EjectMedia": object{"target": at + "/Actions/VirtualMedia.EjectMedia"},
		},
	}
	if image != "" {
		doc["Image"], doc["ImageName"], doc["Inserted"], doc["ConnectedVia"] = image, path.Base(image), true, "URI"
		scheme, _, _ := strings.Cut(image, ":")
		doc["TransferProtocolType"] = strings.ToUpper(scheme)
	}
	if b.has(DeniesMedium) {
		doc["Inserted"] = false
	}
	return resource(at, "VirtualMedia.v1_6_3.VirtualMedia", "Cd", doc)
}

func (b *BMC) sessionCollection() object {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	var members []string
	for _, s := range b.sessions {
		members = append(members, sessionsPath+"/"+s.id)
	}
	return collection(sessionsPath, "Session", members...)
}

func (b *BMC) sessionDocument(at, id string) object {
	return resource(at, "Session.v1_7_1.Session", id, object{"UserName": b.cfg.User})
}

func ethernet(at, id, mac string) object {
	return resource(at, "EthernetInterface.v1_12_1.EthernetInterface", id, object{
		"MACAddress": mac, "PermanentMACAddress": mac, "InterfaceEnabled": true, "Status": object{"State": "Enabled", "Health": "OK"},
	})
}

// resource completes doc with what every Redfish resource has.
func resource(at, kind, id string, doc object) object {
	doc["@odata.id"], doc["@odata.type"], doc["Id"], doc["Name"] = at, "#"+kind, id, kind[:strings.Index(kind, ".")]+" "+id
	return doc
}

func collection(at, kind string, members ...string) object {
	return object{
		"@odata.id": at, "@odata.type": "#" + kind + "Collection." + kind + "Collection", "Name": kind + " Collection",
		"Members": links(members...), "Members@odata.count": len(members),
	}
}

func link(to string) object { return object{"@odata.id": to} }

func links(to ...string) []any {
	all := make([]any, len(to))
	for i, t := range to {
		all[i] = link(t)
	}
	return all
}

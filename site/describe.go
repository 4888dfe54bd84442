package site

import (
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/bmc"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// describe fills in what the inventory says.
func describe(r *ingotv1.BMCReport, want *ingotv1.BMCWanted, inv bmc.Inventory) {
	r.Machine = strings.ToLower(inv.UUID)
	r.Status.LastSeen = timestamppb.New(inv.ReadAt)
	r.Status.Vendor, r.Status.Model, r.Status.FirmwareVersion = inv.Manufacturer, inv.Model, inv.Firmware
	r.Report = &apiv2.MachineBMCReport{
		Bmc: &apiv2.MachineBMC{
			Address: want.GetAddress(), User: want.GetUser(), Interface: interfaceOf(want),
			Version: inv.Firmware, PowerState: strings.ToUpper(string(inv.Power)),
		},
		Bios: &apiv2.MachineBios{Version: inv.BIOS},
		Fru: &apiv2.MachineFRU{
			ProductManufacturer: filled(inv.Manufacturer), ProductPartNumber: filled(inv.Parts.Product), ProductSerial: filled(inv.Serial),
			ChassisPartNumber: filled(inv.Parts.Chassis), ChassisPartSerial: filled(inv.Parts.ChassisSerial),
			BoardMfg: filled(inv.Parts.BoardManufacturer), BoardMfgSerial: filled(inv.Parts.BoardSerial), BoardPartNumber: filled(inv.Parts.Board),
		},
		UpdatedAt: timestamppb.New(inv.ReadAt),
	}
	if p := inv.Consumed; p != nil {
		r.Report.PowerMetric = &apiv2.MachinePowerMetric{AverageConsumedWatts: p.Average, MinConsumedWatts: p.Min, MaxConsumedWatts: p.Max, IntervalInMin: p.Minutes}
	}
	for _, s := range inv.Supplies {
		r.Report.PowerSupplies = append(r.Report.PowerSupplies, &apiv2.MachinePowerSupply{Health: s.Health, State: s.State})
		r.Status.Broken = appendBroken(r.Status.Broken, s)
	}
	for _, s := range inv.Sensors {
		r.Status.Broken = appendBroken(r.Status.Broken, s.Part)
	}
	if inv.LED != "" {
		r.Report.LedState = &apiv2.MachineChassisIdentifyLEDState{Value: string(inv.LED)}
	}
	r.Status.Macs = inv.BMCMACs
	if len(inv.BMCMACs) > 0 {
		r.Report.Bmc.Mac = inv.BMCMACs[0]
	}
	setState(r, inv.State)
}

// interfaceOf is what the v2 API calls what a BMC speaks.
func interfaceOf(want *ingotv1.BMCWanted) string {
	if want.GetDriver() == ingotv1.BMCDriver_BMC_DRIVER_IPMI {
		return "ipmi"
	}
	return "redfish"
}

// filled is nil for what the BMC does not tell.
func filled(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// appendBroken adds a part that needs attention.
func appendBroken(all []string, p bmc.Part) []string {
	if !p.Broken() {
		return all
	}
	return append(all, p.Name+": "+p.Health)
}

func setState(r *ingotv1.BMCReport, s bmc.State) {
	r.Status.PowerState = string(s.Power)
	r.Report.Bmc.PowerState = strings.ToUpper(string(s.Power))
	r.Status.Medium = &ingotv1.BootMediumStatus{
		Inserted: s.Inserted, Url: s.Media, OverrideTarget: string(s.Boot), OverrideEnabled: string(s.BootDuration), Checked: timestamppb.Now(),
	}
}

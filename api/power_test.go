package api_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	farsite "github.com/ingot-cloud/ingot/site"
)

// newBMC runs a Redfish service in front of a server without iron, and a real
// management server of partition1 that looks after it.
func (d *datacenter) newBMC(id, uuid string) (*lab.BMC, *lab.Shell) {
	d.t.Helper()
	shell := &lab.Shell{}
	b, err := lab.NewBMC(lab.BMCConfig{
		Board: lab.Board{UUID: uuid, Serial: id, Manufacturer: "Ingot", Model: "Lab", BIOS: "2025.02", Firmware: "1.0", MAC: "02:00:00:00:00:0a"},
		Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: d.t.TempDir(), Setup: true,
	})
	check(d.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(d.t, err)
	_, err = dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin).Create(d.t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: &ingotv1.BMC{
		Id: id, Partition: partition1, Address: l.Addr().String(), User: "admin", Password: "s3cret-word", Ca: string(b.CA()),
	}}))
	check(d.t, err)
	api := dial(d.world, ingotv1connect.NewSiteServiceClient, d.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt1"))
	log := slog.New(slog.DiscardHandler)
	part, err := farsite.NewBMCs(farsite.BMCsConfig{
		Partition: partition1, API: api, Dir: d.t.TempDir(), Every: 50 * time.Millisecond, Log: log,
		Medium: func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) { return nil, nil },
	})
	check(d.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := b.Serve(ctx, l); err != nil {
			d.t.Error(err)
		}
	})
	at, leave := context.WithCancel(ctx)
	var site sync.WaitGroup
	site.Go(func() {
		if err := farsite.New(farsite.Config{Partition: partition1, API: api, Log: log}, part).Run(at); err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(func() { leave(); site.Wait(); cancel(); all.Wait() })
	return b, shell
}

// TestPower asks for everything that can be asked of a BMC, through the API, a
// real site and a real Redfish service.
func TestPower(t *testing.T) {
	d := newDatacenter(t)
	const id = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
	b, shell := d.newBMC("b1", id)
	d.until("the machine is found", func() bool {
		list, err := d.machines.List(t.Context(), &adminv2.MachineServiceListRequest{})
		return err == nil && len(list.GetMachines()) == 1
	})
	operator := dial(d.world, ingotv1connect.NewMachineServiceClient, d.admin)
	v2 := func(c apiv2.MachineBMCCommand) func() error {
		return func() error {
			_, err := d.machines.BMCCommand(t.Context(), &adminv2.MachineServiceBMCCommandRequest{Uuid: id, Command: c})
			return err
		}
	}
	for _, x := range []struct {
		name  string
		ask   func() error
		until func() bool
	}{
		{"on", v2(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_ON), shell.On},
		{"light the LED", v2(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_ON), func() bool {
			return b.Lit() && d.get(id).GetStatus().GetLedState().GetValue() == "LED-ON"
		}},
		{"darken it", v2(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_IDENTIFY_LED_OFF), func() bool { return !b.Lit() }},
		{"setup", v2(apiv2.MachineBMCCommand_MACHINE_BMC_COMMAND_BOOT_TO_BIOS), func() bool {
			s := shell.Starts()
			return len(s) == 2 && s[1] == "setup"
		}},
		{"interrupt", func() error {
			_, err := operator.Interrupt(t.Context(), connect.NewRequest(&ingotv1.MachineServiceInterruptRequest{Uuid: id}))
			return err
		}, func() bool { return shell.Interrupts() == 1 }},
		{"shut down", func() error {
			_, err := operator.Shutdown(t.Context(), connect.NewRequest(&ingotv1.MachineServiceShutdownRequest{Uuid: id}))
			return err
		}, func() bool { return !shell.On() }},
	} {
		// Its predecessor may not be over when its effect shows.
		d.until(x.name+" is accepted", func() bool {
			err := x.ask()
			if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition {
				t.Fatalf("%s: %v", x.name, err)
			}
			return err == nil
		})
		d.until(x.name, x.until)
	}
	d.until("the end of the last one", func() bool {
		w, err := d.machines.GetBMC(t.Context(), &adminv2.MachineServiceGetBMCRequest{Uuid: id})
		return err == nil && w.GetBmc().GetBmc().GetPowerState() == "Off"
	})
}

package api_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/records"
	farsite "github.com/ingot-cloud/ingot/site"
)

// newBMC runs a Redfish service in front of a server without iron, and a real
// management server of partition1 that looks after it.
func (d *datacenter) newBMC(id, uuid string) (*lab.BMC, *lab.Shell) {
	d.t.Helper()
	b, shell, end := d.newBMCBehind(id, uuid, false)
	d.t.Cleanup(end)
	return b, shell
}

// newBMCBehind is newBMC, with an account of Ingot's own or without, and with a
// function that ends both.
func (d *datacenter) newBMCBehind(id, uuid string, own bool) (b *lab.BMC, shell *lab.Shell, end func()) {
	d.t.Helper()
	shell = &lab.Shell{}
	b, err := lab.NewBMC(lab.BMCConfig{
		Board: lab.Board{UUID: uuid, Serial: id, Manufacturer: "Ingot", Model: "Lab", BIOS: "2025.02", Firmware: "1.0", MAC: "02:00:00:00:00:0a"},
		Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: d.t.TempDir(), Setup: true,
	})
	check(d.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(d.t, err)
	_, err = dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin).Create(d.t.Context(), connect.NewRequest(&ingotv1.BMCServiceCreateRequest{Bmc: &ingotv1.BMC{
		Id: id, Partition: partition1, Address: l.Addr().String(), User: "admin", Password: "s3cret-word", Ca: string(b.CA()), OwnAccount: own,
	}}))
	check(d.t, err)
	api := dial(d.world, ingotv1connect.NewSiteServiceClient, d.farEnd(ingotv1.FarEnd_FAR_END_SITE, partition1, "mgmt-"+id))
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
	return b, shell, sync.OnceFunc(func() { leave(); site.Wait(); cancel(); all.Wait() })
}

// Each BMC gets an account that only Ingot knows, again after it was reset, and
// with another password when that is asked for.
func TestOwnAccount(t *testing.T) {
	d := newDatacenter(t)
	bmcs := dial(d.world, ingotv1connect.NewBMCServiceClient, d.admin)
	passwords := map[string]bool{}
	for id, uuid := range map[string]string{"b1": "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", "b2": "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f02"} {
		b, _, end := d.newBMCBehind(id, uuid, true)
		used := func() bool {
			got, err := bmcs.Get(t.Context(), connect.NewRequest(&ingotv1.BMCServiceGetRequest{Partition: partition1, Id: id}))
			return err == nil && got.Msg.GetBmc().GetStatus().GetOwnAccount() && got.Msg.GetBmc().GetStatus().GetLastError() == ""
		}
		password := func() string {
			got, err := d.machines.GetBMC(t.Context(), &adminv2.MachineServiceGetBMCRequest{Uuid: uuid})
			check(t, err)
			if !strings.HasPrefix(got.GetBmc().GetBmc().GetUser(), "ingot-") || passwords[got.GetBmc().GetBmc().GetPassword()] {
				t.Errorf("%s has the account %v", id, got.GetBmc().GetBmc())
			}
			passwords[got.GetBmc().GetBmc().GetPassword()] = true
			return got.GetBmc().GetBmc().GetPassword()
		}
		d.until(id+": its own account is used", used)
		password()
		if got := b.Accounts(); len(got) != 2 || got[0] != "admin" {
			t.Errorf("%s has accounts %v", id, got)
		}
		b.FactoryReset()
		d.until(id+": the account is made again", func() bool { return len(b.Accounts()) == 2 && used() })
		_, err := bmcs.Rotate(t.Context(), connect.NewRequest(&ingotv1.BMCServiceRotateRequest{Partition: partition1, Id: id}))
		check(t, err)
		d.until(id+": the new password is used", used)
		password()
		if got := b.Accounts(); len(got) != 2 {
			t.Errorf("%s has accounts %v after the rotation", id, got)
		}
		end()
	}
	_, err := bmcs.Update(t.Context(), connect.NewRequest(&ingotv1.BMCServiceUpdateRequest{
		Partition: partition1, Id: "b1", UpdateMeta: &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER}, OwnAccount: new(bool),
	}))
	check(t, err)
	_, err = bmcs.Rotate(t.Context(), connect.NewRequest(&ingotv1.BMCServiceRotateRequest{Partition: partition1, Id: "b1"}))
	wantCode(t, err, connect.CodeFailedPrecondition, "bmc b1: has no account of Ingot's own; let it have one with 'ingot bmc update b1 --partition "+partition1+" --own-account'")
	for _, gone := range []string{records.BMCOwnKey(partition1, "b1"), records.BMCFormerKey(partition1, "b1")} {
		if _, still := records.Secrets.Peek(d.db.Snapshot(), gone); still {
			t.Errorf("%s is kept", gone)
		}
	}
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

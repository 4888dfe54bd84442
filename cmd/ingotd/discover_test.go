package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	"github.com/metal-stack/api/go/metalstack/admin/v2/adminv2connect"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	ingotclient "github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// site starts a management server that reads a lease file.
func (d *daemon) site(partition, leases, port string) {
	d.t.Helper()
	c, err := ingotclient.New(ingotclient.Config{URL: d.url, CAFile: filepath.Join(d.dir, caFile), TokenFile: filepath.Join(d.dir, tokenFile)})
	check(d.t, err)
	enrolment, err := ingotclient.Of(c, ingotv1connect.NewEnrolmentServiceClient).Create(d.t.Context(), connect.NewRequest(&ingotv1.EnrolmentServiceCreateRequest{
		Partition: partition, FarEnd: ingotv1.FarEnd_FAR_END_SITE, Id: "mgmt1",
	}))
	check(d.t, err)
	dir := d.t.TempDir()
	secret := filepath.Join(dir, "secret")
	check(d.t, os.WriteFile(secret, []byte(enrolment.Msg.GetSecret()), 0o600))
	s := ingotd(d.t, "serve", "--parts", "boot,bmc", "--data-dir", filepath.Join(dir, "data"), "--api-url", d.url, "--ca-file", filepath.Join(d.dir, caFile),
		"--enrol-secret-file", secret, "--id", "mgmt1", "--partition", partition, "--media-listen", "127.0.0.1:0", "--media-url", "http://media.example",
		"--bmc-interval", "200ms", "--lease-file", leases, "--lease-port", port)
	check(d.t, s.Start())
	d.t.Cleanup(func() {
		_ = s.Process.Signal(syscall.SIGTERM)
		_ = s.Wait()
	})
}

// A BMC with factory credentials is known before anything runs on its server:
// a line in a DHCP server's lease file is enough. With the credentials it
// works like any other.
func TestBMCFromALease(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	check(t, err)
	const machine = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01"
	shell := &lab.Shell{}
	b, err := lab.NewBMC(lab.BMCConfig{
		Board: lab.Board{UUID: machine, Serial: "SN1", Manufacturer: "ACME", Model: "Server", MAC: "02:00:00:00:00:0a"},
		Power: shell, Order: shell, Media: shell, User: "root", Password: "calvin-2000", Dir: t.TempDir(),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := b.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); served.Wait() })

	d := start(t, t.TempDir(), "--parts", "api,loops")
	defer d.stop()
	c, err := ingotclient.New(ingotclient.Config{URL: d.url, CAFile: filepath.Join(d.dir, caFile), TokenFile: filepath.Join(d.dir, tokenFile)})
	check(t, err)
	_, err = ingotclient.Of(c, adminv2connect.NewPartitionServiceClient).Create(t.Context(), &adminv2.PartitionServiceCreateRequest{Partition: &apiv2.Partition{
		Id: "p1", BootConfiguration: &apiv2.PartitionBootConfiguration{KernelUrl: "http://127.0.0.1:1/kernel", ImageUrl: "http://127.0.0.1:1/initrd"},
	}})
	check(t, err)
	leases := filepath.Join(t.TempDir(), "dnsmasq.leases")
	check(t, os.WriteFile(leases, fmt.Appendf(nil, "%d 02:00:00:00:00:0a 127.0.0.2 idrac-10 *\n", time.Now().Add(time.Hour).Unix()), 0o600))
	_, port, err := net.SplitHostPort(l.Addr().String())
	check(t, err)
	d.site("p1", leases, port)

	bmcs := ingotclient.Of(c, ingotv1connect.NewBMCServiceClient)
	eventually := func(what string, holds func(*ingotv1.BMC) bool) *ingotv1.BMC {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			resp, err := bmcs.List(t.Context(), connect.NewRequest(&ingotv1.BMCServiceListRequest{}))
			check(t, err)
			if all := resp.Msg.GetBmcs(); len(all) == 1 && holds(all[0]) {
				return all[0]
			} else if time.Now().After(deadline) {
				t.Fatalf("not in 30 s: %s; there is %v", what, all)
			}
		}
	}
	give := func(password string) {
		t.Helper()
		user := "root"
		_, err := bmcs.Update(t.Context(), connect.NewRequest(&ingotv1.BMCServiceUpdateRequest{
			Partition: "p1", Id: "bmc-02000000000a", User: &user, Password: &password,
			UpdateMeta: &apiv2.UpdateMeta{LockingStrategy: apiv2.OptimisticLockingStrategy_OPTIMISTIC_LOCKING_STRATEGY_SERVER},
		}))
		check(t, err)
	}
	found := eventually("the BMC is found", func(*ingotv1.BMC) bool { return true })
	if found.GetAddress() != l.Addr().String() || found.GetMac() != "02:00:00:00:00:0a" || found.GetCa() != string(b.CA()) ||
		found.GetStatus().GetVendor() != "ACME" || !strings.Contains(found.GetStatus().GetLastError(), "has no credentials") || found.GetStatus().GetMachine() != "" {
		t.Errorf("found %v", found)
	}
	if n := b.Sessions(); n != 0 {
		t.Errorf("somebody has logged in %d times", n)
	}
	give("wrong-word")
	eventually("the wrong password is told", func(b *ingotv1.BMC) bool {
		return strings.Contains(b.GetStatus().GetLastError(), "check the BMC's user and password")
	})
	give("calvin-2000")
	eventually("the machine is known", func(b *ingotv1.BMC) bool { return b.GetStatus().GetMachine() == machine })
}

func TestLeaseFileWithoutBMC(t *testing.T) {
	c := ingotd(t, "serve", "--parts", "cache", "--boot-ports", "lo", "--api-url", "https://127.0.0.1:1", "--id", "mgmt1", "--partition", "p1", "--lease-file", "x",
		"--data-dir", t.TempDir())
	c.Stderr = nil
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "needs the part bmc") {
		t.Errorf("%v, %s", err, out)
	}
}

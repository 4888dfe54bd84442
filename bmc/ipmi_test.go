package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/secret"
)

// chassisControl stands for a server: it keeps its power in a file and writes
// down what it is told.
const chassisControl = `#!/bin/sh
cd "$1"; shift; op=$1; shift
if [ "$op" = get ]; then
	for p; do echo "$p:$(cat "$p" 2>/dev/null || echo 0)"; done
	exit
fi
while [ $# -gt 0 ]; do
	echo "$1 $2" >>told
	echo "$2" >"$1"
	[ "$1" != shutdown ] || echo 0 >power
	shift 2
done
`

// simulator runs OpenIPMI's simulator until the test ends. It returns how to
// reach it and the folder of its server.
func simulator(t *testing.T) (bmc.Endpoint, string) {
	t.Helper()
	program, err := exec.LookPath("ipmi_sim")
	if err != nil {
		t.Fatalf("%v; install Debian's openipmi, as scripts/setup does", err)
	}
	dir := t.TempDir()
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.LocalAddr().(*net.UDPAddr).Port
	probe.Close()
	control := filepath.Join(dir, "control")
	write := func(name string, mode os.FileMode, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return at
	}
	write("control", 0o700, chassisControl)
	write("power", 0o600, "0\n")
	config := write("lan.conf", 0o600, fmt.Sprintf(`name "s1"
set_working_mc 0x20
startlan 1
addr 127.0.0.1 %d
priv_limit admin
allowed_auths_admin none md2 md5 straight
guid a123456789ab4defa123456789abcdef
endlan
chassis_control "%s %s"
user 1 true "" "none" user 10 none md2 md5 straight
user 2 true "admin" "s3cret-word" admin 10 none md2 md5 straight
`, port, control, dir))
	fru := fruImage("Ingot", "Lab", "P-Lab", "SN1")
	emulation := write("lan.emu", 0o600, fmt.Sprintf(`mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 0x08 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_add_fru_data 0x20 0 %d file 0 "%s"
mc_enable 0x20
`, len(fru), write("fru", 0o600, string(fru))))
	cmd := exec.Command(program, "-c", config, "-f", emulation, "-s", dir, "-n")
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("ipmi_sim: %s", out)
		}
	})
	return bmc.Endpoint{Address: fmt.Sprintf("ipmi://127.0.0.1:%d", port), User: "admin", Password: secret.New("s3cret-word")}, dir
}

// fruImage is a FRU with a product area (IPMI Platform Management FRU
// Information Storage Definition).
func fruImage(fields ...string) []byte {
	sum := func(b []byte) []byte {
		var s byte
		for _, c := range b {
			s += c
		}
		return append(b, -s)
	}
	area := []byte{1, 0, 25}
	for n, f := range fields {
		if n == 3 { // the version stands before the serial number
			area = append(area, 0xc0)
		}
		area = append(append(area, 0xc0|byte(len(f))), f...)
	}
	area = append(area, 0xc0, 0xc0, 0xc1)
	for len(area)%8 != 7 {
		area = append(area, 0)
	}
	area[1] = byte(len(area)+1) / 8
	return append(sum([]byte{1, 0, 0, 0, 1, 0, 0}), sum(area)...)
}

func openIPMI(t *testing.T, e bmc.Endpoint) *bmc.IPMI {
	t.Helper()
	var i *bmc.IPMI
	var err error
	for deadline := time.Now().Add(20 * time.Second); ; { // the simulator needs a moment
		if i, err = bmc.OpenIPMI(t.Context(), e); err == nil {
			t.Cleanup(func() { i.Close(context.Background()) })
			return i
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestIPMI(t *testing.T) {
	e, dir := simulator(t)
	i, ctx := openIPMI(t, e), t.Context()
	inv, err := i.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Power != bmc.Off || inv.Firmware != "9.08" || inv.Manufacturer != "Ingot" || inv.Model != "Lab" || inv.Serial != "SN1" || inv.Parts.Product != "P-Lab" ||
		inv.HasMedia || !inv.Complete || len(inv.UUID) != 36 {
		t.Errorf("inventory %+v", inv)
	}
	power := func(want bmc.Power) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			s, err := i.State(ctx)
			if err == nil && s.Power == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("power %+v, %v", s, err)
			}
		}
	}
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	do("set boot", i.SetBoot(ctx, bmc.CD, bmc.Once))
	do("on", i.SetPower(ctx, bmc.PowerOn))
	power(bmc.On)
	do("on again", i.SetPower(ctx, bmc.PowerOn))
	do("reset", i.SetPower(ctx, bmc.Reset))
	do("setup", i.SetBoot(ctx, bmc.Setup, bmc.Once))
	do("led", i.SetLED(ctx, true))
	do("shut down", i.SetPower(ctx, bmc.Shutdown))
	power(bmc.Off)
	if err := i.SetPower(ctx, bmc.NMI); !errors.Is(err, fault.Precondition) {
		t.Errorf("interrupt of a server that is off: %v", err)
	}
	if err := i.Insert(ctx, "https://boot.example/i.iso"); !errors.Is(err, fault.Unimplemented) || !strings.Contains(err.Error(), "USB stick") {
		t.Errorf("insert: %v", err)
	}
	if again, err := i.Scan(ctx); err != nil || again.Serial != "SN1" || again.Power != bmc.Off {
		t.Errorf("the second scan: %+v, %v", again, err)
	}
	told, err := os.ReadFile(filepath.Join(dir, "told"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"power 1", "reset 1", "shutdown 1", "identify 0 1", "boot cdrom", "boot bios"} {
		if !strings.Contains(string(told), want) {
			t.Errorf("the server was not told %q:\n%s", want, told)
		}
	}
}

func TestIPMIRefused(t *testing.T) {
	e, _ := simulator(t)
	openIPMI(t, e)
	e.Password = secret.New("wr0ng-word")
	if _, err := bmc.OpenIPMI(t.Context(), e); !errors.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("a wrong password: %v", err)
	}
	for address, kind := range map[string]fault.Kind{"https://127.0.0.1": fault.Invalid, "ipmi://127.0.0.1:1": fault.Unavailable, "ipmi://u:p@h": fault.Invalid} {
		e.Address = address
		if _, err := bmc.OpenIPMI(t.Context(), e); fault.KindOf(err) != kind {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// FuzzIPMI answers every packet with something else.
func FuzzIPMI(f *testing.F) {
	f.Add([]byte{0x06, 0x00, 0xff, 0x07, 0x06, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x06, 0x00, 0xff, 0x07})
	f.Fuzz(func(t *testing.T, answer []byte) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b := make([]byte, 1500)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(answer, from)
			}
		}()
		defer func() { c.Close(); <-ended }()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if i, err := bmc.OpenIPMI(ctx, bmc.Endpoint{Address: "ipmi://" + c.LocalAddr().String(), User: "u", Password: secret.New("p")}); err == nil {
			i.Close(ctx)
			t.Error("anything at all is a BMC that knows the password")
		}
	})
}

//go:build lab

package lab_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/lab"
)

// noCD returns an image without the descriptors that make it one of a CD.
func noCD(image []byte) []byte {
	const sector, first, last = 2048, 16, 18
	image = bytes.Clone(image)
	clear(image[first*sector : (last+1)*sector])
	return image
}

// Both media boot from a USB stick, if the BMC says so.
func TestLabStick(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	c := cache(t)
	fw, err := c.Firmware(ctx)
	if err != nil {
		t.Fatal(err)
	}
	program, err := c.IPXE(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ipxe, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := boot.IPXE{Partition: "lab", Program: ipxe, Boot: boot.URL("lab.internal", "")}.ISO()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(programs(t), "ingot-agent")
	for name, stick := range map[string]struct {
		image  []byte
		prints string
	}{
		"uki":  {medium(t, c, agent, "console=ttyS0,115200 quiet "+lab.KernelArguments()), `boot medium: has no certificate authority`},
		"ipxe": {chain, `Ingot: boot medium of partition lab, machine 1ab00000-0000-4000-8000-000000000007`},
		// A firmware that knows a stick by its partition table, not as a CD.
		"partition table": {noCD(chain), `Ingot: boot medium of partition lab`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "stick.img")
			if err := os.WriteFile(file, stick.image, 0o600); err != nil {
				t.Fatal(err)
			}
			vm, err := lab.NewVM(dir, lab.Spec{Name: name, UUID: lab.UUID(7), Memory: 512, Firmware: &fw, CDROM: true, Stick: file, Disks: []lab.Disk{{Size: 1 << 30}}, NICs: []lab.NIC{{MAC: "52:54:00:00:01:07"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := vm.Close(); err != nil {
					t.Error(err)
				}
			})
			if err := vm.SetOverride(lab.Override{Target: lab.FromUSB}); err != nil {
				t.Fatal(err)
			}
			if err := vm.PowerOn(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(stick.prints)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

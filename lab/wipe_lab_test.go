//go:build lab

package lab_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// TestLabWipe wipes a disk on every bus in a guest and looks for what was on it
// from outside. One disk is worn.
func TestLabWipe(t *testing.T) {
	const size, secret = 128 << 20, "what the last tenant would not like to be read, "
	disks := []struct {
		lab.Disk
		want string
	}{
		{lab.Disk{Bus: lab.NVMe}, "-nvme sanitize crypto -nvme sanitize block -nvme format crypto nvme format erase"},
		{lab.Disk{Bus: lab.Virtio}, "discard"},
		{lab.Disk{Bus: lab.Virtio, NoDiscard: true}, "-discard overwrite"},
		{lab.Disk{Bus: lab.Virtio, Worn: true}, "-discard -overwrite disk vdc (serial LAB3): cannot be wiped: overwrite: before it began: flush: sync /dev/vdc: input/output error; replace the disk"},
		{lab.Disk{Bus: lab.SCSI}, "discard"},
		{lab.Disk{Bus: lab.ATA}, "-ata sanitize crypto -ata sanitize block -ata erase enhanced -ata erase discard"},
	}
	ctx, c, dir := within(t, 4*time.Minute), cache(t), t.TempDir()
	image, err := c.BootImage(ctx, program(t, "./wiper"))
	if err != nil {
		t.Fatal(err)
	}
	spec := lab.Spec{Name: "wiped", Memory: 512, Kernel: image.Kernel, Initrds: []string{image.Initrd}, Cmdline: "panic=1"}
	want := map[string]string{}
	full := bytes.Repeat([]byte(secret), size/len(secret)+1)[:size]
	for i, d := range disks {
		d.Size, d.Serial = size, fmt.Sprintf("LAB%d", i)
		spec.Disks = append(spec.Disks, d.Disk)
		want[d.Serial] = d.want
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("disk%d.raw", i)), full, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := lab.NewVM(dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := vm.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.WaitSerial(ctx, 0, regexp.MustCompile(`wiper: done`)); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(vm.SerialLog())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^wiped (\{.*\}) <nil>`).FindAllSubmatch(out, -1) {
		w := &ingotv1.Wipe{}
		if err := protojson.Unmarshal(line[1], w); err != nil {
			t.Fatal(err)
		}
		how := ""
		for _, try := range w.GetTries() {
			how += "-" + method(try.GetMethod()) + " "
			t.Logf("%s: not %s: %s", w.GetDisk().GetName(), method(try.GetMethod()), try.GetReason())
		}
		how += method(w.GetMethod()) + w.GetError()
		serial := w.GetDisk().GetSerial()
		if how != want[serial] || w.GetError() == "" && (w.GetCheck().GetSamples() < 64 || w.GetCheck().GetEdgeBytes() != 1<<20) {
			t.Errorf("%s (serial %s) is wiped by %q, want %q: %v", w.GetDisk().GetName(), serial, how, want[serial], w)
		}
		t.Logf("%s (serial %s): %s, %d samples, in %v", w.GetDisk().GetName(), serial, how, w.GetCheck().GetSamples(), w.GetEnd().AsTime().Sub(w.GetStart().AsTime()))
		delete(want, serial)
	}
	if len(want) > 0 {
		t.Errorf("nothing is said of %v", want)
	}
	for i, d := range disks {
		if d.Worn {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("disk%d.raw", i)))
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, []byte(secret[:16])); at >= 0 {
			t.Errorf("disk %d still tells at byte %d: %q", i, at, b[at:at+32])
		}
		if len(bytes.Trim(b[:1<<20], "\x00"))+len(bytes.Trim(b[size-1<<20:], "\x00")) > 0 {
			t.Errorf("disk %d has something where partition tables are", i)
		}
	}
}

func method(m ingotv1.WipeMethod) string {
	if m == 0 {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m.String(), "WIPE_METHOD_"), "_", " "))
}

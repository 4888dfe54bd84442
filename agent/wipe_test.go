package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

const tenantData = "what the last tenant would not like to be read. "

// used returns a file that is full of a tenant's data.
func used(t *testing.T, size int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte(tenantData), size/len(tenantData)+1)[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// loop returns a block device of the kernel on a file. It needs root.
func loop(t *testing.T, file string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop devices: %v", err)
	}
	defer control.Close()
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	for range 16 { // others take devices too
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no loop devices: %v", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		d, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no loop devices: %v", err)
		}
		err = unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_FD, int(backing.Fd()))
		if errors.Is(err, unix.EBUSY) {
			d.Close()
			continue
		}
		if err != nil {
			d.Close()
			t.Skipf("no loop devices: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Errorf("%s stays in use: %v", name, err)
			}
			d.Close()
		})
		return name
	}
	t.Skip("no loop device is free")
	return ""
}

func nothing(float64) {}

// holds reports whether a file has anything of the tenant's data, and whether it
// is zero at both ends.
func holds(t *testing.T, file string) (data, edges bool) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := min(edge, len(b))
	return bytes.Contains(b, []byte(tenantData[:20])), uniform(b[:n], 0) && uniform(b[len(b)-n:], 0)
}

// tried shows a wipe in one line.
func tried(w *ingotv1.Wipe) string {
	var out []string
	for _, try := range w.GetTries() {
		out = append(out, "not "+nameOf(try.GetMethod().String(), "WIPE_METHOD_")+": "+try.GetReason())
	}
	if w.GetError() != "" {
		return strings.Join(append(out, w.GetError()), "; ")
	}
	return strings.Join(append(out, nameOf(w.GetMethod().String(), "WIPE_METHOD_")), "; ")
}

// TestWipeBlock wipes what has no method of its own: a file, which cannot
// discard, and a loop device, which can.
func TestWipeBlock(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		loop bool
		want string
	}{
		{"a file", 5<<20 + 512, false, "not discard: inappropriate ioctl for device; overwrite"},
		{"a small file", 16 << 10, false, "not discard: inappropriate ioctl for device; overwrite"},
		{"one block", 512, false, "not discard: inappropriate ioctl for device; overwrite"},
		{"a loop device", 64 << 20, true, "discard"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := used(t, c.size)
			at := file
			if c.loop {
				at = loop(t, file)
			}
			d := &ingotv1.Disk{Name: "x", Serial: "s"}
			w := wipeDevice(t.Context(), at, d, nothing)
			if got := tried(w); got != c.want {
				t.Errorf("wiped by %q, want %q", got, c.want)
			}
			if data, edges := holds(t, file); data || !edges {
				t.Errorf("data is left: %t, edges are zero: %t", data, edges)
			}
			if w.GetResult() != ingotv1.WipeResult_WIPE_RESULT_DONE || w.GetDisk() != d || w.GetCheck().GetSamples() == 0 || !w.GetCheck().GetZeroes() ||
				w.GetCheck().GetEdgeBytes() != uint64(min(edge, c.size)) || w.GetEnd().AsTime().Before(w.GetStart().AsTime()) {
				t.Errorf("the result is %v", w)
			}
		})
	}
}

// TestWipeFails shows what is said of disks that cannot be wiped.
func TestWipeFails(t *testing.T) {
	d := &ingotv1.Disk{Name: "sdz", Serial: "Z1"}
	w := wipeDevice(t.Context(), filepath.Join(t.TempDir(), "sdz"), d, nothing)
	if w.GetResult() != ingotv1.WipeResult_WIPE_RESULT_FAILED || !strings.Contains(w.GetError(), "disk sdz (serial Z1): cannot be opened for wiping: ") || !strings.Contains(w.GetError(), "replace the disk") {
		t.Errorf("without a device: %v", w)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if w := wipeDevice(t.Context(), empty, d, nothing); !strings.Contains(w.GetError(), "has no size") {
		t.Errorf("without a size: %v", w)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w := wipeDevice(ctx, used(t, 1<<20), d, nothing); w.GetResult() != ingotv1.WipeResult_WIPE_RESULT_FAILED {
		t.Errorf("interrupted: %v", w)
	}
}

// pretend is a way that does something else than it says.
func pretend(zeroes bool, erase func(d *device) error) way {
	return way{ingotv1.WipeMethod_WIPE_METHOD_NVME_FORMAT_CRYPTO, "", zeroes, func(_ context.Context, d *device) error { return erase(d) }}
}

// TestWipeVerifies claims no method that did not do what it should, and goes on
// with the next.
func TestWipeVerifies(t *testing.T) {
	fill := func(b byte, from, to int64) func(d *device) error {
		return func(d *device) error {
			_, err := d.f.WriteAt(bytes.Repeat([]byte{b}, int(to-from)), from)
			return err
		}
	}
	const size = 4 << 20
	scramble := func(d *device) error {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i*7 + i>>8*13 + i>>16)
		}
		_, err := d.f.WriteAt(b, 0)
		return err
	}
	over := way{ingotv1.WipeMethod_WIPE_METHOD_OVERWRITE, "", true, overwrite}
	for _, c := range []struct {
		name string
		ways []way
		want string
	}{
		{"nothing", []way{pretend(false, func(*device) error { return nil }), over}, "not nvme format crypto: block at byte 0 still holds what was there; overwrite"},
		{"all but the last sector", []way{pretend(false, fill(0, 0, size-512)), over}, "not nvme format crypto: block at byte 4193792 still holds what was there; overwrite"},
		{"half of it", []way{pretend(false, fill(0xff, 0, size/2)), over}, "not nvme format crypto: block at byte 2125824 still holds what was there; overwrite"},
		{"ones for zeroes", []way{pretend(true, fill(0xff, 0, size)), over}, "not nvme format crypto: block at byte 0 is not zero afterwards; overwrite"},
		{"refused", []way{pretend(false, func(*device) error { return invalidOpcode }), over}, "not nvme format crypto: the disk answered with status 0x001 (unknown command); overwrite"},
		{"unsupported", []way{{method: ingotv1.WipeMethod_WIPE_METHOD_ATA_ERASE, cannot: "no"}, over}, "not ata erase: no; overwrite"},
		{"ones", []way{pretend(false, fill(0xff, 0, size)), over}, "nvme format crypto"},
		{"noise, as after a new key", []way{pretend(false, scramble), over}, "nvme format crypto"},
		{"nothing at all", []way{pretend(false, func(*device) error { return nil })}, "not nvme format crypto: block at byte 0 still holds what was there; " +
			"disk sda: cannot be wiped: nvme format crypto: block at byte 0 still holds what was there; replace the disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := used(t, size)
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w := &ingotv1.Wipe{Disk: &ingotv1.Disk{Name: "sda"}}
			err = wipe(t.Context(), w, &device{f: f, size: size, name: "sda", progress: nothing}, func(context.Context, *device) ([]way, error) { return c.ways, nil })
			if err != nil {
				w.Error = err.Error()
			}
			if got := tried(w); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if data, edges := holds(t, file); err == nil && (data || !edges) {
				t.Errorf("data is left: %t, edges are zero: %t", data, edges)
			}
		})
	}
}

// TestPlaces covers both ends of disks of any size.
func TestPlaces(t *testing.T) {
	for _, size := range []int64{512, sampleSize, 3*sampleSize + 512, 1 << 30, 4<<40 + 4096, 1 << 60} {
		p := places(size, marked)
		if p[0] != 0 || !slices.IsSorted(p) || len(slices.Compact(slices.Clone(p))) != len(p) || p[len(p)-1]+min(size, sampleSize) > size {
			t.Errorf("%d bytes: %v", size, p)
		}
		if last := p[len(p)-1]; size >= 2*sampleSize && size-last-sampleSize >= markSize {
			t.Errorf("%d bytes: the last sample is at %d", size, last)
		}
	}
}

// TestStepWipe wipes two disks at once and hands in what became of each; what
// the control plane did not take is handed in again, and not wiped again.
func TestStepWipe(t *testing.T) {
	f := &fakeAPI{lifetime: time.Hour, takes: 1}
	a := newAgent(t, f, identify, stage{ingotv1.AgentStep_AGENT_STEP_WIPE, (*Agent).wipeDisks, 40})
	if err := a.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Below /dev by a detour: what is wiped is a file.
	name := func(file string) string { return "../" + strings.TrimPrefix(file, "/") }
	one, two := used(t, 1<<20), used(t, 2<<20)
	a.disks = []*ingotv1.Disk{{Name: name(one)}, {Name: name(two)}, {Name: "kept"}}
	a.wipe = []string{name(one), name(two)}
	err := a.Step(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is wiped, but the control plane did not take the proof") {
		t.Errorf("the control plane is gone: %v", err)
	}
	f.mu.Lock()
	f.takes = 10
	f.mu.Unlock()
	was := slices.Clone(a.wipes)
	if err := a.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.wipes, was) {
		t.Errorf("wiped again: %v", a.wipes)
	}
	if len(f.wipes) != 2 || f.wipes[0].GetUuid() != machine || f.wipes[1].GetBootId() != bootID || f.wipes[0].GetAgentVersion() != "test" {
		t.Errorf("the control plane knows %v", f.wipes)
	}
}

// TestStepWipeFails ends the step at once, after the failure is on record.
func TestStepWipeFails(t *testing.T) {
	f := &fakeAPI{lifetime: time.Hour, takes: 10}
	a := newAgent(t, f, identify, stage{ingotv1.AgentStep_AGENT_STEP_WIPE, (*Agent).wipeDisks, 40})
	if err := a.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.disks, a.wipe = []*ingotv1.Disk{{Name: "ingot-none", Serial: "S"}}, []string{"ingot-none"}
	err := a.Step(t.Context())
	if err == nil || a.tries != 40 || !strings.Contains(err.Error(), "disk ingot-none (serial S): cannot be opened") {
		t.Errorf("after %d tries: %v", a.tries, err)
	}
	if len(f.wipes) != 1 || f.wipes[0].GetResult() != ingotv1.WipeResult_WIPE_RESULT_FAILED {
		t.Errorf("the control plane knows %v", f.wipes)
	}
	a.wipe, a.tries = []string{"other"}, 0
	if err := a.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "shall be wiped, but is not there") {
		t.Errorf("a disk that is not there: %v", err)
	}
}

func (f *fakeAPI) Wiped(_ context.Context, r *connect.Request[ingotv1.AgentServiceWipedRequest]) (*connect.Response[ingotv1.AgentServiceWipedResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.wipes) >= f.takes {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("not now"))
	}
	f.wipes = append(f.wipes, r.Msg.GetWipe())
	return connect.NewResponse(&ingotv1.AgentServiceWipedResponse{}), nil
}

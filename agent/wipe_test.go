package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// fakeNVMe is a controller as the specification describes it, with one
// namespace of interest, 1, on a file.
type fakeNVMe struct {
	oacs       uint16
	sanicap    uint32
	fna        byte
	namespaces []uint32
	flbas, dps byte
	state      byte // of the sanitize
	polls      int  // until a sanitize that runs has ended
	fails      bool // the sanitize
	log        []string
}

func (f *fakeNVMe) admin(c *nvmeCommand, data []byte) error {
	switch c.opcode {
	case nvmeIdentify:
		switch c.cdw10 {
		case 0x00:
			data[26], data[29] = f.flbas, f.dps
		case 0x01:
			binary.LittleEndian.PutUint16(data[256:], f.oacs)
			binary.LittleEndian.PutUint32(data[328:], f.sanicap)
			data[524] = f.fna
		case 0x02, 0x10:
			for i, n := range f.namespaces {
				binary.LittleEndian.PutUint32(data[4*i:], n)
			}
		default:
			return invalidField
		}
	case nvmeGetLogPage:
		if c.cdw10 != 127<<16|0x81 || c.namespace != 0xffffffff || f.sanicap == 0 {
			return invalidField
		}
		if f.state == sanitizeRunning {
			if f.polls--; f.polls < 0 {
				f.state = sanitizeDone
				if f.fails {
					f.state = sanitizeFailed
				}
			}
		}
		binary.LittleEndian.PutUint16(data, uint16(65535-1000*f.polls))
		data[2] = f.state
	case nvmeSanitize:
		f.log = append(f.log, fmt.Sprintf("sanitize %x", c.cdw10))
		if c.cdw10&7 == exitFailure {
			f.state = sanitizeDone
			return nil
		}
		f.state, f.polls = sanitizeRunning, 3
	case nvmeFormat:
		f.log = append(f.log, fmt.Sprintf("format %d %x", c.namespace, c.cdw10))
	default:
		return invalidOpcode
	}
	return nil
}

// TestNVMe asks controllers of all kinds for their ways, and goes each.
func TestNVMe(t *testing.T) {
	for _, c := range []struct {
		name string
		disk fakeNVMe
		want string // what is sent, or why not
	}{
		{"all", fakeNVMe{oacs: 2, sanicap: 3, fna: 4, namespaces: []uint32{1}}, "sanitize c, sanitize a, format 1 400, format 1 200"},
		{"QEMU", fakeNVMe{oacs: 0xa, namespaces: []uint32{1}}, "-, -, -, format 1 200"},
		{"nothing", fakeNVMe{namespaces: []uint32{1}}, "-, -, -, -"},
		{"4 KiB sectors with metadata and protection", fakeNVMe{oacs: 2, namespaces: []uint32{1}, flbas: 0x35, dps: 0x0a}, "-, -, -, format 1 1355"},
		{"two namespaces", fakeNVMe{oacs: 2, sanicap: 3, fna: 4, namespaces: []uint32{1, 2}}, "shared, shared, format 1 400, format 1 200"},
		{"two namespaces, formatted together", fakeNVMe{oacs: 2, sanicap: 3, fna: 6, namespaces: []uint32{1, 2}}, "shared, shared, shared, shared"},
		{"one namespace, formatted together", fakeNVMe{oacs: 2, fna: 1, namespaces: []uint32{1}}, "-, -, -, format 1 200"},
		{"a sanitize that fails", fakeNVMe{sanicap: 2, namespaces: []uint32{1}, fails: true}, "-, sanitize a sanitize 9: the disk says that it failed, -, -"},
		{"found sanitizing", fakeNVMe{sanicap: 1, namespaces: []uint32{1}, state: sanitizeRunning, polls: 5}, "sanitize c, -, -, -"},
		{"found failed", fakeNVMe{sanicap: 1, namespaces: []uint32{1}, state: sanitizeFailed}, "sanitize 9 sanitize c, -, -, -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, err := openNVMe(&c.disk, 1)
				if err != nil {
					t.Fatal(err)
				}
				var told atomic.Int32
				progress := func(part float64) {
					told.Add(1)
					if part < 0 || part > 1 {
						t.Errorf("progress %v", part)
					}
				}
				if err := n.settle(t.Context(), progress); err != nil {
					t.Fatal(err)
				}
				if c.disk.polls > 3 && told.Load() == 0 {
					t.Error("no progress of the sanitize that was running")
				}
				var got []string
				for _, w := range n.ways() {
					switch {
					case strings.Contains(w.cannot, "other namespaces"):
						got = append(got, "shared")
						continue
					case w.cannot != "":
						got = append(got, "-")
						continue
					}
					text := ""
					if err := w.erase(t.Context(), &device{progress: progress}); err != nil {
						text = ": " + err.Error()
					}
					got = append(got, strings.Join(c.disk.log, " ")+text)
					c.disk.log = nil
				}
				if got := strings.Join(got, ", "); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

// TestNVMeInterrupted stops waiting for a sanitize when the agent ends; the disk
// goes on.
func TestNVMeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := &nvme{admin: &fakeNVMe{sanicap: 1, state: sanitizeRunning, polls: 1 << 30}, can: nvmeController{sanitizesCrypto: true}}
		if err := n.settle(ctx, nothing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// fakeATA is a disk with the security feature set of ACS-4.
type fakeATA struct {
	word     uint16 // 128
	password string
	prepared bool
	stubborn bool // a locked one unlocks by an erase only
	broken   bool // the erase fails
	log      []string
}

func (f *fakeATA) ata(command byte, to, from []byte, timeout time.Duration) error {
	bad := errors.New("aborted")
	given := string(bytes.TrimRight(append([]byte(nil), to[min(2, len(to)):min(34, len(to))]...), "\x00"))
	prepared := f.prepared
	f.prepared = false
	locked := f.word&4 != 0
	if command != ataIdentify {
		f.log = append(f.log, fmt.Sprintf("%02x", command))
		if f.word&8 != 0 {
			return bad
		}
	}
	switch command {
	case ataIdentify:
		binary.LittleEndian.PutUint16(from[256:], f.word)
	case ataSetPassword:
		if locked {
			return bad
		}
		f.password, f.word = given, f.word|2
	case ataErasePrepare:
		f.prepared = true
	case ataEraseUnit:
		if !prepared || given != f.password || f.broken || timeout < time.Hour {
			return bad
		}
		if to[0]&2 != 0 {
			f.log[len(f.log)-1] += "+"
		}
		f.word, f.password = f.word&^6, ""
	case ataUnlock:
		if given != f.password || f.stubborn {
			return bad
		}
		f.word &^= 4
	case ataDisablePassword:
		if given != f.password || locked {
			return bad
		}
		f.word, f.password = f.word&^2, ""
	default:
		return bad
	}
	return nil
}

// TestATA goes the way of each kind of disk, and leaves none with a password.
func TestATA(t *testing.T) {
	const ours = erasePassword
	for _, c := range []struct {
		name string
		disk fakeATA
		want string
	}{
		{"without security", fakeATA{}, "-, -"},
		{"plain", fakeATA{word: 1}, "-, f1 f3 f4"},
		{"enhanced", fakeATA{word: 0x21}, "f1 f3 f4+, f1 f3 f4"},
		{"frozen", fakeATA{word: 0x29}, "frozen, frozen"},
		{"fails", fakeATA{word: 1, broken: true}, "-, f1 f3 f4 f6: aborted"},
		{"locked by an earlier try", fakeATA{word: 7, password: ours}, "-, f2 f6 f1 f3 f4"},
		{"locked in the middle of an erase", fakeATA{word: 7, password: ours, stubborn: true}, "-, f2 f3 f4 f1 f3 f4"},
		{"locked by somebody else", fakeATA{word: 7, password: "theirs"}, "it is locked with a password that is not ours"},
		{"locked, no more tries", fakeATA{word: 0x17, password: "theirs"}, "it is locked, and takes no more passwords before its power was off"},
		{"locked and frozen", fakeATA{word: 0xf, password: ours}, "it is locked, and the firmware has frozen that"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &ata{atapi: &c.disk}
			if err := d.look(); err != nil {
				t.Fatal(err)
			}
			if err := d.settle(); err != nil {
				if got, _, _ := strings.Cut(err.Error(), ":"); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				return
			}
			var got []string
			for _, w := range d.ways() {
				switch {
				case strings.Contains(w.cannot, "frozen"):
					got = append(got, "frozen")
					continue
				case w.cannot != "":
					got = append(got, "-")
					continue
				}
				text := ""
				if err := w.erase(t.Context(), nil); err != nil {
					text = ": " + err.Error()
				}
				got = append(got, strings.Join(c.disk.log, " ")+text)
				c.disk.log = nil
			}
			if got := strings.Join(got, ", "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if c.disk.word&6 != 0 {
				t.Errorf("the disk is left with a password, word 128 is %x", c.disk.word)
			}
		})
	}
}

// TestPassThrough compares with commands as the standard spells them.
func TestPassThrough(t *testing.T) {
	block := make([]byte, ataBlock)
	for _, c := range []struct {
		command  byte
		to, from []byte
		want     string
	}{
		{ataIdentify, nil, block, "85080e0000000100000000000000ec00"},
		{ataUnlock, block, nil, "850a060000000100000000000000f200"},
		{ataErasePrepare, nil, nil, "85060000000000000000000000" + "00f300"},
	} {
		if got := fmt.Sprintf("%x", passThrough(c.command, c.to, c.from)); got != c.want {
			t.Errorf("%02x: %s, want %s", c.command, got, c.want)
		}
	}
	if p := password(1 << 1); p[0] != 2 || string(p[2:2+len(erasePassword)]) != erasePassword || len(p) != ataBlock {
		t.Errorf("the password's block is %x", p)
	}
}

// TestSense reads sense data in both formats.
func TestSense(t *testing.T) {
	for want, sense := range map[string][]byte{
		"status 02h, sense 5h/20h/00h":            {0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0},
		"status 02h, sense bh/00h/1dh, error 04h": {0x72, 0xb, 0, 0x1d, 0, 0, 0, 14, 9, 12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x51},
		"status 02h":                   nil,
		"status 02h, sense 5h/24h/00h": {0x72, 5, 0x24, 0},
	} {
		if got := senseText(2, 0, sense); got != want {
			t.Errorf("%x: %s, want %s", sense, got, want)
		}
	}
}

// TestEraseTime decodes both formats of words 89 and 90.
func TestEraseTime(t *testing.T) {
	for w, want := range map[uint16]time.Duration{0: 0, 1: 2 * time.Minute, 0xff: 510 * time.Minute, 0x8100: 512 * time.Minute} {
		if got := eraseTime(w); got != want {
			t.Errorf("%04x: %v, want %v", w, got, want)
		}
	}
}

// FuzzDisk feeds the parsers of what disks say.
func FuzzDisk(f *testing.F) {
	f.Add(make([]byte, nvmePage))
	f.Add([]byte{1, 0, 2})
	f.Add([]byte{0x72, 0xb, 0, 0x1d, 0, 0, 0, 14, 9, 12, 0, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, cErr := parseController(b)
		cdw10, fErr := parseFormat(b)
		if (cErr == nil) != (len(b) >= nvmePage) || (fErr == nil) != (len(b) >= nvmePage) || cdw10&^0x31ff != 0 {
			t.Errorf("%d bytes: %v, %v, %x", len(b), cErr, fErr, cdw10)
		}
		if s, err := parseSanitize(b); err == nil && (s.done < 0 || s.done > 1 || s.state > 7) {
			t.Errorf("%+v", s)
		}
		for _, id := range parseNamespaces(b) {
			if id == 0 {
				t.Error("namespace 0")
			}
		}
		if s, err := parseSecurity(b); (err == nil) != (len(b) >= ataBlock) || s.time < 0 || s.enhancedTime > 100*24*time.Hour {
			t.Errorf("%+v, %v", s, err)
		}
		if !strings.HasPrefix(senseText(2, 1, b), "status 02h, host 01h") {
			t.Error("no status")
		}
	})
}

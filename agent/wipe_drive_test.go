package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

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

// fakeATA is a disk with the security and sanitize feature sets of ACS-4.
type fakeATA struct {
	can      uint16 // word 59
	state    uint16 // of the sanitize, as in COUNT
	polls    int    // until a sanitize that runs has ended
	fails    bool   // the sanitize
	refused  bool   // sanitize commands, before a failure is cleared
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
		binary.LittleEndian.PutUint16(from[118:], f.can)
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

func (f *fakeATA) sanitize(feature, count uint16, lba uint64) (ataReturn, error) {
	if feature == sanitizeState && count&clearFailure != 0 {
		f.log = append(f.log, "clear")
		f.refused = false
	}
	if f.refused {
		return ataReturn{failed: true}, errors.New("refused")
	}
	if feature != sanitizeState {
		f.log = append(f.log, fmt.Sprintf("%02x %x %x", feature, count, lba))
		f.state, f.polls = sanitizeBusy, 3
	}
	if f.state == sanitizeBusy {
		if f.polls--; f.polls < 0 {
			f.state = sanitizeGood
			if f.fails {
				f.state, f.refused = 0, true
			}
		}
	}
	return ataReturn{count: f.state, lba: uint16(65535 - 1000*max(0, f.polls))}, nil
}

// TestATA goes the way of each kind of disk, and leaves none with a password.
func TestATA(t *testing.T) {
	const ours = erasePassword
	for _, c := range []struct {
		name string
		disk fakeATA
		want string
	}{
		{"nothing", fakeATA{}, "-, -, -, -"},
		{"plain", fakeATA{word: 1}, "-, -, -, f1 f3 f4"},
		{"enhanced", fakeATA{word: 0x21}, "-, -, f1 f3 f4+, f1 f3 f4"},
		{"frozen", fakeATA{word: 0x29}, "-, -, frozen, frozen"},
		{"fails", fakeATA{word: 1, broken: true}, "-, -, -, f1 f3 f4 f6: aborted"},
		{"locked by an earlier try", fakeATA{word: 7, password: ours}, "-, -, -, f2 f6 f1 f3 f4"},
		{"locked in the middle of an erase", fakeATA{word: 7, password: ours, stubborn: true}, "-, -, -, f2 f3 f4 f1 f3 f4"},
		{"locked by somebody else", fakeATA{word: 7, password: "theirs"}, "it is locked with a password that is not ours"},
		{"locked, no more tries", fakeATA{word: 0x17, password: "theirs"}, "it is locked, and takes no more passwords before its power was off"},
		{"locked and frozen", fakeATA{word: 0xf, password: ours}, "it is locked, and the firmware has frozen that"},
		{"sanitize, frozen security", fakeATA{word: 9, can: 0xb000}, "11 10 43727970, 12 10 426b4572, -, frozen"},
		{"sanitize without crypto scramble", fakeATA{can: 0x9000}, "-, 12 10 426b4572, -, -"},
		{"words that mean nothing without bit 12", fakeATA{can: 0xa000}, "-, -, -, -"},
		{"sanitize is frozen", fakeATA{can: 0xb000, state: sanitizeFrozen}, "frozen, frozen, -, -"},
		{"found sanitizing", fakeATA{can: 0x3000, state: sanitizeBusy, polls: 5}, "11 10 43727970, -, -, -"},
		{"found failed", fakeATA{can: 0x3000, refused: true}, "clear 11 10 43727970, -, -, -"},
		{"sanitize fails", fakeATA{can: 0x3000, fails: true}, "11 10 43727970 clear: the disk says that it failed, -, -, -"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &ata{atapi: &c.disk}
			if err := d.look(); err != nil {
				t.Fatal(err)
			}
			if err := d.settle(t.Context(), nothing); err != nil {
				if got, _, _ := strings.Cut(err.Error(), ":"); got != c.want {
					t.Errorf("%s: got %s, want %s", c.name, got, c.want)
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
				if err := w.erase(t.Context(), &device{progress: nothing}); err != nil {
					text = ": " + err.Error()
				}
				got = append(got, strings.Join(c.disk.log, " ")+text)
				c.disk.log = nil
			}
			if got := strings.Join(got, ", "); got != c.want {
				t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
			}
			if c.disk.word&6 != 0 {
				t.Errorf("%s: the disk is left with a password, word 128 is %x", c.name, c.disk.word)
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
	if got, want := fmt.Sprintf("%x", sanitizeCommand(sanitizeErase, mayClear, eraseKey)), "8507200012001042720045006b00b400"; got != want {
		t.Errorf("sanitize: %s, want %s", got, want)
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

// TestReturn finds the registers among the descriptors of sense data.
func TestReturn(t *testing.T) {
	registers := []byte{9, 12, 1, 0, 0x40, 0, 0, 0x34, 0, 0x12, 0, 0, 0, 0x50}
	head := []byte{0x72, 1, 0, 0x1d, 0, 0, 0, 14}
	for _, c := range []struct {
		name  string
		sense []byte
		want  ataReturn
		ok    bool
	}{
		{"alone", slices.Concat(head, registers), ataReturn{count: 0x4000, lba: 0x1234}, true},
		{"after another", slices.Concat(head, []byte{0, 2, 1, 2}, registers), ataReturn{count: 0x4000, lba: 0x1234}, true},
		{"aborted", slices.Concat(head, registers[:13], []byte{0x51}), ataReturn{failed: true, count: 0x4000, lba: 0x1234}, true},
		{"cut", slices.Concat(head, registers[:13]), ataReturn{}, false},
		{"fixed format", slices.Concat([]byte{0x70}, head[1:], registers), ataReturn{}, false},
		{"none", nil, ataReturn{}, false},
	} {
		if got, ok := parseReturn(c.sense); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %t", c.name, got, ok)
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
		if r, ok := parseReturn(b); !ok && r != (ataReturn{}) {
			t.Errorf("%+v", r)
		}
		if !strings.HasPrefix(senseText(2, 1, b), "status 02h, host 01h") {
			t.Error("no status")
		}
	})
}

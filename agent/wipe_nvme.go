package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// The kernel's calls for NVMe (linux/nvme_ioctl.h); x/sys does not have them.
const (
	nvmeIoctlID    = 0x4e40     // _IO('N', 0x40): the id of the namespace
	nvmeIoctlAdmin = 0xc0484e41 // _IOWR('N', 0x41, struct nvme_admin_cmd)
)

// Admin commands (NVM Express Base Specification 2.0, section 5: figure 138,
// "Opcodes for Admin Commands").
const (
	nvmeGetLogPage = 0x02
	nvmeIdentify   = 0x06
	nvmeFormat     = 0x80
	nvmeSanitize   = 0x84
)

const (
	nvmeQuick = 10 * time.Second       // for what does not touch the medium
	nvmeLong  = 2 * time.Hour          // for Format, whose end nobody can ask for
	pollEvery = 500 * time.Millisecond // the state of a sanitize
	nvmePage  = 4096

	nvmeAllNamespaces = 0xffffffff
	sanitizeLog       = 0x81
)

// nvmeCommand is struct nvme_admin_cmd of the kernel.
type nvmeCommand struct {
	opcode, flags           uint8
	_                       uint16
	namespace               uint32
	cdw2, cdw3              uint32
	metadata, data          uint64
	metadataLength, dataLen uint32
	cdw10, cdw11            uint32
	cdw12, cdw13            uint32
	cdw14, cdw15            uint32
	timeout                 uint32 // ms
	result                  uint32
}

// deviceStatus is the status of a completed NVMe command, without the phase bit:
// bits 7:0 the code, 10:8 its type (Base Specification, section 3.3.3.2.1).
type deviceStatus uint16

// What devices answer that do not know a command or a field of it.
const (
	invalidOpcode deviceStatus = 0x001
	invalidField  deviceStatus = 0x002
)

// Error says what the most likely statuses mean.
func (s deviceStatus) Error() string {
	text := fmt.Sprintf("the disk answered with status 0x%03x", uint16(s&0x7ff))
	switch s & 0x7ff {
	case invalidOpcode:
		text += " (unknown command)"
	case invalidField:
		text += " (invalid field)"
	case 0x01c:
		text += " (the last sanitize failed)"
	case 0x01d:
		text += " (a sanitize is running)"
	case 0x020:
		text += " (write protected)"
	case 0x10a:
		text += " (invalid format)"
	}
	return text
}

// An admin sends admin commands to an NVMe controller.
type admin interface {
	admin(c *nvmeCommand, data []byte) error
}

// nvmeDisk is the controller behind a namespace's block device.
type nvmeDisk struct{ *os.File }

func (d nvmeDisk) admin(c *nvmeCommand, data []byte) error {
	if len(data) > 0 {
		c.data, c.dataLen = uint64(uintptr(unsafe.Pointer(&data[0]))), uint32(len(data))
		var pinner runtime.Pinner
		pinner.Pin(&data[0])
		defer pinner.Unpin()
	}
	return ioctl(d.File, nvmeIoctlAdmin, unsafe.Pointer(c))
}

// An nvmeController is what a controller can do (Base Specification, figure 275,
// "Identify - Identify Controller Data Structure").
type nvmeController struct {
	formats, manages                bool // OACS, bytes 257:256, bits 1 and 3
	sanitizesCrypto, sanitizesBlock bool // SANICAP, bytes 331:328, bits 0 and 1
	formatsAll, erasesAll           bool // FNA, byte 524, bits 0 and 1: not one namespace alone
	formatsCrypto                   bool // FNA, bit 2
}

// parseController reads the answer to Identify with CNS 01h.
func parseController(b []byte) (nvmeController, error) {
	if len(b) < nvmePage {
		return nvmeController{}, fmt.Errorf("the controller's description has %d bytes, not %d", len(b), nvmePage)
	}
	oacs, sanicap, fna := binary.LittleEndian.Uint16(b[256:]), binary.LittleEndian.Uint32(b[328:]), b[524]
	return nvmeController{
		formats: oacs&(1<<1) != 0, manages: oacs&(1<<3) != 0,
		sanitizesCrypto: sanicap&1 != 0, sanitizesBlock: sanicap&2 != 0,
		formatsAll: fna&1 != 0, erasesAll: fna&2 != 0, formatsCrypto: fna&4 != 0,
	}, nil
}

// parseNamespaces reads a list of namespaces: ids in rising order, ended by a
// zero (Base Specification, Identify with CNS 02h and 10h).
func parseNamespaces(b []byte) []uint32 {
	var ids []uint32
	for ; len(b) >= 4; b = b[4:] {
		id := binary.LittleEndian.Uint32(b)
		if id == 0 {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

// parseFormat reads how a namespace is formatted, for a Format NVM that changes
// nothing: the bits of CDW10 (Base Specification, figure "Format NVM - Command
// Dword 10") from FLBAS, byte 26, and DPS, byte 29, of Identify with CNS 00h (NVM
// Command Set Specification, figure "Identify Namespace Data Structure").
func parseFormat(b []byte) (cdw10 uint32, err error) {
	if len(b) < nvmePage {
		return 0, fmt.Errorf("the namespace's description has %d bytes, not %d", len(b), nvmePage)
	}
	flbas, dps := uint32(b[26]), uint32(b[29])
	return flbas&0xf | // format index, bits 3:0
		flbas>>4&1<<4 | // metadata behind the data
		dps&7<<5 | // type of protection information
		dps>>3&1<<8 | // at the beginning of the metadata
		flbas>>5&3<<12, nil // format index, bits 5:4
}

// A sanitizeStatus is how the last sanitize is doing (Base Specification, figure
// "Sanitize Status Log Page").
type sanitizeStatus struct {
	state byte    // SSTAT, bits 2:0
	done  float64 // of one that is running
}

// States of a sanitize.
const (
	sanitizeDone      = 1
	sanitizeRunning   = 2
	sanitizeFailed    = 3
	sanitizeDoneFreed = 4 // blocks were deallocated although that was not asked for
)

// parseSanitize reads the log page with id 81h.
func parseSanitize(b []byte) (sanitizeStatus, error) {
	if len(b) < 4 {
		return sanitizeStatus{}, fmt.Errorf("the log of the sanitize has %d bytes", len(b))
	}
	return sanitizeStatus{state: b[2] & 7, done: float64(binary.LittleEndian.Uint16(b)) / (1 << 16)}, nil
}

// nvme is a namespace and what its controller can do.
type nvme struct {
	admin
	id    uint32
	can   nvmeController
	alone bool // no other namespace shares the controller's memory
}

// nvmeWays returns what an NVMe disk can do, after it has ended a sanitize that
// an earlier boot began.
func nvmeWays(ctx context.Context, t *device) ([]way, error) {
	id, err := unix.IoctlRetInt(int(t.f.Fd()), nvmeIoctlID)
	if err != nil {
		return nil, fmt.Errorf("namespace id: %w", err)
	}
	n, err := openNVMe(nvmeDisk{t.f}, uint32(id))
	if err != nil {
		return nil, err
	}
	if err := n.settle(ctx, t.progress); err != nil {
		return nil, err
	}
	return n.ways(), nil
}

// openNVMe asks a controller what it can do.
func openNVMe(a admin, id uint32) (*nvme, error) {
	n := &nvme{admin: a, id: id}
	b, err := n.identify(0x01, 0)
	if err != nil {
		return nil, fmt.Errorf("identify controller: %w", err)
	}
	if n.can, err = parseController(b); err != nil {
		return nil, err
	}
	// Attached namespaces; and, where they can be made, all that exist.
	lists := []uint32{0x02}
	if n.can.manages {
		lists = append(lists, 0x10)
	}
	n.alone = true
	for _, cns := range lists {
		b, err := n.identify(cns, 0)
		if err != nil {
			return nil, fmt.Errorf("list of namespaces: %w", err)
		}
		n.alone = n.alone && slices.Equal(parseNamespaces(b), []uint32{id})
	}
	return n, nil
}

func (n *nvme) identify(cns, namespace uint32) ([]byte, error) {
	b := make([]byte, nvmePage)
	return b, n.admin.admin(&nvmeCommand{opcode: nvmeIdentify, namespace: namespace, cdw10: cns, timeout: ms(nvmeQuick)}, b)
}

// status returns how the last sanitize is doing.
func (n *nvme) status() (sanitizeStatus, error) {
	b := make([]byte, 512)
	c := &nvmeCommand{opcode: nvmeGetLogPage, namespace: nvmeAllNamespaces, cdw10: uint32(len(b)/4-1)<<16 | sanitizeLog, timeout: ms(nvmeQuick)}
	if err := n.admin.admin(c, b); err != nil {
		return sanitizeStatus{}, fmt.Errorf("log of the sanitize: %w", err)
	}
	return parseSanitize(b)
}

// settle waits for a sanitize that is running: the disk takes nothing else until
// it ends, not even over a power loss. What it did is not claimed, as nothing
// was marked before. A disk whose sanitize failed takes data only after it was
// told to (Base Specification, section 8.21).
func (n *nvme) settle(ctx context.Context, progress func(float64)) error {
	if !n.can.sanitizesBlock && !n.can.sanitizesCrypto {
		return nil
	}
	s, err := n.await(ctx, progress)
	if err == nil && s.state == sanitizeFailed {
		err = n.sanitize(exitFailure)
	}
	return err
}

// await returns the state of the sanitize when none is running any more.
func (n *nvme) await(ctx context.Context, progress func(float64)) (sanitizeStatus, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		s, err := n.status()
		if err != nil || s.state != sanitizeRunning {
			return s, err
		}
		progress(s.done)
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-tick.C:
		}
	}
}

// Actions of Sanitize, CDW10 bits 2:0, and of Format NVM, CDW10 bits 11:9.
const (
	exitFailure   = 1
	sanitizeBlock = 2
	sanitizeKey   = 4

	formatErase = 1
	formatKey   = 2
)

func (n *nvme) sanitize(action uint32) error {
	// Bit 3: after a failure the disk may be told to go on without.
	const unrestricted = 1 << 3
	return n.admin.admin(&nvmeCommand{opcode: nvmeSanitize, cdw10: action | unrestricted, timeout: ms(nvmeQuick)}, nil)
}

// ways lists what the disk can do, strongest first. What would erase more than
// this namespace is only done where there is nothing more.
func (n *nvme) ways() []way {
	cannot := func(can, eraseOthers bool) string {
		switch {
		case !can:
			return "the disk does not support it"
		case eraseOthers && !n.alone:
			return "the disk has other namespaces, which it would erase too"
		default:
			return ""
		}
	}
	others := n.can.formatsAll || n.can.erasesAll
	return []way{
		{ingotv1.WipeMethod_WIPE_METHOD_NVME_SANITIZE_CRYPTO, cannot(n.can.sanitizesCrypto, true), false, n.sanitizing(sanitizeKey)},
		{ingotv1.WipeMethod_WIPE_METHOD_NVME_SANITIZE_BLOCK, cannot(n.can.sanitizesBlock, true), false, n.sanitizing(sanitizeBlock)},
		{ingotv1.WipeMethod_WIPE_METHOD_NVME_FORMAT_CRYPTO, cannot(n.can.formats && n.can.formatsCrypto, others), false, n.formatting(formatKey)},
		{ingotv1.WipeMethod_WIPE_METHOD_NVME_FORMAT_ERASE, cannot(n.can.formats, others), false, n.formatting(formatErase)},
	}
}

// sanitizing erases by a sanitize.
func (n *nvme) sanitizing(action uint32) func(context.Context, *device) error {
	return func(ctx context.Context, t *device) error {
		if err := n.sanitize(action); err != nil {
			return err
		}
		s, err := n.await(ctx, t.progress)
		switch {
		case err != nil:
			return err
		case s.state == sanitizeDone || s.state == sanitizeDoneFreed:
			return nil
		case s.state == sanitizeFailed:
			return errors.Join(errors.New("the disk says that it failed"), n.sanitize(exitFailure))
		default:
			return fmt.Errorf("the disk ended in state %d", s.state)
		}
	}
}

// formatting erases by a Format NVM that keeps the format.
func (n *nvme) formatting(erase uint32) func(context.Context, *device) error {
	return func(context.Context, *device) error {
		b, err := n.identify(0x00, n.id)
		if err != nil {
			return fmt.Errorf("identify namespace: %w", err)
		}
		cdw10, err := parseFormat(b)
		if err != nil {
			return err
		}
		return n.admin.admin(&nvmeCommand{opcode: nvmeFormat, namespace: n.id, cdw10: cdw10 | erase<<9, timeout: ms(nvmeLong)}, nil)
	}
}

func ms(d time.Duration) uint32 { return uint32(d.Milliseconds()) }

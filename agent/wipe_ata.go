package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Commands of ATA/ATAPI Command Set 4 (ACS-4): IDENTIFY DEVICE, SANITIZE DEVICE
// and the security feature set.
const (
	ataIdentify        = 0xec
	ataSanitize        = 0xb4
	ataSetPassword     = 0xf1
	ataUnlock          = 0xf2
	ataErasePrepare    = 0xf3
	ataEraseUnit       = 0xf4
	ataDisablePassword = 0xf6
)

const (
	ataQuick = 15 * time.Second
	ataBlock = 512
	// erasePassword is what a disk is locked with while it erases itself: the
	// command demands a password. It guards nothing and is written down in
	// docs/security.md, so that a disk whose erase was interrupted can be
	// unlocked by anybody: by the next try first of all.
	erasePassword = "INGOT-ERASES-THIS-DISK"
)

// An atapi sends ATA commands without data, or with one block to or from the
// disk, and the sanitize commands, which answer with registers.
type atapi interface {
	ata(command byte, to, from []byte, timeout time.Duration) error
	sanitize(feature, count uint16, lba uint64) (ataReturn, error)
}

// ataDisk is an ATA disk behind a SCSI block device.
type ataDisk struct{ *os.File }

// sgHeader is struct sg_io_hdr of the kernel (scsi/sg.h).
type sgHeader struct {
	interfaceID    int32 // 'S'
	direction      int32
	commandLength  uint8
	senseLength    uint8
	_              uint16
	dataLength     uint32
	data           unsafe.Pointer
	command        unsafe.Pointer
	sense          unsafe.Pointer
	timeout        uint32 // ms
	flags          uint32
	packID         int32
	user           unsafe.Pointer
	status         uint8
	maskedStatus   uint8
	messageStatus  uint8
	senseWritten   uint8
	hostStatus     uint16
	driverStatus   uint16
	residual       int32
	duration, info uint32
}

// The kernel's call for SCSI commands (scsi/sg.h); x/sys does not have it.
const (
	sgIO       = 0x2285
	sgNone     = -1
	sgToDisk   = -2
	sgFromDisk = -3
)

// passThrough returns the command ATA PASS-THROUGH (16) for one ATA command
// (SCSI/ATA Translation 4, section 12.2.2).
func passThrough(command byte, to, from []byte) [16]byte {
	const nonData, pioIn, pioOut = 3, 4, 5
	c := [16]byte{0: 0x85, 1: nonData << 1, 14: command}
	switch {
	case from != nil:
		c[1], c[2], c[6] = pioIn<<1, 1<<3|1<<2|2, 1 // from the disk, in blocks, as many as in COUNT
	case to != nil:
		c[1], c[2], c[6] = pioOut<<1, 1<<2|2, 1
	}
	return c
}

func (d ataDisk) ata(command byte, to, from []byte, timeout time.Duration) error {
	cdb, direction, block := passThrough(command, to, from), int32(sgNone), []byte(nil)
	switch {
	case from != nil:
		direction, block = sgFromDisk, from
	case to != nil:
		direction, block = sgToDisk, to
	}
	h, sense, err := d.send(cdb, direction, block, timeout)
	if err == nil && h.status != 0 {
		err = fmt.Errorf("the disk refused command %02xh: %s", command, senseText(h.status, 0, sense))
	}
	return err
}

func (d ataDisk) sanitize(feature, count uint16, lba uint64) (ataReturn, error) {
	h, sense, err := d.send(sanitizeCommand(feature, count, lba), sgNone, nil, ataQuick)
	if err != nil {
		return ataReturn{}, err
	}
	r, ok := parseReturn(sense)
	switch {
	case !ok:
		return r, fmt.Errorf("the kernel does not pass on what the disk answers: %s", senseText(h.status, 0, sense))
	case r.failed:
		return r, fmt.Errorf("the disk refused sanitize command %04xh: %s", feature, senseText(h.status, 0, sense))
	}
	return r, nil
}

// send sends one SCSI command. An error is the kernel's or the bus's; what the
// disk says is in the header's status and the sense data.
func (d ataDisk) send(cdb [16]byte, direction int32, block []byte, timeout time.Duration) (*sgHeader, []byte, error) {
	sense := [32]byte{}
	h := &sgHeader{
		interfaceID: 'S', direction: direction, commandLength: uint8(len(cdb)), senseLength: uint8(len(sense)),
		command: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeout: ms(timeout),
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(h.command)
	pinner.Pin(h.sense)
	if len(block) > 0 {
		h.data, h.dataLength = unsafe.Pointer(&block[0]), uint32(len(block))
		pinner.Pin(h.data)
	}
	if err := ioctl(d.File, sgIO, unsafe.Pointer(h)); err != nil {
		return h, nil, err
	}
	const senseIsThere = 8 // in the driver's status
	if h.hostStatus != 0 || h.driverStatus&^senseIsThere != 0 {
		return h, nil, fmt.Errorf("the disk did not answer: %s", senseText(h.status, h.hostStatus, nil))
	}
	return h, sense[:min(int(h.senseWritten), len(sense))], nil
}

// sanitizeCommand returns the command ATA PASS-THROUGH (16) for SANITIZE DEVICE, a
// 48-bit command without data, and asks for the registers afterwards.
func sanitizeCommand(feature, count uint16, lba uint64) [16]byte {
	const nonData, extend, registers = 3 << 1, 1, 1 << 5
	return [16]byte{
		0x85, nonData | extend, registers, byte(feature >> 8), byte(feature), byte(count >> 8), byte(count),
		byte(lba >> 24), byte(lba), byte(lba >> 32), byte(lba >> 8), byte(lba >> 40), byte(lba >> 16), 0, ataSanitize, 0,
	}
}

// An ataReturn is what an ATA command left in the registers.
type ataReturn struct {
	failed bool
	count  uint16
	lba    uint16 // the lower half
}

// parseReturn reads the ATA Status Return descriptor of sense data (SAT-4,
// section 12.2.2.7); false if there is none.
func parseReturn(sense []byte) (ataReturn, bool) {
	if len(sense) < 8 || sense[0]&0x7f < 0x72 {
		return ataReturn{}, false
	}
	for d := sense[8:]; len(d) >= 2; d = d[min(len(d), 2+int(d[1])):] {
		if d[0] == 9 && len(d) >= 14 {
			const wrong, broken = 1, 1 << 5 // bits of the status register
			return ataReturn{
				failed: d[13]&(wrong|broken) != 0,
				count:  uint16(d[4])<<8 | uint16(d[5]), lba: uint16(d[9])<<8 | uint16(d[7]),
			}, true
		}
	}
	return ataReturn{}, false
}

// senseText says what sense data mean, in fixed or descriptor format (SPC-5,
// sections 4.4.2 and 4.4.3), with the disk's own error register if it is there
// (SAT-4, section 12.2.2.7).
func senseText(status uint8, host uint16, sense []byte) string {
	text := fmt.Sprintf("status %02xh", status)
	if host != 0 {
		text += fmt.Sprintf(", host %02xh", host)
	}
	switch {
	case len(sense) >= 14 && sense[0]&0x7f < 0x72:
		text += fmt.Sprintf(", sense %xh/%02xh/%02xh", sense[2]&0xf, sense[12], sense[13])
	case len(sense) >= 4 && sense[0]&0x7f >= 0x72:
		text += fmt.Sprintf(", sense %xh/%02xh/%02xh", sense[1]&0xf, sense[2], sense[3])
		if len(sense) >= 22 && sense[8] == 9 {
			text += fmt.Sprintf(", error %02xh", sense[11])
		}
	}
	return text
}

// An ataSecurity is what a disk says about how it can be erased (ACS-4, section
// 7.13.6: IDENTIFY DEVICE data).
type ataSecurity struct {
	// Word 128.
	supported, enabled, locked, frozen, expired, enhanced bool
	// Word 59, bits 13 and 15, if bit 12 says that there is sanitize.
	sanitizesCrypto, sanitizesBlock bool
	// Words 89 and 90: how long an erase and an enhanced erase take; 0 if the
	// disk does not say.
	time, enhancedTime time.Duration
}

// parseSecurity reads the answer to IDENTIFY DEVICE.
func parseSecurity(b []byte) (ataSecurity, error) {
	if len(b) < ataBlock {
		return ataSecurity{}, fmt.Errorf("the disk's description has %d bytes, not %d", len(b), ataBlock)
	}
	word := func(n int) uint16 { return binary.LittleEndian.Uint16(b[2*n:]) }
	s, bit := word(128), func(w uint16, n int) bool { return w&(1<<n) != 0 }
	sanitize := word(59)
	return ataSecurity{
		sanitizesCrypto: bit(sanitize, 12) && bit(sanitize, 13), sanitizesBlock: bit(sanitize, 12) && bit(sanitize, 15),
		supported: bit(s, 0), enabled: bit(s, 1), locked: bit(s, 2), frozen: bit(s, 3), expired: bit(s, 4), enhanced: bit(s, 5),
		time: eraseTime(word(89)), enhancedTime: eraseTime(word(90)),
	}, nil
}

// eraseTime decodes words 89 and 90: units of two minutes, in fifteen bits if
// the sixteenth is set, else in eight (ACS-4, section 7.13.6.32).
func eraseTime(w uint16) time.Duration {
	if w&(1<<15) != 0 {
		return time.Duration(w&0x7fff) * 2 * time.Minute
	}
	return time.Duration(w&0xff) * 2 * time.Minute
}

// ata is a disk and its security.
type ata struct {
	atapi
	is             ataSecurity
	cannotSanitize string // why not, if it says that it can
}

// Features of SANITIZE DEVICE, the keys that two of them want in LBA, and bits
// of COUNT, to the disk and from it (ACS-4, section 7.36).
const (
	sanitizeState    = 0x00
	sanitizeScramble = 0x11 // crypto scramble
	sanitizeErase    = 0x12 // block erase
	scrambleKey      = 0x43727970
	eraseKey         = 0x426b4572

	clearFailure = 1 << 0 // of the last sanitize
	mayClear     = 1 << 4 // a failure may be cleared

	sanitizeFrozen = 1 << 13
	sanitizeBusy   = 1 << 14
	sanitizeGood   = 1 << 15 // the last one ended without error
)

// ataWays returns what an ATA disk can do, after it has unlocked one whose erase
// an earlier boot began.
func ataWays(ctx context.Context, t *device) ([]way, error) {
	d := &ata{atapi: ataDisk{t.f}}
	if err := d.look(); err != nil {
		return nil, nil //nolint:nilerr // a bridge that does not pass commands on: the block layer's ways are left
	}
	if err := d.settle(ctx, t.progress); err != nil {
		return nil, err
	}
	return d.ways(), nil
}

func (d *ata) look() error {
	b := make([]byte, ataBlock)
	if err := d.ata(ataIdentify, nil, b, ataQuick); err != nil {
		return err
	}
	s, err := parseSecurity(b)
	d.is = s
	return err
}

// settle ends what an earlier boot began. A sanitize that runs is waited for: the
// disk takes nothing else until it ends, not even over a power loss. What it did
// is not claimed, as nothing was marked before.
func (d *ata) settle(ctx context.Context, progress func(float64)) error {
	if d.is.sanitizesCrypto || d.is.sanitizesBlock {
		r, err := d.await(ctx, progress)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // so it answers after one that failed
			r, err = d.sanitize(sanitizeState, clearFailure, 0)
		}
		switch {
		case err != nil:
			d.cannotSanitize = err.Error()
		case r.count&sanitizeFrozen != 0:
			d.cannotSanitize = "the firmware has frozen it"
		}
	}
	return d.unlock()
}

// unlock unlocks a disk that is locked with our password: the power went away
// while it was erased. Some disks then refuse everything but another erase.
func (d *ata) unlock() error {
	if !d.is.supported || !d.is.locked {
		return nil
	}
	err := d.ata(ataUnlock, password(0), nil, ataQuick)
	if err == nil {
		err = d.ata(ataDisablePassword, password(0), nil, ataQuick)
	}
	if err != nil {
		err = errors.Join(err, d.eraseUnit(false))
	}
	if look := d.look(); look != nil {
		return look
	}
	if d.is.locked {
		why := "it is locked with a password that is not ours"
		switch {
		case d.is.frozen:
			why = "it is locked, and the firmware has frozen that"
		case d.is.expired:
			why = "it is locked, and takes no more passwords before its power was off"
		}
		return fmt.Errorf("%s: %w", why, err)
	}
	return nil
}

// ways lists what the disk can do, strongest first.
func (d *ata) ways() []way {
	cannot := func(can, frozen bool, otherwise string) string {
		switch {
		case !can:
			return "the disk does not support it"
		case frozen:
			return "the firmware has frozen the disk's security"
		default:
			return otherwise
		}
	}
	return []way{
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_SANITIZE_CRYPTO, cannot(d.is.sanitizesCrypto, false, d.cannotSanitize), false, d.sanitizing(sanitizeScramble, scrambleKey)},
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_SANITIZE_BLOCK, cannot(d.is.sanitizesBlock, false, d.cannotSanitize), false, d.sanitizing(sanitizeErase, eraseKey)},
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_ERASE_ENHANCED, cannot(d.is.supported && d.is.enhanced, d.is.frozen, ""), false, d.erasing(true)},
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_ERASE, cannot(d.is.supported, d.is.frozen, ""), false, d.erasing(false)},
	}
}

// sanitizing erases by a sanitize.
func (d *ata) sanitizing(feature uint16, key uint64) func(context.Context, *device) error {
	return func(ctx context.Context, t *device) error {
		if _, err := d.sanitize(feature, mayClear, key); err != nil {
			return err
		}
		r, err := d.await(ctx, t.progress)
		if err == nil && r.count&sanitizeGood == 0 {
			err = errors.New("the disk says that it failed")
		}
		if err != nil && ctx.Err() == nil {
			_, cleared := d.sanitize(sanitizeState, clearFailure, 0)
			err = errors.Join(err, cleared)
		}
		return err
	}
}

// await returns how the last sanitize ended when none is running any more.
func (d *ata) await(ctx context.Context, progress func(float64)) (ataReturn, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		r, err := d.sanitize(sanitizeState, 0, 0)
		if err != nil || r.count&sanitizeBusy == 0 {
			return r, err
		}
		progress(float64(r.lba) / (1 << 16))
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-tick.C:
		}
	}
}

// erasing sets our password, erases, which removes it, and removes it if it did
// not. Whenever the power goes away in between, settle finds a disk that our
// password unlocks.
func (d *ata) erasing(enhanced bool) func(context.Context, *device) error {
	return func(context.Context, *device) error {
		// Bit 8 of word 0 is left out: with the security level "high" a master
		// password, if there is one, unlocks the disk too.
		if err := d.ata(ataSetPassword, password(0), nil, ataQuick); err != nil {
			return err
		}
		err := d.eraseUnit(enhanced)
		if look := d.look(); look != nil {
			return errors.Join(err, look)
		}
		if d.is.locked {
			err = errors.Join(err, d.ata(ataUnlock, password(0), nil, ataQuick))
		}
		if d.is.enabled {
			err = errors.Join(err, d.ata(ataDisablePassword, password(0), nil, ataQuick))
		}
		return err
	}
}

// eraseUnit erases a disk that has our password (ACS-4, SECURITY ERASE PREPARE
// and SECURITY ERASE UNIT).
func (d *ata) eraseUnit(enhanced bool) error {
	if err := d.ata(ataErasePrepare, nil, nil, ataQuick); err != nil {
		return err
	}
	takes, word := d.is.time, uint16(0)
	if enhanced {
		takes, word = d.is.enhancedTime, 1<<1
	}
	// Some disks say nothing, or "more than 508 minutes".
	return d.ata(ataEraseUnit, password(word), nil, max(12*time.Hour, 2*takes))
}

// password returns the block that security commands take: word 0, and our user
// password in words 1 to 16.
func password(word uint16) []byte {
	b := make([]byte, ataBlock)
	binary.LittleEndian.PutUint16(b, word)
	copy(b[2:2+32], erasePassword)
	return b
}

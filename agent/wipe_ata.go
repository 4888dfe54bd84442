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

// Commands of ATA/ATAPI Command Set 4 (ACS-4): section 7.13, and the security
// commands of 7.41 and following.
const (
	ataIdentify        = 0xec
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
// disk.
type atapi interface {
	ata(command byte, to, from []byte, timeout time.Duration) error
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
	cdb, sense := passThrough(command, to, from), [32]byte{}
	h := &sgHeader{
		interfaceID: 'S', direction: sgNone, commandLength: uint8(len(cdb)), senseLength: uint8(len(sense)),
		command: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeout: ms(timeout),
	}
	if data := append(to[:len(to):len(to)], from...); len(data) > 0 {
		block := to
		h.direction = sgToDisk
		if from != nil {
			block, h.direction = from, sgFromDisk
		}
		h.data, h.dataLength = unsafe.Pointer(&block[0]), uint32(len(block))
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	for _, p := range []unsafe.Pointer{h.command, h.sense, h.data} {
		if p != nil {
			pinner.Pin(p)
		}
	}
	if err := ioctl(d.File, sgIO, unsafe.Pointer(h)); err != nil {
		return err
	}
	if h.status != 0 || h.hostStatus != 0 || h.driverStatus&^8 != 0 {
		return fmt.Errorf("the disk refused command %02xh: %s", command, senseText(h.status, h.hostStatus, sense[:h.senseWritten]))
	}
	return nil
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

// An ataSecurity is what a disk says about its security (ACS-4, section
// 7.13.6: IDENTIFY DEVICE data).
type ataSecurity struct {
	// Word 128.
	supported, enabled, locked, frozen, expired, enhanced bool
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
	return ataSecurity{
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
	is ataSecurity
}

// ataWays returns what an ATA disk can do, after it has unlocked one whose erase
// an earlier boot began.
func ataWays(_ context.Context, t *device) ([]way, error) {
	d := &ata{atapi: ataDisk{t.f}}
	if err := d.look(); err != nil {
		return nil, nil //nolint:nilerr // a bridge that does not pass commands on: the block layer's ways are left
	}
	if err := d.settle(); err != nil {
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

// settle unlocks a disk that is locked with our password: the power went away
// while it was erased. Some disks then refuse everything but another erase.
func (d *ata) settle() error {
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
	cannot := func(can bool) string {
		switch {
		case !can:
			return "the disk does not support it"
		case d.is.frozen:
			return "the firmware has frozen the disk's security"
		default:
			return ""
		}
	}
	return []way{
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_ERASE_ENHANCED, cannot(d.is.supported && d.is.enhanced), false, d.erasing(true)},
		{ingotv1.WipeMethod_WIPE_METHOD_ATA_ERASE, cannot(d.is.supported), false, d.erasing(false)},
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

// Package lldp reads and writes frames of the Link Layer Discovery Protocol
// (IEEE 802.1AB-2016) and sends and receives them on Linux interfaces.
//
// It knows the few TLVs that Ingot uses: who the sender is, on which port, and
// how long that holds. Unknown TLVs are skipped.
package lldp

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ingot-cloud/ingot/fault"
)

// EtherType of LLDP frames.
const EtherType = 0x88cc

// NearestBridge is the destination of LLDP frames: bridges do not forward it
// (IEEE 802.1AB-2016, 7.1).
var NearestBridge = net.HardwareAddr{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// MaxTTL is the longest time a frame can ask to be remembered.
const MaxTTL = 65535 * time.Second

// A Frame is what one LLDP data unit says about its sender.
type Frame struct {
	ChassisID         string // printable; a MAC address in colon form
	PortID            string // printable; a MAC address in colon form
	PortDescription   string
	SystemName        string
	SystemDescription string
	// TTL is how long the information holds, in whole seconds. Zero means
	// that the sender leaves (IEEE 802.1AB-2016, 9.2.5).
	TTL time.Duration
}

// TLV types of IEEE 802.1AB-2016, table 8-1, and the subtypes used here.
const (
	typeEnd = iota
	typeChassisID
	typePortID
	typeTTL
	typePortDescription
	typeSystemName
	typeSystemDescription

	chassisMAC   = 4
	chassisLocal = 7
	portMAC      = 3
	portIfName   = 5

	maxValue = 511 // length is 9 bits
	maxText  = 255 // of descriptions and names
)

// Marshal returns the frame's data unit: what follows the Ethernet header.
func (f Frame) Marshal() ([]byte, error) {
	if f.ChassisID == "" || f.PortID == "" {
		return nil, fault.New(fault.Invalid, "lldp frame", "has no chassis or port id", "")
	}
	if f.TTL < 0 || f.TTL > MaxTTL {
		return nil, fault.Newf(fault.Invalid, "lldp frame", "a time to live of %v is not in 0s to %v", f.TTL, MaxTTL)
	}
	var b []byte
	var err error
	put := func(typ int, value []byte) {
		if len(value) > maxText+1 && err == nil {
			err = fault.Newf(fault.Invalid, "lldp frame", "field %d has %d bytes, more than %d", typ, len(value), maxText)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(typ<<9|len(value)&maxValue))
		b = append(b, value...)
	}
	put(typeChassisID, id(f.ChassisID, chassisMAC, chassisLocal))
	put(typePortID, id(f.PortID, portMAC, portIfName))
	put(typeTTL, binary.BigEndian.AppendUint16(nil, uint16(f.TTL/time.Second)))
	for typ, text := range []string{
		typePortDescription:   f.PortDescription,
		typeSystemName:        f.SystemName,
		typeSystemDescription: f.SystemDescription,
	} {
		if text != "" {
			put(typ, []byte(text))
		}
	}
	put(typeEnd, nil)
	return b, err
}

// id returns a subtype and the value: a MAC address if s is one, text otherwise.
func id(s string, mac, text byte) []byte {
	if a, err := net.ParseMAC(s); err == nil && len(a) == 6 {
		return append([]byte{mac}, a...)
	}
	return append([]byte{text}, s...)
}

// Parse reads a data unit. The three mandatory TLVs have to come first and in
// order (IEEE 802.1AB-2016, 8.2). Text of the frame is made printable.
func Parse(b []byte) (Frame, error) {
	var f Frame
	for n := 0; ; n++ {
		if len(b) < 2 {
			if n < 3 {
				return Frame{}, malformed("ends after %d fields", n)
			}
			return f, nil // the end TLV is optional for receivers
		}
		head := binary.BigEndian.Uint16(b)
		typ, length := int(head>>9), int(head&maxValue)
		b = b[2:]
		if length > len(b) {
			return Frame{}, malformed("field %d claims %d bytes of %d", typ, length, len(b))
		}
		value := b[:length]
		b = b[length:]
		if n < 3 && typ != n+typeChassisID {
			return Frame{}, malformed("field %d is of type %d", n+1, typ)
		}
		if n >= 3 && typ >= typeChassisID && typ <= typeTTL {
			return Frame{}, malformed("type %d comes twice", typ)
		}
		if typ == typeEnd {
			return f, nil
		}
		if err := f.set(typ, value); err != nil {
			return Frame{}, err
		}
	}
}

func (f *Frame) set(typ int, value []byte) (err error) {
	switch typ {
	case typeChassisID:
		f.ChassisID, err = readID("chassis id", value, chassisMAC)
	case typePortID:
		f.PortID, err = readID("port id", value, portMAC)
	case typeTTL:
		if len(value) < 2 {
			return malformed("the time to live has %d bytes", len(value))
		}
		f.TTL = time.Duration(binary.BigEndian.Uint16(value)) * time.Second
	case typePortDescription:
		f.PortDescription = printable(value)
	case typeSystemName:
		f.SystemName = printable(value)
	case typeSystemDescription:
		f.SystemDescription = printable(value)
	}
	return err
}

func readID(what string, value []byte, mac byte) (string, error) {
	if len(value) < 2 {
		return "", malformed("the %s has %d bytes", what, len(value))
	}
	if value[0] == mac && len(value) == 7 {
		return net.HardwareAddr(value[1:]).String(), nil
	}
	return printable(value[1:]), nil
}

// printable keeps a sender from putting control characters into a terminal.
func printable(b []byte) string {
	if len(b) > maxText {
		b = b[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimRight(string(b), "\x00"))
}

func malformed(format string, args ...any) error {
	return fault.New(fault.Invalid, "lldp frame", fmt.Sprintf(format, args...), "")
}

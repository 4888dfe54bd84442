package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A Frame is one Ethernet frame that came through a wire.
type Frame struct {
	At   time.Time
	Data []byte
}

// ReadCapture reads what Wire.Capture wrote. A capture that is still being
// written, or was cut short, yields the frames that are complete.
func ReadCapture(path string) ([]Frame, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	frames, err := parseCapture(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return frames, nil
}

func parseCapture(b []byte) ([]Frame, error) {
	header := pcapHeader()
	if len(b) < len(header) {
		return nil, io.ErrUnexpectedEOF
	}
	if string(b[:len(header)]) != string(header) {
		return nil, errors.New("is no capture of a lab wire")
	}
	b = b[len(header):]
	var frames []Frame
	for len(b) >= 16 {
		at := time.Unix(int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:])))
		n := int64(binary.LittleEndian.Uint32(b[8:]))
		b = b[16:]
		if n > int64(len(b)) {
			break
		}
		frames, b = append(frames, Frame{At: at, Data: b[:n:n]}), b[n:]
	}
	return frames, nil
}

// Kind names what a frame carries, for counting and for telling what must not
// be there: "arp", "lldp", "ipv4 udp 67", "ipv6 icmp 134" (the message's
// type), "ipv6 tcp 443". Of two ports the lower one is taken, which is that of
// the service. A VLAN tag comes first: "vlan 4000 arp".
func (f Frame) Kind() string {
	if len(f.Data) < 14 {
		return "runt"
	}
	return etherKind(binary.BigEndian.Uint16(f.Data[12:]), f.Data[14:])
}

func etherKind(etherType uint16, b []byte) string {
	switch etherType {
	case 0x0806:
		return "arp"
	case 0x88cc:
		return "lldp"
	case 0x8100, 0x88a8:
		if len(b) < 4 {
			return "runt"
		}
		return fmt.Sprintf("vlan %d %s", binary.BigEndian.Uint16(b)&0xfff, etherKind(binary.BigEndian.Uint16(b[2:]), b[4:]))
	case 0x0800:
		if len(b) < 20 || int(b[0]&15)*4 > len(b) {
			return "ipv4 runt"
		}
		return "ipv4 " + transportKind(b[9], b[int(b[0]&15)*4:])
	case 0x86dd:
		if len(b) < 40 {
			return "ipv6 runt"
		}
		return "ipv6 " + ipv6Kind(b[6], b[40:])
	}
	return fmt.Sprintf("ethertype %#04x", etherType)
}

// ipv6Kind skips the extension headers (RFC 8200, 4).
func ipv6Kind(next byte, b []byte) string {
	for next == 0 || next == 43 || next == 60 { // hop-by-hop, routing, destination
		if len(b) < 8 || (int(b[1])+1)*8 > len(b) {
			return "runt"
		}
		next, b = b[0], b[(int(b[1])+1)*8:]
	}
	if next == 44 {
		return "fragment"
	}
	return transportKind(next, b)
}

func transportKind(protocol byte, b []byte) string {
	name := map[byte]string{6: "tcp", 17: "udp"}[protocol]
	switch {
	case name != "" && len(b) >= 4:
		return fmt.Sprintf("%s %d", name, min(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])))
	case (protocol == 1 || protocol == 58) && len(b) >= 1:
		return fmt.Sprintf("icmp %d", b[0])
	}
	return fmt.Sprintf("protocol %d", protocol)
}

package lldp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn sends and receives LLDP frames on one interface. It needs
// CAP_NET_RAW.
type Conn struct {
	file  *os.File
	iface net.Interface
}

// Open opens the interface. The interface may be down; frames flow once it is
// up.
func Open(iface net.Interface) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("lldp on %s: socket: %w", iface.Name, err)
	}
	// Bind before anything arrives: a socket of protocol 0 receives nothing.
	addr := &unix.SockaddrLinklayer{Protocol: htons(EtherType), Ifindex: iface.Index}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("lldp on %s: bind: %w", iface.Name, err)
	}
	group := &unix.PacketMreq{Ifindex: int32(iface.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
	copy(group.Address[:], NearestBridge)
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, group); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("lldp on %s: join: %w", iface.Name, err)
	}
	return &Conn{file: os.NewFile(uintptr(fd), "lldp-"+iface.Name), iface: iface}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.file.Close() }

// Send sends one frame.
func (c *Conn) Send(f Frame) error {
	unit, err := f.Marshal()
	if err != nil {
		return fmt.Errorf("lldp on %s: %w", c.iface.Name, err)
	}
	b := append([]byte(nil), NearestBridge...)
	b = append(b, c.iface.HardwareAddr...)
	b = binary.BigEndian.AppendUint16(b, EtherType)
	b = append(b, unit...)
	for len(b) < 60 { // the shortest Ethernet frame without its checksum
		b = append(b, 0)
	}
	if _, err := c.file.Write(b); err != nil {
		return fmt.Errorf("lldp on %s: send: %w", c.iface.Name, err)
	}
	return nil
}

// Receive waits for the next well-formed frame of another sender. Malformed
// frames are passed over: anybody on the wire can send them. When ctx ends it
// returns ctx's error, and the connection can be used again. It is for one
// caller at a time.
func (c *Conn) Receive(ctx context.Context) (Frame, error) {
	if err := c.file.SetReadDeadline(time.Time{}); err != nil { // that of the call before
		return Frame{}, fmt.Errorf("lldp on %s: receive: %w", c.iface.Name, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		c.file.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // fails only when closed, and then Read returns
	})
	defer func() {
		if !stop() {
			<-interrupted // or it would interrupt the next call
		}
	}()
	buf := make([]byte, 2048)
	for {
		n, err := c.file.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return Frame{}, ctx.Err()
			}
			if errors.Is(err, unix.ENETDOWN) {
				continue // reported once when the link goes down
			}
			return Frame{}, fmt.Errorf("lldp on %s: receive: %w", c.iface.Name, err)
		}
		const header = 14
		if n < header || net.HardwareAddr(buf[6:12]).String() == c.iface.HardwareAddr.String() {
			continue
		}
		if f, err := Parse(buf[header:n]); err == nil {
			return f, nil
		}
	}
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Wire joins two network ports. Frames that one side sends come out at the
// other, or are lost, as on a cable: nothing is kept for a port that is
// unplugged, powered off or too slow.
//
// The wire is a relay in this process between two sockets without names, so
// that a capture shows exactly what passed, in order, and a cut is exact.
type Wire struct {
	name string
	ends [2]Port
	cut  atomic.Bool
	lost atomic.Pointer[[]string] // kinds of frames

	mu       sync.Mutex // guards capture
	capture  io.WriteCloser
	captured error
}

// A Port is one end of a wire.
type Port struct {
	wire *Wire
	peer *Port

	// Frames counts the frames that came in from this end; Lost those of them
	// that did not come out at the other.
	Frames, Lost atomic.Uint64

	mu   sync.Mutex // guards conn
	conn *net.UnixConn
	raw  syscall.RawConn
}

// NewWire returns a wire that joins nothing yet.
func NewWire(name string) *Wire {
	w := &Wire{name: name}
	w.ends[0] = Port{wire: w, peer: &w.ends[1]}
	w.ends[1] = Port{wire: w, peer: &w.ends[0]}
	return w
}

// Name returns the name the wire was made with.
func (w *Wire) Name() string { return w.name }

// A returns one end of the wire, B the other.
func (w *Wire) A() *Port { return &w.ends[0] }

// B returns the other end of the wire.
func (w *Wire) B() *Port { return &w.ends[1] }

// Cut makes the wire lose every frame. The ports keep their
// carrier: this is the failure that nobody is told about.
func (w *Wire) Cut() { w.cut.Store(true) }

// Lose makes the wire lose every frame of some kinds, as Frame.Kind names them:
// "ipv6 icmp 134" are router advertisements.
func (w *Wire) Lose(kinds ...string) { w.lost.Store(&kinds) }

// Mend undoes Cut and Lose.
func (w *Wire) Mend() {
	w.cut.Store(false)
	w.lost.Store(nil)
}

// loses reports whether a frame is lost on its way.
func (w *Wire) loses(frame []byte) bool {
	if w.cut.Load() {
		return true
	}
	kinds := w.lost.Load()
	return kinds != nil && slices.Contains(*kinds, Frame{Data: frame}.Kind())
}

// Close unplugs both ends and ends the capture.
func (w *Wire) Close() error {
	w.ends[0].unplug()
	w.ends[1].unplug()
	return w.EndCapture()
}

// plug connects a device to p: the returned file is the device's socket, which
// carries one frame per datagram. What was plugged in before is disconnected.
func (p *Port) plug() (*os.File, error) {
	p.unplug()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("wire %s: %w", p.wire.name, err)
	}
	device := os.NewFile(uintptr(fds[1]), p.wire.name)
	f := os.NewFile(uintptr(fds[0]), p.wire.name)
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wire %s: %w", p.wire.name, err), device.Close())
	}
	conn := c.(*net.UnixConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wire %s: %w", p.wire.name, err), device.Close(), conn.Close())
	}
	p.mu.Lock()
	p.conn, p.raw = conn, raw
	p.mu.Unlock()
	go p.relay(conn) // ends when the socket is closed by unplug
	return device, nil
}

// unplug disconnects what is plugged into p.
func (p *Port) unplug() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn, p.raw = nil, nil
	}
}

// maxFrame is more than any frame: virtio hands over up to 64 KiB.
const maxFrame = 68 << 10

func (p *Port) relay(conn *net.UnixConn) {
	buf := make([]byte, maxFrame)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) {
			continue // the device's process has ended; unplug comes next
		}
		if err != nil {
			return
		}
		p.Inject(buf[:n])
	}
}

// Inject puts a frame on the wire as if the device at p had sent it.
func (p *Port) Inject(frame []byte) {
	p.Frames.Add(1)
	if p.wire.loses(frame) || !p.peer.deliver(frame) {
		p.Lost.Add(1)
		return
	}
	p.wire.record(frame)
}

// deliver hands a frame to the device at p, unless there is none or it does
// not keep up.
func (p *Port) deliver(frame []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.raw == nil {
		return false
	}
	var sent error
	err := p.raw.Write(func(fd uintptr) bool {
		sent = syscall.Sendto(int(fd), frame, syscall.MSG_DONTWAIT, nil)
		return true
	})
	return err == nil && sent == nil
}

// Capture writes every frame that comes through the wire from now on to a file
// in pcap format. An error while writing ends the capture; EndCapture tells.
func (w *Wire) Capture(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("wire %s: %w", w.name, err)
	}
	if _, err := f.Write(pcapHeader()); err != nil {
		return errors.Join(fmt.Errorf("wire %s: %w", w.name, err), f.Close())
	}
	w.mu.Lock()
	old := w.capture
	w.capture, w.captured = f, nil
	w.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// EndCapture ends the capture, if there is one, and returns what went wrong.
func (w *Wire) EndCapture() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.captured
	if w.capture != nil {
		err = errors.Join(err, w.capture.Close())
	}
	w.capture, w.captured = nil, nil
	return err
}

func (w *Wire) record(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.capture == nil {
		return
	}
	if _, err := w.capture.Write(pcapRecord(time.Now(), frame)); err != nil {
		w.captured = errors.Join(fmt.Errorf("wire %s: capture ended early: %w", w.name, err), w.capture.Close())
		w.capture = nil
	}
}

// pcapHeader is the head of a capture of Ethernet frames with nanoseconds
// (draft-ietf-opsawg-pcap).
func pcapHeader() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, maxFrame)
	return binary.LittleEndian.AppendUint32(b, 1) // LINKTYPE_ETHERNET
}

func pcapRecord(at time.Time, frame []byte) []byte {
	b := make([]byte, 0, 16+len(frame))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	return append(b, frame...)
}

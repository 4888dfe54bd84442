package lab

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// device is what a VM's NIC does with the file of a port.
type device struct{ net.Conn }

func plug(t *testing.T, p *Port) device {
	t.Helper()
	f, err := p.plug()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return device{c}
}

func (d device) send(t *testing.T, frames ...string) {
	t.Helper()
	for _, f := range frames {
		if _, err := d.Write([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
}

func (d device) receive(t *testing.T, n int) (frames []string) {
	t.Helper()
	buf := make([]byte, 100)
	for range n {
		_ = d.SetReadDeadline(time.Now().Add(10 * time.Second))
		k, err := d.Read(buf)
		if err != nil {
			t.Fatalf("after %q: %v", frames, err)
		}
		frames = append(frames, string(buf[:k]))
	}
	return frames
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestWireCarriesBothWays(t *testing.T) {
	w := NewWire("w")
	defer w.Close()
	a, b := plug(t, w.A()), plug(t, w.B())
	a.send(t, "one", "two")
	b.send(t, "three")
	if got := b.receive(t, 2); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("b got %q", got)
	}
	if got := a.receive(t, 1); !slices.Equal(got, []string{"three"}) {
		t.Errorf("a got %q", got)
	}
}

func TestWireLosesWhileCut(t *testing.T) {
	w := NewWire("w")
	defer w.Close()
	a, b := plug(t, w.A()), plug(t, w.B())
	w.Cut()
	a.send(t, "lost")
	waitFor(t, "the frame is lost", func() bool { return w.A().Lost.Load() == 1 })
	w.Mend()
	a.send(t, "kept")
	if got := b.receive(t, 1); got[0] != "kept" {
		t.Errorf("b got %q", got)
	}
}

func TestWireKeepsNothingForWhoeverComes(t *testing.T) {
	w := NewWire("w")
	defer w.Close()
	a := plug(t, w.A())
	a.send(t, "to nobody")
	waitFor(t, "the frame is lost", func() bool { return w.A().Lost.Load() == 1 })
	first := plug(t, w.B())
	a.send(t, "to the first")
	first.receive(t, 1)
	second := plug(t, w.B()) // a power cycle
	a.send(t, "to the second")
	if got := second.receive(t, 1); got[0] != "to the second" {
		t.Errorf("second got %q", got)
	}
}

func TestWireDropsWhatIsTooFast(t *testing.T) {
	w := NewWire("w")
	defer w.Close()
	a := plug(t, w.A())
	plug(t, w.B()) // reads nothing
	waitFor(t, "frames are lost", func() bool {
		a.send(t, "x")
		return w.A().Lost.Load() > 0
	})
}

func TestWireCapture(t *testing.T) {
	w := NewWire("w")
	defer w.Close()
	a, b := plug(t, w.A()), plug(t, w.B())
	file := filepath.Join(t.TempDir(), "w.pcap")
	if err := w.Capture(file); err != nil {
		t.Fatal(err)
	}
	a.send(t, "captured")
	b.receive(t, 1)
	w.Cut()
	a.send(t, "cut")
	waitFor(t, "the frame is lost", func() bool { return w.A().Lost.Load() == 1 })
	w.Mend()
	waitFor(t, "the frame is on file", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && len(b) > len(pcapHeader())
	})
	if err := w.EndCapture(); err != nil {
		t.Fatal(err)
	}
	a.send(t, "after")
	b.receive(t, 1)

	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := bytes.CutPrefix(got, pcapHeader())
	if !ok || len(got) != 16+len("captured") {
		t.Fatalf("capture has %d bytes after its header (header fits: %v)", len(got), ok)
	}
	if n := binary.LittleEndian.Uint32(got[8:]); int(n) != len("captured") || string(got[16:]) != "captured" {
		t.Errorf("capture holds %d bytes %q", n, got[16:])
	}
}

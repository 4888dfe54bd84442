package boot

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestNames(t *testing.T) {
	p := place{address: netip.MustParseAddr("fd00:b007::1"), domain: "Boot.lab"}
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"boot.boot.lab.", dns.TypeAAAA, "NOERROR fd00:b007::1"},
		{"BOOT.boot.LAB.", dns.TypeAAAA, "NOERROR fd00:b007::1"},
		{"boot.boot.lab.", dns.TypeANY, "NOERROR fd00:b007::1"},
		{"boot.boot.lab.", dns.TypeA, "NOERROR"},
		{"boot.lab.", dns.TypeAAAA, "NOERROR"},
		{"m1.boot.lab.", dns.TypeAAAA, "NXDOMAIN"},
		{"example.org.", dns.TypeAAAA, "REFUSED"},
		{"notboot.lab.", dns.TypeAAAA, "REFUSED"},
	} {
		q := new(dns.Msg)
		q.SetQuestion(c.name, c.qtype)
		m := p.zone().answer(q)
		got := dns.RcodeToString[m.Rcode]
		for _, r := range m.Answer {
			got += " " + r.(*dns.AAAA).AAAA.String()
		}
		if got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, dns.TypeToString[c.qtype], got, c.want)
		}
		if _, err := m.Pack(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	q := new(dns.Msg)
	q.SetQuestion("boot.boot.lab.", dns.TypeAAAA)
	if m := (place{address: p.address}).zone().answer(q); m.Rcode != dns.RcodeRefused {
		t.Errorf("without a domain: %s", dns.RcodeToString[m.Rcode])
	}
	if m := p.zone().answer(new(dns.Msg)); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("without a question: %s", dns.RcodeToString[m.Rcode])
	}
}

func FuzzNames(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("boot.boot.lab.", dns.TypeAAAA)
	b, err := q.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	z := place{address: netip.MustParseAddr("fd00:b007::1"), domain: "boot.lab"}.zone()
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		if _, err := z.answer(q).Pack(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzTime(f *testing.F) {
	request := make([]byte, ntpSize)
	request[0] = 4<<3 | modeClient
	f.Add(request)
	f.Add([]byte("\x23"))
	now := time.Date(2026, 11, 20, 10, 0, 0, 500_000_000, time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		a := answerTime(b, now, true)
		if a == nil {
			return
		}
		if a[0]&7 != modeServer || string(a[24:32]) != string(b[40:48]) {
			t.Errorf("answered %x to %x", a, b)
		}
		if len(a) > len(b) {
			t.Errorf("an answer of %d bytes to %d: others could be flooded with it", len(a), len(b))
		}
		// 2026-11-20 10:00:00.5 UTC is 4004157600.5 s after 1900.
		if got := string(a[40:48]); got != "\xee\xaa\x98\xa0\x80\x00\x00\x00" {
			t.Errorf("transmit time %x", got)
		}
	})
}

func TestFair(t *testing.T) {
	inner, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newFair(inner)
	defer l.Close()
	accepted := make(chan net.Conn, 2*connectionsPerPort)
	go func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var first net.Conn
	for range connectionsPerPort {
		dial()
		c := <-accepted
		defer c.Close()
		first = c
	}
	// One too many is closed at once.
	if _, err := dial().Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection above the limit: %v", err)
	}
	first.Close()
	first.Close() // counts once
	dial()
	(<-accepted).Close()
}

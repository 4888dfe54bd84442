package lldp_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lldp"
)

func TestRoundTrip(t *testing.T) {
	for name, f := range map[string]lldp.Frame{
		"switch": {ChassisID: "02:00:00:00:00:01", PortID: "Ethernet0", PortDescription: "to m1", SystemName: "leaf1", SystemDescription: "Ingot leaf", TTL: 120 * time.Second},
		"server": {ChassisID: "4c4c4544", PortID: "52:54:00:00:00:01", TTL: time.Second},
		"leaves": {ChassisID: "a", PortID: "b"},
	} {
		b, err := f.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := lldp.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(f, got); d != "" {
			t.Errorf("%s: (-sent +received)\n%s", name, d)
		}
	}
}

// A frame as a switch sends it, with TLVs that are not ours (management
// address, organisationally specific).
func TestParseForeign(t *testing.T) {
	b := []byte("\x02\x07\x04\x00\x11\x22\x33\x44\x55" + // chassis id, MAC
		"\x04\x0a\x05Ethernet4" + // port id, interface name
		"\x06\x02\x00\x78" + // 120 s
		"\x0a\x03sw1" + // system name
		"\x10\x0c\x05\x01\x0a\x00\x00\x01\x02\x00\x00\x00\x02\x00" + // management address
		"\xfe\x06\x00\x80\xc2\x01\x00\x01" + // organisationally specific
		"\x00\x00")
	got, err := lldp.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := lldp.Frame{ChassisID: "00:11:22:33:44:55", PortID: "Ethernet4", SystemName: "sw1", TTL: 2 * time.Minute}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"empty":         "",
		"truncated":     "\x02\x07\x04\x00",
		"order":         "\x04\x02\x05a\x02\x02\x07b\x06\x02\x00\x01\x00\x00",
		"no ttl":        "\x02\x02\x07a\x04\x02\x05b\x00\x00",
		"short ttl":     "\x02\x02\x07a\x04\x02\x05b\x06\x01\x00\x00\x00",
		"two port ids":  "\x02\x02\x07a\x04\x02\x05b\x06\x02\x00\x01\x04\x02\x05c\x00\x00",
		"empty chassis": "\x02\x01\x07\x04\x02\x05b\x06\x02\x00\x01\x00\x00",
	} {
		if f, err := lldp.Parse([]byte(b)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %+v, %v", name, f, err)
		}
	}
	for name, f := range map[string]lldp.Frame{
		"no chassis": {PortID: "a"},
		"long name":  {ChassisID: "a", PortID: "b", SystemName: strings.Repeat("x", 300)},
		"long ttl":   {ChassisID: "a", PortID: "b", TTL: 2 * lldp.MaxTTL},
	} {
		if b, err := f.Marshal(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
}

func TestControlCharactersAreNotPassedOn(t *testing.T) {
	got, err := lldp.Parse([]byte("\x02\x02\x07a\x04\x02\x05b\x06\x02\x00\x01\x0a\x04a\x1b[m\x00\x00"))
	if err != nil || got.SystemName != "a?[m" {
		t.Errorf("got %q, %v", got.SystemName, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x02\x07\x04\x00\x11\x22\x33\x44\x55\x04\x0a\x05Ethernet4\x06\x02\x00\x78\x0a\x03sw1\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := lldp.Parse(b)
		if err != nil {
			return
		}
		again, err := frame.Marshal()
		if err != nil {
			return // what others send may be longer or emptier than what we send
		}
		back, err := lldp.Parse(again)
		if err != nil || !cmp.Equal(frame, back) {
			t.Errorf("%q: %+v became %+v, %v", b, frame, back, err)
		}
		if bytes.ContainsAny([]byte(frame.SystemName), "\x00\x1b\n") {
			t.Errorf("%q: control characters in %q", b, frame.SystemName)
		}
	})
}

package lab

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"
)

// frame makes the bytes of a frame of hexadecimal, behind two addresses.
func frame(t testing.TB, after string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Repeat("00", 12) + strings.ReplaceAll(after, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrameKinds(t *testing.T) {
	v4 := "45000000 00000000 40 %s 0000 0a000001 0a000002"
	v6 := "60000000 0000 %s 40" + strings.Repeat("00", 32)
	for want, after := range map[string]string{
		"arp":                "0806 0001",
		"lldp":               "88cc 02",
		"ipv4 udp 67":        "0800" + strings.Replace(v4, "%s", "11", 1) + "0044 0043",
		"ipv4 icmp 8":        "0800" + strings.Replace(v4, "%s", "01", 1) + "08",
		"ipv4 runt":          "0800 45",
		"ipv6 tcp 443":       "86dd" + strings.Replace(v6, "%s", "06", 1) + "01bb d431",
		"ipv6 udp 546":       "86dd" + strings.Replace(v6, "%s", "11", 1) + "0222 0223",
		"ipv6 icmp 143":      "86dd" + strings.Replace(v6, "%s", "00", 1) + "3a00 0502 0000 0100 8f",
		"ipv6 fragment":      "86dd" + strings.Replace(v6, "%s", "2c", 1),
		"ipv6 runt":          "86dd" + strings.Replace(v6, "%s", "00", 1) + "3a09",
		"vlan 4000 arp":      "8100 0fa0 0806",
		"ethertype 0x88b5":   "88b5",
		"ipv4 protocol 47":   "0800" + strings.Replace(v4, "%s", "2f", 1),
		"vlan 1 ipv6 udp 53": "8100 0001 86dd" + strings.Replace(v6, "%s", "11", 1) + "c000 0035",
	} {
		if got := (Frame{Data: frame(t, after)}).Kind(); got != want {
			t.Errorf("%s is called %q, want %q", after, got, want)
		}
	}
	if got := (Frame{Data: []byte{1}}).Kind(); got != "runt" {
		t.Errorf("one byte is called %q", got)
	}
}

func TestReadCapture(t *testing.T) {
	at := time.Unix(1_700_000_000, 123_456_789)
	b := pcapHeader()
	for _, data := range []string{"one", "three"} {
		b = append(b, pcapRecord(at, []byte(data))...)
	}
	for cut, want := range map[int][]string{0: {"one", "three"}, 1: {"one"}, 25: nil} {
		frames, err := parseCapture(b[:len(b)-cut])
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range frames {
			got = append(got, string(f.Data))
			if !f.At.Equal(at) {
				t.Errorf("a frame of %v is said to be of %v", at, f.At)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("without the last %d bytes: %q, want %q", cut, got, want)
		}
	}
	if _, err := parseCapture([]byte("not a capture of anything, but long")); err == nil {
		t.Error("something else was read as a capture")
	}
}

func FuzzCapture(f *testing.F) {
	f.Add(append(pcapHeader(), pcapRecord(time.Unix(0, 0), frame(f, "86dd 60000000 0000 11 40"+strings.Repeat("00", 32)+"0222 0223"))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := parseCapture(append(pcapHeader(), b...))
		if err != nil {
			t.Fatal(err)
		}
		for _, fr := range frames {
			if fr.Kind() == "" {
				t.Errorf("%x has no kind", fr.Data)
			}
		}
	})
}

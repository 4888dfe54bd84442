package site_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/site"
)

// noon is the time at which the files of testdata are read.
var noon = time.Date(2026, 1, 6, 12, 0, 0, 0, time.UTC)

func lines(leases []site.Lease) string {
	var b strings.Builder
	for _, l := range leases {
		expires := "never"
		if !l.Expires.IsZero() {
			expires = l.Expires.Format("15:04:05")
		}
		fmt.Fprintf(&b, "%s %s %q %s\n", l.MAC, l.Address, l.Hostname, expires)
	}
	return b.String()
}

func TestLeaseFiles(t *testing.T) {
	for file, want := range map[string]string{
		// 0b was released, 0d has a newer lease, 10 expired, 14 is abandoned.
		"dhcpd.leases": `02:00:00:00:00:0a 10.1.0.10 "idrac-10" 13:00:00
02:00:00:00:00:0c 10.1.0.12 "" never
02:00:00:00:00:0d 10.1.0.20 "" 15:00:00
`,
		"dnsmasq.leases": `02:00:00:00:00:0a 10.1.0.21 "idrac-10" 15:00:00
02:00:00:00:00:0c 10.1.0.12 "" never
`,
		// 0b was deleted, 0d declined, 10 expires now.
		"kea-leases4.csv": `02:00:00:00:00:0a 10.1.0.10 "idrac-10.example" 13:03:20
02:00:00:00:00:0c 10.1.0.12 "forever" never
`,
		// A prefix, a client without a known card, and a reclaimed lease.
		"kea-leases6.csv": `02:00:00:00:00:0a 2001:db8::10 "idrac-10" 14:00:00
`,
	} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := site.ParseLeases(file, text, noon)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(want, lines(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", file, d)
		}
	}
}

func TestStrangeLeaseFiles(t *testing.T) {
	const kea = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state\n"
	for text, want := range map[string]string{
		"":                        "",
		"\n# nothing yet\n":       "",
		kea:                       "",
		"lease 10.0.0.1 { }":      "",
		"lease 10.0.0.1 {\n}\n\n": "",

		"hello world\n":                    `line 1: is of no lease file of ISC dhcpd, dnsmasq or Kea`,
		"<html>;":                          `line 1: is of no lease file`,
		"# x\n\nlease somewhere {\n}":      `line 3: "somewhere" is not an address`,
		"lease 10.0.0.1 {\n ends soon;\n}": `line 2: "soon" is not a time`,
		"lease 10.0.0.1 {\n ends 2 2026/13/01 00:00:00;\n}":  `line 2: "2 2026/13/01 00:00:00" is not a time`,
		"lease 10.0.0.1 {\n\n hardware ethernet 02:00;\n}":   `line 3: "02:00" is not an Ethernet address`,
		"lease 10.0.0.1 {\n ends never;\n":                   `line 1: the lease of 10.0.0.1 does not end`,
		"lease 10.0.0.1 {\n ends nev":                        `line 2: the statement "ends" does not end`,
		"lease 10.0.0.1 {\n client-hostname \"x;\n}":         `line 2: a string does not end`,
		"host x {\n y {\n }":                                 `line 1: the brace is not closed`,
		"lease 10.0.0.1 { }\n}":                              `line 2: a brace is closed that was not opened`,
		"1767708000 02:00:00:00:00:0a 10.1.0.10\n":           `line 1: has 3 words, a lease of dnsmasq has 5`,
		"0 02:00:00:00:00:0a 10.1.0.10 * *\nx 0 0 0 0":       `line 2: "x" is not a time`,
		"0 02:00:00:00:00:0a 10.1.0.1000 * *":                `line 1: "10.1.0.1000" is not an address`,
		"address,hwaddr\n":                                   `line 1: there is no column valid_lifetime`,
		kea + "10.0.0.1,02:00:00:00:00:0a\n":                 `line 2: has 2 columns, the header 10`,
		kea + "10.0.0,02:00:00:00:00:0a,,1,1,1,0,0,,0\n":     `line 2: "10.0.0" is not an address`,
		kea + "10.0.0.1,02:00:00:00:00:0a,,-1,1,1,0,0,,0\n":  `line 2: "-1" is not a lifetime`,
		kea + "10.0.0.1,02:00:00:00:00:0a,,1,now,1,0,0,,0\n": `line 2: "now" is not a time`,
	} {
		got, err := site.ParseLeases("f", []byte(text), noon)
		switch {
		case want == "" && (err != nil || len(got) > 0):
			t.Errorf("%q: %v, %v", text, got, err)
		case want != "" && (!errors.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "lease file f: "+want)):
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Whatever a file holds, what is read from it is in force, canonical, and at
// most one lease of each family for a card.
func FuzzLeases(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) < 4 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		leases, err := site.ParseLeases("f", text, noon)
		if err != nil && (!errors.Is(err, fault.Invalid) || leases != nil) {
			t.Error(leases, err)
		}
		var seen []string
		for _, l := range leases {
			if len(l.MAC) != 17 || l.MAC != strings.ToLower(l.MAC) || !l.Address.IsValid() || !l.Expires.IsZero() && !l.Expires.After(noon) {
				t.Errorf("%+v", l)
			}
			seen = append(seen, fmt.Sprint(l.MAC, l.Address.Is4()))
		}
		if len(slices.Compact(slices.Sorted(slices.Values(seen)))) != len(seen) {
			t.Errorf("a card twice: %v", leases)
		}
	})
}

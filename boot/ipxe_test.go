package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/filesystem/fat16"

	"github.com/ingot-cloud/ingot/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a script with the file that holds it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs; got\n%s", file, got)
	}
}

// A medium boots from a drive and from a stick: the boot catalogue and the
// partition table lead to the same file system.
func TestIPXEMedium(t *testing.T) {
	m := IPXE{Partition: "lab", Program: append([]byte("MZ"), noise(100_000)...), Boot: URL("lab.internal", "")}
	iso, err := m.ISO()
	if err != nil {
		t.Fatal(err)
	}
	entry := iso[446:462]
	first, sectors := binary.LittleEndian.Uint32(entry[8:]), binary.LittleEndian.Uint32(entry[12:])
	if entry[4] != 0xef || int(first)*512 != bootImageAt(t, iso) || iso[510] != 0x55 || iso[511] != 0xaa {
		t.Fatalf("the partition table does not lead to the EFI system partition: % x", entry)
	}
	esp := iso[first*512:][:sectors*512]
	fat, err := fat16.Read(&memory{data: esp}, int64(len(esp)), 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"EFI/BOOT/BOOTX64.EFI": m.Program, "autoexec.ipxe": []byte(m.autoexec())} {
		r, err := fat.Open(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := make([]byte, 1<<20) // all at once: a second read of the library's goes beyond the end
		n, err := r.Read(got)
		if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want) {
			t.Errorf("%s is not what was put in (%d bytes, error %v)", name, n, err)
		}
	}
	golden(t, "autoexec.ipxe", m.autoexec())
	for _, word := range []string{"shell", "dhcp", "autoboot", "ipv4"} {
		if strings.Contains(m.autoexec(), word) {
			t.Errorf("the medium's script has %q", word)
		}
	}
	for name, bad := range map[string]IPXE{
		"no program":        {Boot: m.Boot},
		"not an EFI one":    {Boot: m.Boot, Program: []byte("#!/bin/sh")},
		"metal-boot unsafe": {Boot: &url.URL{Scheme: "http", Host: "boot"}, Program: m.Program},
	} {
		if _, err := bad.ISO(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestISORefusesFiles(t *testing.T) {
	for _, f := range []File{{}, {Name: "a"}, {Name: "A.TXT", Data: []byte("x")}, {Name: "fourteen.chars", Data: []byte("x")}, {Name: "a.b.c", Data: []byte("x")}, {Name: ".a", Data: []byte("x")}} {
		if _, err := ISO("INGOT", []byte("x"), f); err == nil {
			t.Errorf("file %q: accepted", f.Name)
		}
	}
}

func TestScript(t *testing.T) {
	s := Script{
		Machine: "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", Files: "kernel 0a and initrd 0b",
		Kernels: []string{"https://[fd00:10::1]/sha256-0a", "https://[fd00:11::1]/sha256-0a"}, Initrds: []string{"https://[fd00:10::1]/sha256-0b"},
		CommandLine: "console=ttyS0,115200 quiet ", Boot: URL("", "fd00:b007::1"),
	}
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "boot.ipxe", text)
	for name, change := range map[string]func(*Script){
		"two lines":        func(s *Script) { s.CommandLine = "a\nshell" },
		"expansion":        func(s *Script) { s.CommandLine = "a=${netX/mac}" },
		"alternative":      func(s *Script) { s.CommandLine = "a || shell" },
		"comment":          func(s *Script) { s.CommandLine = "a #b" },
		"kernel over http": func(s *Script) { s.Kernels = []string{"http://[fd00::1]/k"} },
		"words in a url":   func(s *Script) { s.Initrds = []string{"https://[fd00::1]/k || shell"} },
		"no url":           func(s *Script) { s.Initrds = []string{"%zz"} },
	} {
		bad := s
		change(&bad)
		if text, err := bad.Text(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	s.Kernels = nil
	if _, err := s.Text(); !errors.Is(err, fault.Unavailable) {
		t.Errorf("no kernel: %v", err)
	}
}

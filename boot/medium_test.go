package boot

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"github.com/ingot-cloud/ingot/fault"
)

// stub returns a minimal PE32+ program with one section and room for more.
func stub(room int) []byte {
	const peAt, optSize = 0x80, 240
	table := peAt + coffSize + optSize
	headers := int(alignUp(uint32(table+(1+room)*sectionHeaderSize), 16))
	b := make([]byte, int(alignUp(uint32(headers), 512))+512)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[peOffsetAt:], peAt)
	copy(b[peAt:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[peAt+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	binary.LittleEndian.PutUint16(b[peAt+6:], 1)
	binary.LittleEndian.PutUint16(b[peAt+20:], optSize)
	opt := b[peAt+coffSize:]
	binary.LittleEndian.PutUint16(opt, 0x20b)
	binary.LittleEndian.PutUint32(opt[32:], 4096)
	binary.LittleEndian.PutUint32(opt[36:], 512)
	binary.LittleEndian.PutUint32(opt[60:], uint32(headers))
	binary.LittleEndian.PutUint32(opt[108:], 16)
	s := b[table:]
	copy(s, ".text")
	binary.LittleEndian.PutUint32(s[8:], 300)
	binary.LittleEndian.PutUint32(s[12:], 4096)
	binary.LittleEndian.PutUint32(s[16:], 512)
	binary.LittleEndian.PutUint32(s[20:], uint32(len(b)-512))
	return b
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestUKI(t *testing.T) {
	u := UKI{Stub: stub(4), Kernel: noise(5000), Initrd: noise(70001), Cmdline: "console=ttyS0 a=b", OSRelease: "ID=ingot\n"}
	image, err := u.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	var end uint32
	for _, s := range f.Sections {
		if s.VirtualAddress < end {
			t.Errorf("section %s at %#x overlaps the one before, which ends at %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < end || size%4096 != 0 {
		t.Errorf("size of image is %#x, the last section ends at %#x", size, end)
	}
	for name, want := range map[string][]byte{
		".linux": u.Kernel, ".initrd": u.Initrd, ".cmdline": []byte(u.Cmdline + "\x00"), ".osrel": []byte(u.OSRelease),
	} {
		s := f.Section(name)
		if s == nil {
			t.Errorf("section %s is missing", name)
			continue
		}
		got, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if int(s.VirtualSize) != len(want) || !bytes.Equal(got[:len(want)], want) {
			t.Errorf("section %s does not hold what was put in", name)
		}
	}
	again, err := u.Bytes()
	if err != nil || !bytes.Equal(image, again) {
		t.Errorf("the same parts give another image (error %v)", err)
	}
}

func TestUKIRefuses(t *testing.T) {
	signed := stub(4)
	binary.LittleEndian.PutUint32(signed[0x80+coffSize+112+8*pe.IMAGE_DIRECTORY_ENTRY_SECURITY+4:], 100)
	for name, u := range map[string]UKI{
		"no program":                {Stub: []byte("#!/bin/sh")},
		"no room for four sections": {Stub: stub(0)},
		"signed":                    {Stub: signed},
		"zero in the command line":  {Stub: stub(4), Cmdline: "a\x00b"},
	} {
		if _, err := u.Bytes(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzAddSections(f *testing.F) {
	f.Add(stub(4))
	f.Add(stub(0))
	f.Fuzz(func(t *testing.T, program []byte) {
		out, err := addSections(program, []section{{".osrel", []byte("x")}})
		if err == nil && len(out) <= len(program) {
			t.Error("a section was added and the program did not grow")
		}
	})
}

func TestISO(t *testing.T) {
	for _, size := range []int{1, 100_000, 9 << 20, 36 << 20} {
		efi := noise(size)
		image, err := ISO("INGOT", efi)
		if err != nil {
			t.Fatal(err)
		}
		cd, err := iso9660.Read(&memory{data: image}, int64(len(image)), 0, isoSector)
		if err != nil {
			t.Fatalf("%d bytes: not ISO 9660: %v", size, err)
		}
		esp, err := cd.ReadFile("EFI.IMG")
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if at := bootImageAt(t, image); !bytes.Equal(image[at:at+len(esp)], esp) {
			t.Errorf("%d bytes: the boot catalogue points elsewhere than the folder", size)
		}
		fat, err := fat16.Read(&memory{data: esp}, int64(len(esp)), 0, 512)
		if err != nil {
			t.Fatalf("%d bytes: no FAT16: %v", size, err)
		}
		r, err := fat.Open("EFI/BOOT/BOOTX64.EFI")
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, efi) {
			t.Errorf("%d bytes: the program on the medium is not the one put in (%d bytes, error %v)", size, len(got), err)
		}
		again, err := ISO("INGOT", efi)
		if err != nil || !bytes.Equal(image, again) {
			t.Errorf("%d bytes: the same program gives another medium (error %v)", size, err)
		}
	}
}

// bootImageAt follows the El Torito boot record as firmware does and returns
// where its boot image is.
func bootImageAt(t *testing.T, image []byte) int {
	t.Helper()
	record := image[17*isoSector:]
	if !bytes.HasPrefix(record, []byte("\x00CD001\x01EL TORITO SPECIFICATION\x00")) {
		t.Fatal("sector 17 is no boot record")
	}
	catalogue := image[binary.LittleEndian.Uint32(record[71:])*isoSector:][:64]
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(catalogue[i:])
	}
	if sum != 0 || catalogue[1] != 0xef || catalogue[32] != 0x88 {
		t.Fatalf("boot catalogue: sum %d, platform %#x, boot indicator %#x", sum, catalogue[1], catalogue[32])
	}
	return int(binary.LittleEndian.Uint32(catalogue[40:])) * isoSector
}

func TestISORefusesLabels(t *testing.T) {
	for _, label := range []string{"", "ingot", "TWELVECHARSX", "A B"} {
		if _, err := ISO(label, []byte("x")); err == nil {
			t.Errorf("label %q: accepted", label)
		}
	}
}

// memory is a disk in memory, for the libraries that read a medium back.
type memory struct {
	data []byte
	at   int64
}

var _ backend.Storage = (*memory)(nil)

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

func (m *memory) Read(p []byte) (int, error) {
	n, err := m.ReadAt(p, m.at)
	m.at += int64(n)
	return n, err
}

func (m *memory) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += m.at
	case io.SeekEnd:
		offset += int64(len(m.data))
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	m.at = offset
	return offset, nil
}

func (m *memory) Close() error                            { return nil }
func (m *memory) Stat() (fs.FileInfo, error)              { return nil, errors.ErrUnsupported }
func (m *memory) Sys() (*os.File, error)                  { return nil, errors.ErrUnsupported }
func (m *memory) Writable() (backend.WritableFile, error) { return nil, errors.ErrUnsupported }
func (m *memory) Path() string                            { return "" }

func TestMedium(t *testing.T) {
	u, _ := url.Parse("https://boot.example")
	m := Medium{
		Partition: "p1", Stub: stub(4), Kernel: noise(5000), Initrd: noise(70001), CommandLine: "console=ttyS0 ", Boot: u,
		CA: testCA(t),
	}
	iso, err := m.ISO()
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string][]byte{
		"kernel": m.Kernel, "initrd": m.Initrd, "authority": m.CA,
		"command line": []byte("console=ttyS0 ingot.boot=https://boot.example\x00"),
	} {
		if !bytes.Contains(iso, want) {
			t.Errorf("the %s is not on the medium", what)
		}
	}
	again, err := m.ISO()
	if err != nil || !bytes.Equal(iso, again) {
		t.Errorf("the same medium gives other bytes (%v)", err)
	}
	for name, change := range map[string]func(*Medium){
		"plain http": func(m *Medium) { m.Boot, _ = url.Parse("http://boot.example") },
		"no ca":      func(m *Medium) { m.CA = []byte("x") },
		"two lines":  func(m *Medium) { m.CommandLine = "a\nb" },
	} {
		bad := m
		change(&bad)
		if _, err := bad.ISO(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testCA(t *testing.T) []byte {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// Package boot is metal-boot: what an unprovisioned server talks to, and the
// medium it starts from.
package boot

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// A UKI holds the parts of a unified kernel image (UAPI group, "Unified Kernel
// Image"): one EFI program that the firmware starts and that brings its own
// kernel, initrd and command line.
type UKI struct {
	// Stub is systemd's EFI stub, linuxx64.efi.stub: a PE32+ program without
	// a signature.
	Stub []byte
	// Kernel is a bzImage.
	Kernel []byte
	// Initrd is one initramfs archive or several, concatenated.
	Initrd []byte
	// Cmdline is the kernel's command line.
	Cmdline string
	// OSRelease describes what is booted, in the format of os-release(5).
	OSRelease string
}

// Bytes returns the image. The same parts give the same bytes.
func (u UKI) Bytes() ([]byte, error) {
	if strings.ContainsRune(u.Cmdline, 0) {
		return nil, errors.New("uki: the command line contains a zero byte")
	}
	// The kernel comes last: what it clears behind itself must not be ours.
	return addSections(u.Stub, []section{
		{".osrel", []byte(u.OSRelease)},
		{".cmdline", append([]byte(u.Cmdline), 0)},
		{".initrd", u.Initrd},
		{".linux", u.Kernel},
	})
}

// A section is a named part of a PE program; a name has at most 8 bytes.
type section struct {
	name string
	data []byte
}

// Offsets and sizes in the headers of a PE program (Microsoft, "PE Format").
const (
	peOffsetAt = 0x3c // where the DOS header says where the PE header is

	coffSize          = 4 + 20 // with its magic
	coffSectionsAt    = 4 + 2
	sectionHeaderSize = 40

	// Below, from the start of the optional header of a PE32+ program.
	optInitializedDataAt = 8
	optSizeOfImageAt     = 56
	optChecksumAt        = 64

	readOnlyData = pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ
)

// addSections returns a copy of a PE32+ program with further sections behind
// those it has, in memory as in the file.
func addSections(program []byte, add []section) ([]byte, error) {
	if !bytes.HasPrefix(program, []byte("MZ")) {
		return nil, errors.New("uki: stub: is not a PE program")
	}
	f, err := pe.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("uki: stub: %w", err)
	}
	defer f.Close()
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("uki: stub: is not a 64-bit program")
	}
	if opt.SectionAlignment == 0 || opt.FileAlignment == 0 {
		return nil, errors.New("uki: stub: has no alignment")
	}
	if d := pe.IMAGE_DIRECTORY_ENTRY_SECURITY; opt.NumberOfRvaAndSizes > uint32(d) && opt.DataDirectory[d].Size != 0 {
		return nil, errors.New("uki: stub: is signed, which adding sections would break; use the unsigned one")
	}
	peAt := int(binary.LittleEndian.Uint32(program[peOffsetAt:]))
	optAt := peAt + coffSize
	table := optAt + int(f.SizeOfOptionalHeader) + len(f.Sections)*sectionHeaderSize
	if end := table + len(add)*sectionHeaderSize; end > int(opt.SizeOfHeaders) || end > len(program) {
		return nil, fmt.Errorf("uki: stub: has room for %d more sections, not %d", (int(opt.SizeOfHeaders)-table)/sectionHeaderSize, len(add))
	}
	var memoryEnd uint32
	for _, s := range f.Sections {
		memoryEnd = max(memoryEnd, s.VirtualAddress+max(s.VirtualSize, s.Size))
	}

	out := bytes.Clone(program)
	initialized := opt.SizeOfInitializedData
	for i, s := range add {
		if len(s.name) > 8 || len(s.data) > 1<<30 {
			return nil, fmt.Errorf("uki: section %s: name or content is too long", s.name)
		}
		memoryEnd = alignUp(memoryEnd, opt.SectionAlignment)
		out = append(out, make([]byte, int(alignUp(uint32(len(out)), opt.FileAlignment))-len(out))...)
		fileAt := uint32(len(out))
		out = append(out, s.data...)
		out = append(out, make([]byte, int(alignUp(uint32(len(out)), opt.FileAlignment))-len(out))...)

		h := out[table+i*sectionHeaderSize:][:sectionHeaderSize]
		clear(h)
		copy(h, s.name)
		binary.LittleEndian.PutUint32(h[8:], uint32(len(s.data)))
		binary.LittleEndian.PutUint32(h[12:], memoryEnd)
		binary.LittleEndian.PutUint32(h[16:], uint32(len(out))-fileAt)
		binary.LittleEndian.PutUint32(h[20:], fileAt)
		binary.LittleEndian.PutUint32(h[36:], readOnlyData)
		memoryEnd += uint32(len(s.data))
		initialized += uint32(len(out)) - fileAt
	}
	binary.LittleEndian.PutUint16(out[peAt+coffSectionsAt:], uint16(len(f.Sections)+len(add)))
	binary.LittleEndian.PutUint32(out[optAt+optInitializedDataAt:], initialized)
	binary.LittleEndian.PutUint32(out[optAt+optSizeOfImageAt:], alignUp(memoryEnd, opt.SectionAlignment))
	binary.LittleEndian.PutUint32(out[optAt+optChecksumAt:], 0) // EFI does not look at it
	return out, nil
}

func alignUp(n, to uint32) uint32 { return (n + to - 1) / to * to }

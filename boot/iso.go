package boot

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A File lies in the root folder of a boot medium's file system.
type File struct {
	// Name is in lower case: up to 13 letters, digits and one dot.
	Name string
	Data []byte
}

// ISO returns a CD image from which UEFI firmware starts the EFI program efi:
// ISO 9660 with an El Torito entry for EFI, whose image is a FAT file system
// with the program as \EFI\BOOT\BOOTX64.EFI and further files in its root
// folder. The same image on a disk or a USB stick boots, too: a partition
// table in front names the file system as the EFI system partition (UEFI 2.10,
// 5.2.1). label names the volume: up to 11 of A-Z, 0-9 and _. The same program
// and files give the same bytes, wherever it is built: the image's checksum
// identifies it.
func ISO(label string, efi []byte, files ...File) ([]byte, error) {
	if label == "" || len(label) > 11 || strings.Trim(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return nil, fmt.Errorf("iso: label %q: is not 1 to 11 of A-Z, 0-9 and _", label)
	}
	for _, f := range files {
		if f.Name == "" || len(f.Name) > longNameChars || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789.") != "" || strings.Count(f.Name, ".") > 1 || f.Name[0] == '.' || len(f.Data) == 0 {
			return nil, fmt.Errorf("iso: file %q: has no content, or not 1 to %d of a-z, 0-9 and a dot as its name", f.Name, longNameChars)
		}
	}
	esp, err := espImage(label, efi, files)
	if err != nil {
		return nil, fmt.Errorf("iso: %w", err)
	}
	return elTorito(label, esp), nil
}

// Geometry of the FAT file system: clusters of a CD's sector, aligned to one.
const (
	fatSector    = 512
	fatCluster   = isoSector
	fatRootSlots = 512
	fatLeast     = 4085  // fewer clusters would make it FAT12 (Microsoft, "FAT: General Overview")
	fatMost      = 65524 // more would make it FAT32
	fatStart     = 2     // the first cluster's number

	fatDir    = 0x10
	fatLabel  = 0x08
	fatEnd    = 0xffff
	fatOneDay = 0x0021 // 1980-01-01, the first day that FAT can say
)

// espImage returns a FAT16 file system that holds one EFI program where the
// firmware looks for it on removable media (UEFI 2.10, 3.5.1.1), and files in
// its root folder.
func espImage(label string, efi []byte, files []File) ([]byte, error) {
	const efiDir, bootDir, program = fatStart, fatStart + 1, fatStart + 2
	inClusters := func(b []byte) int { return (len(b) + fatCluster - 1) / fatCluster }
	used := 2 + inClusters(efi)
	for _, f := range files {
		used += inClusters(f.Data)
	}
	clusters := max(used, fatLeast+11)
	if clusters > fatMost {
		return nil, fmt.Errorf("a program of %d bytes is too large; %d is the most", len(efi), (fatMost-2)*fatCluster)
	}
	tableSectors := ((clusters+fatStart)*2 + fatSector - 1) / fatSector
	rootSectors := fatRootSlots * 32 / fatSector
	const perCluster = fatCluster / fatSector
	reserved := 1
	for (reserved+2*tableSectors+rootSectors)%perCluster != 0 {
		reserved++
	}
	dataAt := (reserved + 2*tableSectors + rootSectors) * fatSector
	out := make([]byte, dataAt+clusters*fatCluster)

	b := out
	copy(b, "\xeb\x3c\x90INGOT   ")
	binary.LittleEndian.PutUint16(b[11:], fatSector)
	b[13] = perCluster
	binary.LittleEndian.PutUint16(b[14:], uint16(reserved))
	b[16] = 2 // copies of the table
	binary.LittleEndian.PutUint16(b[17:], fatRootSlots)
	if total := len(out) / fatSector; total <= 0xffff {
		binary.LittleEndian.PutUint16(b[19:], uint16(total))
	} else {
		binary.LittleEndian.PutUint32(b[32:], uint32(total))
	}
	b[21] = 0xf8 // a fixed disk
	binary.LittleEndian.PutUint16(b[22:], uint16(tableSectors))
	binary.LittleEndian.PutUint16(b[24:], 32)
	binary.LittleEndian.PutUint16(b[26:], 64)
	b[36], b[38] = 0x80, 0x29
	fill(b[43:54], label)
	copy(b[54:], "FAT16   ")
	b[510], b[511] = 0x55, 0xaa

	table := out[reserved*fatSector:][:tableSectors*fatSector]
	chain := func(first, count int) {
		for i := range count - 1 {
			binary.LittleEndian.PutUint16(table[(first+i)*2:], uint16(first+i+1))
		}
		binary.LittleEndian.PutUint16(table[(first+count-1)*2:], fatEnd)
	}
	binary.LittleEndian.PutUint16(table, 0xfff8)
	binary.LittleEndian.PutUint16(table[2:], fatEnd)
	cluster := func(n int) []byte { return out[dataAt+(n-fatStart)*fatCluster:] }
	chain(efiDir, 1)
	chain(bootDir, 1)
	root := [][]byte{fatEntry(label, fatLabel, 0, 0), fatEntry("EFI", fatDir, efiDir, 0)}
	next := program
	if len(efi) > 0 {
		chain(program, inClusters(efi))
		next += inClusters(efi)
	}
	for i, f := range files {
		chain(next, inClusters(f.Data))
		copy(cluster(next), f.Data)
		short := shortName(f.Name, i+1)
		root = append(root, longName(f.Name, short), fatEntry(short, 0, next, len(f.Data)))
		next += inClusters(f.Data)
	}
	copy(out[(reserved+tableSectors)*fatSector:], table)

	slots(out[(reserved+2*tableSectors)*fatSector:], root...)
	slots(cluster(efiDir),
		fatEntry(".", fatDir, efiDir, 0), fatEntry("..", fatDir, 0, 0), fatEntry("BOOT", fatDir, bootDir, 0))
	slots(cluster(bootDir),
		fatEntry(".", fatDir, bootDir, 0), fatEntry("..", fatDir, efiDir, 0), fatEntry("BOOTX64 EFI", 0, program, len(efi)))
	copy(cluster(program), efi)
	return out, nil
}

// fatEntry describes a file or folder; name is padded as FAT has it.
func fatEntry(name string, kind byte, cluster, size int) []byte {
	e := make([]byte, 32)
	fill(e[:11], name)
	e[11] = kind
	for _, at := range []int{16, 18, 24} { // created, read, written
		binary.LittleEndian.PutUint16(e[at:], fatOneDay)
	}
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(e[28:], uint32(size))
	return e
}

// longNameChars is how much of a name one entry for long names holds.
const longNameChars = 13

// shortName is a unique name for old readers: the n-th file's, padded as FAT
// has it.
func shortName(name string, n int) string {
	base, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	return fmt.Sprintf("%-8s%-3s", fmt.Sprintf("%s~%d", base[:min(len(base), 6)], n), ext[:min(len(ext), 3)])
}

// longName is the entry that gives the file whose short entry follows its real
// name (Microsoft, "FAT: General Overview", long file names).
func longName(name, short string) []byte {
	e := make([]byte, 32)
	e[0], e[11] = 0x40|1, 0x0f // the last, and first, of the entries for this name
	for _, c := range []byte(short) {
		e[13] = e[13]>>1 | e[13]<<7
		e[13] += c
	}
	i := 0
	for _, part := range [][2]int{{1, 5}, {14, 6}, {28, 2}} { // where, how many characters
		for k := range part[1] {
			c := uint16(0xffff)
			switch {
			case i < len(name):
				c = uint16(name[i])
			case i == len(name):
				c = 0
			}
			binary.LittleEndian.PutUint16(e[part[0]+2*k:], c)
			i++
		}
	}
	return e
}

// slots fills a folder.
func slots(folder []byte, entries ...[]byte) {
	for i, e := range entries {
		copy(folder[i*32:], e)
	}
}

// isoSector is the size of a sector of a CD.
const isoSector = 2048

// Sectors of the image: 16 that belong to the system, the descriptors, the
// path table in both byte orders, the root folder, the boot catalogue and then
// the boot image.
const (
	isoPrimary = 16 + iota
	isoBootRecord
	isoTerminator
	isoPathsLE
	isoPathsBE
	isoRoot
	isoCatalogue
	isoImage
)

// elTorito returns a CD image with one file, the boot image (ECMA-119 and
// "El Torito" 1.0; UEFI 2.10, 13.3.2.1).
func elTorito(label string, image []byte) []byte {
	sectors := isoImage + (len(image)+isoSector-1)/isoSector
	out := make([]byte, sectors*isoSector)
	sector := func(n int) []byte { return out[n*isoSector : (n+1)*isoSector] }

	root := directoryRecord("\x00", isoRoot, isoSector, true)
	p := sector(isoPrimary)
	copy(p, "\x01CD001\x01")
	fill(p[8:40], "")
	fill(p[40:72], label)
	bothEndian32(p[80:], uint32(sectors))
	bothEndian16(p[120:], 1)
	bothEndian16(p[124:], 1)
	bothEndian16(p[128:], isoSector)
	bothEndian32(p[132:], 10) // bytes in the path table
	binary.LittleEndian.PutUint32(p[140:], isoPathsLE)
	binary.BigEndian.PutUint32(p[148:], isoPathsBE)
	copy(p[156:], root)
	fill(p[190:813], "")
	for _, at := range []int{813, 830, 847, 864} {
		copy(p[at:], strings.Repeat("0", 16)) // no time given
	}
	p[881] = 1

	b := sector(isoBootRecord)
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], isoCatalogue)
	copy(sector(isoTerminator), "\xffCD001\x01")

	// The path table names the root only: name's length, where, parent, name.
	copy(sector(isoPathsLE), []byte{1, 0, isoRoot, 0, 0, 0, 1, 0, 0, 0})
	copy(sector(isoPathsBE), []byte{1, 0, 0, 0, 0, isoRoot, 0, 1, 0, 0})

	d := sector(isoRoot)
	n := copy(d, root)
	n += copy(d[n:], directoryRecord("\x01", isoRoot, isoSector, true))
	n += copy(d[n:], directoryRecord("BOOT.CAT;1", isoCatalogue, isoSector, false))
	copy(d[n:], directoryRecord("EFI.IMG;1", isoImage, len(image), false))

	copy(sector(isoCatalogue), bootCatalogue(len(image)))
	copy(out[isoImage*isoSector:], image)
	partitionTable(out, isoImage*isoSector/fatSector, len(image)/fatSector)
	return out
}

// partitionTable writes a table with one EFI system partition into the first
// sector, which belongs to the system on a CD (ECMA-119, 6.2.1).
func partitionTable(disk []byte, first, sectors int) {
	const efiSystem = 0xef
	e := disk[446:462]
	copy(e[1:4], "\xfe\xff\xff") // no cylinders, heads and sectors
	e[4] = efiSystem
	copy(e[5:8], "\xfe\xff\xff")
	binary.LittleEndian.PutUint32(e[8:], uint32(first))
	binary.LittleEndian.PutUint32(e[12:], uint32(sectors))
	disk[510], disk[511] = 0x55, 0xaa
}

// bootCatalogue is a validation entry and one boot entry for EFI.
func bootCatalogue(imageSize int) []byte {
	const efiPlatform = 0xef
	c := make([]byte, 64)
	c[0], c[1] = 1, efiPlatform
	c[30], c[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(c[i:])
	}
	binary.LittleEndian.PutUint16(c[28:], -sum) // all words add up to zero
	e := c[32:]
	e[0] = 0x88 // bootable, no emulation
	// The size is in 512-byte sectors; what does not fit its 16 bits is said
	// by 0 or 1, which means: to the end of the medium.
	if blocks := (imageSize + 511) / 512; blocks <= 0xffff {
		binary.LittleEndian.PutUint16(e[6:], uint16(blocks))
	}
	binary.LittleEndian.PutUint32(e[8:], isoImage)
	return c
}

// directoryRecord describes a file or folder in a folder (ECMA-119, 9.1).
func directoryRecord(name string, at, size int, folder bool) []byte {
	length := 33 + len(name)
	length += length % 2
	r := make([]byte, length)
	r[0] = byte(length)
	bothEndian32(r[2:], uint32(at))
	bothEndian32(r[10:], uint32(size))
	copy(r[18:], []byte{80, 1, 1, 0, 0, 0, 0}) // 1980-01-01
	if folder {
		r[25] = 2
	}
	bothEndian16(r[28:], 1)
	r[32] = byte(len(name))
	copy(r[33:], name)
	return r
}

func bothEndian16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

func bothEndian32(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

// fill writes s into b and pads with spaces.
func fill(b []byte, s string) {
	for i := copy(b, s); i < len(b); i++ {
		b[i] = ' '
	}
}

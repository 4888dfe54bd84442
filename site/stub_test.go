package site_test

import (
	"debug/pe"
	"encoding/binary"
)

// stubProgram is the smallest PE32+ program that sections can be added to.
func stubProgram() []byte {
	const peAt, optional, room = 0x80, 240, 4
	table := peAt + 24 + optional
	b := make([]byte, 1024+512)
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	copy(b, "MZ")
	put32(b[0x3c:], peAt)
	copy(b[peAt:], "PE\x00\x00")
	put16(b[peAt+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	put16(b[peAt+6:], 1)
	put16(b[peAt+20:], optional)
	opt := b[peAt+24:]
	put16(opt, 0x20b)
	put32(opt[32:], 4096)
	put32(opt[36:], 512)
	put32(opt[60:], 1024)
	put32(opt[108:], 16)
	s := b[table:]
	copy(s, ".text")
	put32(s[8:], 300)
	put32(s[12:], 4096)
	put32(s[16:], 512)
	put32(s[20:], 1024)
	return b
}

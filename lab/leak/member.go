package leak

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// formats are the magic numbers of compressed data, at least four bytes each.
var formats = map[string][]string{
	"gzip": gzipMagics(),
	"lz4":  {"\x04\x22\x4d\x18"},
	"xz":   {"\xfd7zXZ\x00"},
	"zstd": {"\x28\xb5\x2f\xfd"},
}

// gzipMagics are those of RFC 1952, 2.3: deflate, with any of the five flags.
func gzipMagics() []string {
	var all []string
	for flags := range byte(32) {
		all = append(all, string([]byte{0x1f, 0x8b, 8, flags}))
	}
	return all
}

// A member is compressed data that begins somewhere: one stream or frame. What
// follows it has a magic number of its own.
type member struct {
	format string
	at     int64
}

var errFormat = errors.New("not of that format")

// open returns what a member holds. It fails if it is none after all.
func (m member) open(content io.ReaderAt) (r io.Reader, done func(), err error) {
	raw := io.NewSectionReader(content, m.at, 1<<62-m.at)
	done = func() {}
	switch m.format {
	case "gzip":
		z, err := gzip.NewReader(bufio.NewReader(raw))
		if err == nil {
			z.Multistream(false)
		}
		return z, done, err
	case "lz4":
		return lz4.NewReader(bufio.NewReader(raw)), done, nil
	case "xz":
		z, err := xz.ReaderConfig{SingleStream: true}.NewReader(bufio.NewReader(raw))
		return z, done, err
	case "zstd":
		n, err := zstdFrame(raw)
		if err != nil {
			return nil, nil, err
		}
		z, err := zstd.NewReader(io.NewSectionReader(raw, 0, n), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	panic("leak: no format " + m.format)
}

// zstdFrame returns how long a frame is (RFC 8878, 3.1.1): the decoder would
// go on with what follows.
func zstdFrame(r io.ReaderAt) (int64, error) {
	var b [8]byte
	if _, err := r.ReadAt(b[:5], 0); err != nil {
		return 0, err
	}
	descriptor := b[4]
	single, sum := descriptor>>5&1, int64(descriptor>>2&1)
	at := 5 + int64(1-single) + int64([4]byte{0, 1, 2, 4}[descriptor&3]) + int64([4]byte{single, 2, 4, 8}[descriptor>>6])
	for {
		if _, err := r.ReadAt(b[:3], at); err != nil {
			return 0, err
		}
		header := binary.LittleEndian.Uint32(b[:4]) & 0xffffff
		last, kind, size := header&1, header>>1&3, int64(header>>3)
		switch kind {
		case 1: // one byte, repeated
			size = 1
		case 3:
			return 0, errFormat
		}
		if at += 3 + size; last == 1 {
			return at + 4*sum, nil
		}
	}
}

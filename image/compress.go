package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/ingot-cloud/ingot/fault"
)

// maxWindow is how far back a zstd file may refer, in bytes: what "zstd -20"
// uses, and the largest part of the memory that an installation needs.
const maxWindow = 32 << 20

// A codec is a way of compression by the magic number at a file's beginning.
type codec struct {
	name  string
	magic []byte
	mask  []byte // of the bits that count; nil is all
	open  func(*bufio.Reader) (io.ReadCloser, error)
}

var codecs = []codec{
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, nil, openZstd},
	// A skippable frame (RFC 8878, 3.1.2), which parallel compressors begin with.
	{"zstd", []byte{0x50, 0x2a, 0x4d, 0x18}, []byte{0xf0, 0xff, 0xff, 0xff}, openZstd},
	{"lz4", []byte{0x04, 0x22, 0x4d, 0x18}, nil, openLZ4},
	{"gzip", []byte{0x1f, 0x8b}, nil, openGzip},
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z', 0}, nil, nil},
	{"bzip2", []byte{'B', 'Z', 'h'}, nil, nil},
	{"zip", []byte{'P', 'K', 3, 4}, nil, nil},
	{"qcow2", []byte{'Q', 'F', 'I', 0xfb}, nil, nil},
}

func (c codec) is(head []byte) bool {
	for i, m := range c.magic {
		if len(head) <= i || (head[i]^m)&c.maskOf(i) != 0 {
			return false
		}
	}
	return true
}

func (c codec) maskOf(i int) byte {
	if c.mask == nil {
		return 0xff
	}
	return c.mask[i]
}

// decompress returns what is in r, which is compressed or not. The errors of
// the result that are not r's own wrap errFormat.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, c := range codecs {
		if !c.is(head) {
			continue
		}
		if c.open == nil {
			return nil, fmt.Errorf("%w: it is a %s file; make it a tar archive, compressed with zstd, lz4 or gzip", errFormat, c.name)
		}
		d, err := c.open(b)
		if err != nil {
			return nil, badFormat(c.name, err)
		}
		return &decoder{d, c.name}, nil
	}
	return io.NopCloser(b), nil
}

// errFormat is in the chain of every error that the file's content causes.
var errFormat = errors.New("the file cannot be read")

func badFormat(what string, err error) error {
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, errFormat) {
		return err // from a lower layer, which says it better
	}
	return fmt.Errorf("%w: %s: %w", errFormat, what, err)
}

// A decoder says in its errors that they are about the content.
type decoder struct {
	io.ReadCloser
	name string
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped one is no end
		err = badFormat(d.name, err)
	}
	return n, err
}

// openZstd decodes in goroutines of the decoder, which end with Close. With
// "low memory" it holds a window once instead of twice and moves it with every
// block, which costs as much as the decoding: only for windows that are large.
func openZstd(r *bufio.Reader) (io.ReadCloser, error) {
	var frame zstd.Header
	head, _ := r.Peek(zstd.HeaderMaxSize) // a short file has a short head
	large := frame.Decode(head) == nil && frame.WindowSize > maxWindow/2
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(large), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func openLZ4(r *bufio.Reader) (io.ReadCloser, error) {
	return beside{readAhead(lz4.NewReader(r), 4, 256<<10)}, nil
}

func openGzip(r *bufio.Reader) (io.ReadCloser, error) {
	d, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	return beside{readAhead(d, 4, 256<<10)}, nil
}

// beside is a decoder that runs in a goroutine of its own.
type beside struct{ *ahead }

// Close ends the goroutine, which may need its own reader to end.
func (b beside) Close() error {
	b.close()
	return nil
}

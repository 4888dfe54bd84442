package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

const (
	sampleSize = 8 << 10 // half marker, half what was found
	markSize   = sampleSize / 2
	marked     = 64  // samples that are marked before
	blind      = 192 // further places to look at where all must be zeroes
	sector     = 512 // what is compared: the smallest unit that a disk may have kept
	// edge holds both partition tables and every known signature, at either end.
	edge  = 1 << 20
	chunk = 256 << 20 // of the block layer's commands
)

// marks are evenly spread places of a disk and what they held before it was
// erased: a random marker, and beside it what was there. That they are gone
// proves that something was erased, also where a disk then returns anything but
// zeroes. Without markers, an empty disk would prove nothing.
type marks []sample

type sample struct {
	at     int64
	before []byte
}

// mark writes markers and reads them back from the disk itself.
func mark(t *device) (marks, error) {
	var m marks
	for _, at := range places(t.size, marked) {
		s := sample{at, make([]byte, min(sampleSize, t.size-at))}
		marker := s.before[:min(markSize, len(s.before))]
		if _, err := t.f.ReadAt(s.before, at); err != nil {
			// It may be read again once it was written.
			marker = s.before
		}
		rand.Read(marker)
		if _, err := t.f.WriteAt(marker, at); err != nil {
			return nil, fmt.Errorf("block at byte %d cannot be written: %w", at, err)
		}
		m = append(m, s)
	}
	if err := flush(t.f); err != nil {
		return nil, err
	}
	now := make([]byte, sampleSize)
	for _, s := range m {
		if _, err := t.f.ReadAt(now[:len(s.before)], s.at); err != nil {
			return nil, fmt.Errorf("block at byte %d cannot be read: %w", s.at, err)
		}
		if !bytes.Equal(now[:len(s.before)], s.before) {
			return nil, fmt.Errorf("block at byte %d does not keep what is written", s.at)
		}
	}
	return m, nil
}

// places returns up to n places for samples, evenly spread over a disk with its
// first and its last block among them.
func places(size int64, n int64) []int64 {
	n = min(n, size/sampleSize)
	if n < 2 {
		return []int64{0}
	}
	out := make([]int64, 0, n)
	for i := range n {
		// In two steps: the product would not fit for the largest disks.
		span := size - sampleSize
		out = append(out, (span/(n-1)*i+span%(n-1)*i/(n-1))&^(markSize-1))
	}
	return out
}

// gone reads the samples again and returns how they were checked. Where zeroes
// are promised, all and further places at random must be zeroes. Otherwise no
// sector may hold what it held before, unless that was one byte repeated, as in
// a block that was never written.
func (m marks) gone(t *device, zeroes bool) (*ingotv1.WipeCheck, error) {
	if err := flush(t.f); err != nil {
		return nil, err
	}
	now := make([]byte, sampleSize)
	for _, s := range m {
		b := now[:len(s.before)]
		if _, err := t.f.ReadAt(b, s.at); err != nil {
			return nil, fmt.Errorf("block at byte %d cannot be read afterwards: %w", s.at, err)
		}
		if zeroes && !uniform(b, 0) {
			return nil, fmt.Errorf("block at byte %d is not zero afterwards", s.at)
		}
		for i := 0; i+sector <= len(b); i += sector {
			if was := s.before[i : i+sector]; bytes.Equal(b[i:i+sector], was) && !uniform(was, was[0]) {
				return nil, fmt.Errorf("block at byte %d still holds what was there", s.at+int64(i))
			}
		}
	}
	check := &ingotv1.WipeCheck{Samples: uint32(len(m)), SampleBytes: sampleSize, Zeroes: zeroes}
	if !zeroes {
		return check, nil
	}
	for range min(blind, t.size/sampleSize) {
		n, err := rand.Int(rand.Reader, big.NewInt(t.size/sampleSize))
		if err != nil {
			return nil, err
		}
		if _, err := t.f.ReadAt(now, n.Int64()*sampleSize); err != nil {
			return nil, fmt.Errorf("block at byte %d cannot be read afterwards: %w", n.Int64()*sampleSize, err)
		}
		if !uniform(now, 0) {
			return nil, fmt.Errorf("block at byte %d is not zero afterwards", n.Int64()*sampleSize)
		}
		check.Samples++
	}
	return check, nil
}

// uniform reports whether b is one byte, repeated.
func uniform(b []byte, c byte) bool {
	return len(b) == 0 || b[0] == c && bytes.Equal(b[1:], b[:len(b)-1])
}

// zeroEdges writes zeroes where partition tables and signatures lie, and
// returns how many bytes at each end read back as such.
func zeroEdges(t *device) (uint64, error) {
	n := min(edge, t.size)
	zeroes, b := make([]byte, n), make([]byte, n)
	ends := []int64{0, t.size - n}
	for _, at := range ends {
		if _, err := t.f.WriteAt(zeroes, at); err != nil {
			return 0, fmt.Errorf("partition table at byte %d cannot be overwritten: %w", at, err)
		}
	}
	if err := flush(t.f); err != nil {
		return 0, err
	}
	for _, at := range ends {
		if _, err := t.f.ReadAt(b, at); err != nil {
			return 0, fmt.Errorf("partition table at byte %d cannot be read: %w", at, err)
		}
		if !bytes.Equal(b, zeroes) {
			return 0, fmt.Errorf("partition table at byte %d is not zero after it was overwritten", at)
		}
	}
	return uint64(n), nil
}

// flush lets everything reach the disk and be read from it again, not from the
// page cache.
func flush(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil && !errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// discard tells the disk that no block is in use, then demands zeroes of it
// without writing any, which a disk that cannot promise them refuses
// (fallocate(2): a hole in a block device is NVMe Write Zeroes or SCSI WRITE
// SAME with unmapping). For a disk that refuses, the samples decide.
func discard(ctx context.Context, t *device) error {
	if err := t.inChunks(ctx, func(at, n int64) error { return blockRange(t.f, unix.BLKDISCARD, at, n) }); err != nil {
		return err
	}
	err := t.inChunks(ctx, func(at, n int64) error {
		return unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// overwrite writes zeroes over every block: the disk by itself if it can, else
// we do.
func overwrite(ctx context.Context, t *device) error {
	err := t.inChunks(ctx, func(at, n int64) error { return blockRange(t.f, unix.BLKZEROOUT, at, n) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	zeroes := make([]byte, 4<<20)
	return t.inChunks(ctx, func(at, n int64) error {
		for end := at + n; at < end; at += int64(len(zeroes)) {
			if _, err := t.f.WriteAt(zeroes[:min(int64(len(zeroes)), end-at)], at); err != nil {
				return fmt.Errorf("at byte %d: %w", at, err)
			}
		}
		// What waits in memory is no progress.
		return t.f.Sync()
	})
}

// inChunks does something for all of a disk, bit by bit, and tells how far it
// is.
func (t *device) inChunks(ctx context.Context, do func(at, n int64) error) error {
	said := time.Now()
	for at := int64(0); at < t.size; at += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := do(at, min(chunk, t.size-at)); err != nil {
			return err
		}
		if time.Since(said) > tellEvery {
			said = time.Now()
			t.progress(float64(at) / float64(t.size))
		}
	}
	return nil
}

// blockRange is an ioctl that takes a start and a length in bytes.
func blockRange(f *os.File, request uint, start, length int64) error {
	r := [2]uint64{uint64(start), uint64(length)}
	return ioctl(f, request, unsafe.Pointer(&r))
}

// ioctl does what has no function in x/sys. A positive result is the status
// that a device returned, as an NVMe one does.
func ioctl(f *os.File, request uint, argument unsafe.Pointer) error {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(argument))
	if errno != 0 {
		return errno
	}
	if n != 0 {
		return deviceStatus(n)
	}
	return nil
}

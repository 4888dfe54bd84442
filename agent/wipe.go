package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// wipeDisks erases the disks the control plane named.
func (a *Agent) wipeDisks(ctx context.Context) error {
	for i, name := range a.wipe {
		if slices.Contains(a.wiped, name) {
			continue
		}
		start := time.Now()
		method, err := Wipe(ctx, "/dev/"+name, func(done float64) {
			whole := (float64(i) + done) / float64(len(a.wipe))
			a.progress(ctx, ingotv1.AgentStep_AGENT_STEP_WIPE, int(100*whole), left(start, done), "wiping "+name)
		})
		if err != nil {
			return err
		}
		a.wiped = append(a.wiped, name)
		a.cfg.Log.Info("disk wiped", "disk", name, "method", method, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// left estimates the time left from the time taken and the part done.
func left(start time.Time, done float64) time.Duration {
	if done <= 0 {
		return 0
	}
	return time.Duration(float64(time.Since(start)) * (1 - done) / done).Round(time.Second)
}

// A WipeMethod is how a disk was erased.
type WipeMethod string

const (
	// WipeDiscard told the disk that no block is in use, and samples read
	// back as zeroes.
	WipeDiscard WipeMethod = "discard"
	// WipeZero wrote zeroes over every block.
	WipeZero WipeMethod = "overwrite"
)

const (
	zeroChunk = 256 << 20
	edge      = 1 << 20 // both partition tables and every known signature lie in the first or last MiB
	samples   = 64
)

// Wipe erases a block device and verifies it: nothing that was on it can be
// read through the kernel afterwards. It calls progress with the part that is
// done, at most about once a second.
func Wipe(ctx context.Context, device string, progress func(float64)) (WipeMethod, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, "disk "+path.Base(device), "cannot be opened for wiping", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return "", fault.Wrap(fault.Unavailable, "disk "+path.Base(device), "has no size", err)
	}
	method := WipeDiscard
	err = blockRange(f, unix.BLKDISCARD, 0, size)
	if err == nil {
		err = verify(f, size)
	}
	if err != nil { // cannot discard, or keeps what it discarded
		method = WipeZero
		if err := overwrite(ctx, f, size, progress); err != nil {
			return "", fault.Wrap(fault.Unavailable, "disk "+path.Base(device), "cannot be overwritten", err).Do("replace the disk")
		}
	}
	if err := zeroEdges(f, size); err != nil {
		return "", fault.Wrap(fault.Unavailable, "disk "+path.Base(device), "keeps its partition table", err).Do("replace the disk")
	}
	if err := verify(f, size); err != nil {
		return "", fault.Wrap(fault.Unavailable, "disk "+path.Base(device), "was wiped but still holds data", err).Do("replace the disk")
	}
	// The kernel forgets the partitions that are gone.
	_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
	return method, nil
}

func overwrite(ctx context.Context, f *os.File, size int64, progress func(float64)) error {
	said := time.Now()
	for at := int64(0); at < size; at += zeroChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := blockRange(f, unix.BLKZEROOUT, at, min(zeroChunk, size-at)); err != nil {
			return err
		}
		if time.Since(said) > time.Second {
			said = time.Now()
			progress(float64(at) / float64(size))
		}
	}
	return f.Sync()
}

// zeroEdges writes zeroes where partition tables and signatures live.
func zeroEdges(f *os.File, size int64) error {
	n := min(edge, size)
	zeroes := make([]byte, n)
	for _, at := range []int64{0, size - n} {
		if _, err := f.WriteAt(zeroes, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// verify reads evenly spread samples from the device itself, not from the page
// cache, and finds only zeroes.
func verify(f *os.File, size int64) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	const length = 64 << 10
	buf, zeroes := make([]byte, length), make([]byte, length)
	for i := range int64(samples) {
		at := max(0, size-length) / (samples - 1) * i &^ 511
		n, err := f.ReadAt(buf[:min(length, size-at)], at)
		if err != nil {
			return err
		}
		if !bytes.Equal(buf[:n], zeroes[:n]) {
			return fault.Newf(fault.Unavailable, "block", "at byte %d is not zero", at)
		}
	}
	return nil
}

// blockRange is an ioctl that takes a start and a length in bytes.
func blockRange(f *os.File, request uint, start, length int64) error {
	r := [2]uint64{uint64(start), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

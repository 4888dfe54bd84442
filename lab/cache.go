// Package lab stands in for the iron: servers (QEMU with UEFI firmware), their
// BMCs (a Redfish service over QEMU), the wires between them and the switch
// boxes (Linux guests with FRR). Everything runs as an ordinary user, in
// software when there is no KVM. No part of Ingot is faked here: what runs in
// the guests is the product.
//
// The pieces, each usable alone:
//
//   - Cache builds what guests boot from and keeps it by the hash of its inputs.
//   - VM is one QEMU process with its monitor, serial log and devices.
//   - Net is a set of wires between the ports of VMs, each of which can be
//     captured and cut.
//   - BMC is a Redfish service that powers a VM and inserts its virtual media.
package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Cache keeps artefacts by the hash of their inputs: the same inputs are
// built once, on whatever machine, by whichever process comes first. The zero
// value is not usable; see OpenCache.
type Cache struct {
	dir string
	say func(format string, args ...any)
}

// unused is how long an artefact survives that nobody asks for.
const unused = 14 * 24 * time.Hour

// OpenCache opens the cache in dir, which is made if needed. An empty dir is
// the user's cache folder. Progress is reported to say, which may be nil.
func OpenCache(dir string, say func(format string, args ...any)) (*Cache, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("lab cache: no folder for caches: %w; set XDG_CACHE_HOME", err)
		}
		dir = filepath.Join(base, "ingot-lab")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab cache: %w", err)
	}
	if say == nil {
		say = func(string, ...any) {}
	}
	return &Cache{dir: dir, say: say}, nil
}

// build returns the folder of the artefact that make builds from inputs. A
// folder is complete or does not exist; processes that want the same one wait
// for the first.
func (c *Cache) build(ctx context.Context, name string, inputs []string, make func(dir string) error) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(inputs, "\x00")))
	dir := filepath.Join(c.dir, name+"-"+hex.EncodeToString(sum[:6]))
	if found(dir) {
		return dir, nil
	}
	unlock, err := lock(ctx, filepath.Join(c.dir, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer unlock()
	if found(dir) {
		return dir, nil
	}
	start := time.Now()
	tmp, err := os.MkdirTemp(c.dir, ".new-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := make(tmp); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	c.say("%s built in %.1f s", name, time.Since(start).Seconds())
	c.prune(name, dir)
	return dir, nil
}

// found reports whether dir exists and marks it as used.
func found(dir string) bool {
	now := time.Now()
	return os.Chtimes(dir, now, now) == nil
}

// prune removes the older siblings of an artefact that nobody used lately.
func (c *Cache) prune(name, keep string) {
	siblings, _ := filepath.Glob(filepath.Join(c.dir, name+"-*"))
	for _, s := range siblings {
		if len(filepath.Base(s)) != len(filepath.Base(keep)) || s == keep {
			continue
		}
		if info, err := os.Stat(s); err == nil && time.Since(info.ModTime()) > unused {
			_ = os.RemoveAll(s)
		}
	}
}

// lock takes the lock of a file, waiting until ctx is done. The kernel drops
// it with the process, so nothing has to be cleaned up after a crash.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: held by another process: %w", path, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// hashFile returns the SHA-256 of a file's content, in hex.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// file makes a regular file. A small one is finished by a worker.
func (t *tree) file(dir *directory, base string, hdr *tar.Header, content io.Reader, buf []byte) error {
	fd := -1
	err := t.fresh(dir, base, func() (err error) {
		fd, err = unix.Openat(dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	if hdr.Size > small {
		return t.complete(fd, hdr, t.stream(fd, hdr, content, buf))
	}
	data := t.buffers.Get().(*[]byte)
	if _, err := io.ReadFull(content, (*data)[:hdr.Size]); err != nil {
		return errors.Join(badFormat("tar", err), unix.Close(fd))
	}
	t.flying.Add(1)
	t.jobs <- job{fd, hdr, data}
	return nil
}

// stream fills a large file.
func (t *tree) stream(fd int, hdr *tar.Header, content io.Reader, buf []byte) error {
	w := writer{fd: fd, sparse: sparse(hdr)}
	for {
		n, err := content.Read(buf)
		if err := w.put(buf[:n]); err != nil {
			return err
		}
		t.count(0, int64(n))
		if err == io.EOF {
			return w.end()
		}
		if err != nil {
			return badFormat("tar", err)
		}
	}
}

// work does the jobs.
func (t *tree) work() {
	for j := range t.jobs {
		w := writer{fd: j.fd, sparse: sparse(j.hdr)}
		err := w.put((*j.data)[:j.hdr.Size])
		if err == nil {
			err = w.end()
		}
		t.buffers.Put(j.data)
		if err := t.complete(j.fd, j.hdr, err); err != nil {
			t.fail(fmt.Errorf("%q: %w", j.hdr.Name, err))
		}
		t.count(0, j.hdr.Size)
		t.flying.Done()
	}
}

// complete finishes a file, or only closes it if filling it failed.
func (t *tree) complete(fd int, hdr *tar.Header, failed error) error {
	if failed != nil {
		return errors.Join(failed, unix.Close(fd))
	}
	return t.finish(fd, hdr, times(hdr))
}

// finish sets the attributes of a file or directory and closes it. Without a
// header it sets only the times.
func (t *tree) finish(fd int, hdr *tar.Header, ts []unix.Timespec) (err error) {
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if hdr != nil { // the order matters: an owner clears mode bits and capabilities
		if err := bearable(fd, unix.Fchown(fd, hdr.Uid, hdr.Gid)); err != nil {
			return fmt.Errorf("setting the owner: %w", err)
		}
		if err := bearable(fd, unix.Fchmod(fd, mode(hdr))); err != nil {
			return fmt.Errorf("setting the mode: %w", err)
		}
		for name, value := range xattrs(hdr) {
			if err := bearable(fd, unix.Fsetxattr(fd, name, value, 0)); err != nil {
				return fmt.Errorf("setting %s: %w", name, err)
			}
		}
	}
	if err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("setting the times: %w", err)
	}
	return nil
}

// bearable drops errors of a file system that has no owners, modes and
// attributes: FAT, which UEFI demands for the boot partition.
func bearable(fd int, err error) error {
	if err == nil || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.MSDOS_SUPER_MAGIC {
		return nil
	}
	return err
}

func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// sparse reports whether the archive knows of holes in the file.
func sparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// times returns what a header says, for utimensat(2).
func times(hdr *tar.Header) []unix.Timespec {
	atime := hdr.AccessTime
	if atime.IsZero() {
		atime = hdr.ModTime
	}
	return []unix.Timespec{timespec(atime), timespec(hdr.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{} // out of a 32-bit platform's range
	}
	return ts
}

// A writer writes a file from its beginning, leaving out blocks of zeros if it
// is sparse.
type writer struct {
	fd     int
	sparse bool
	at     int64 // of the next byte
	filled int64 // end of the last byte written
}

func (w *writer) put(p []byte) error {
	for len(p) > 0 {
		n, hole := len(p), false
		if w.sparse {
			n, hole = w.run(p)
		}
		if !hole {
			m, err := unix.Pwrite(w.fd, p[:n], w.at)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			n = max(m, 0)
			w.filled = w.at + int64(n)
		}
		w.at += int64(n)
		p = p[n:]
	}
	return nil
}

// run returns how many bytes at the beginning of p are blocks of zeros, or how
// many are not.
func (w *writer) run(p []byte) (n int, hole bool) {
	for n < len(p) {
		end := min(len(p), n+block-int((w.at+int64(n))%block))
		z := zero(p[n:end])
		if n > 0 && z != hole {
			break
		}
		n, hole = end, z
	}
	return n, hole
}

// end gives a file that ends in a hole its size.
func (w *writer) end() error {
	if w.filled < w.at {
		return unix.Ftruncate(w.fd, w.at)
	}
	return nil
}

func zero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

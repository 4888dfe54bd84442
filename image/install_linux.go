package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

// Install unpacks the image into the directory root, on which the new system's
// file systems are mounted, and sets owners by number, modes, extended
// attributes and times as the archive has them. It needs the rights to do so.
//
// The archive is unpacked while it arrives. When the error is nil, every
// pinned digest was right and everything is written, though not synced: the
// caller unmounts. After an error the tree holds bytes that nobody vouches for
// and must be made anew.
//
// Errors are faults about the image: fault.Unavailable when no mirror answered,
// fault.Precondition when the file is not what was pinned or the tree cannot
// hold it, fault.Invalid when the file is no image.
func Install(ctx context.Context, src Source, root string, opt Options) (Result, error) {
	s, err := open(ctx, src, opt, 0, newDigests(src))
	if err != nil {
		return Result{}, err
	}
	defer s.close()
	if err := s.unpack(root); err != nil {
		return Result{}, s.blame(ctx, err)
	}
	return s.finish()
}

func (s *stream) unpack(root string) error {
	t, err := openTree(root, s.unpackedBy)
	if err != nil {
		return err
	}
	defer t.close()
	d, err := decompress(s)
	if err != nil {
		return err
	}
	err = t.unpack(s.ctx, d)
	if err == nil {
		_, err = io.Copy(io.Discard, d) // what follows the archive's end has a digest, too
	}
	if err != nil && !errors.Is(err, errFormat) && !contradiction(err) {
		s.cancel() // a decoder that waits for bytes ends
	}
	return errors.Join(err, d.Close())
}

// blame says whose fault an error is.
func (s *stream) blame(ctx context.Context, err error) error {
	var f *fault.Error
	switch {
	case context.Cause(ctx) != nil:
		return s.src.interrupted(ctx)
	case errors.As(err, &f):
		return f
	case !errors.Is(err, errFormat) && !contradiction(err):
		return fault.Wrap(fault.Precondition, s.src.object(), "cannot be written", err).Do("check the size and the health of the disk")
	}
	// The file does not make sense. Is it the right one?
	if _, wrong := s.finish(); wrong != nil {
		return fmt.Errorf("%w (%w)", wrong, err)
	}
	return fault.Wrap(fault.Invalid, s.src.object(), "is no image", err)
}

// contradiction reports whether the system refused something because of names
// in the archive, and not because of the disk.
func contradiction(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.EEXIST, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY, unix.ELOOP, unix.ENAMETOOLONG, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

package secret

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ingot-cloud/ingot/fault"
)

// A Location says where a key ring is. The first that applies counts.
type Location struct {
	// File is the path an operator gave. It must exist.
	File string
	// Credentials is systemd's $CREDENTIALS_DIRECTORY; the credential is called
	// "ingot-keys". It is read-only.
	Credentials string
	// Dir is the data directory; the file in it is called "keys".
	Dir string
	// Create makes the file in Dir if it does not exist. Set it for a new data
	// directory only: a new key does not open old secrets.
	Create bool
}

// OpenRing reads the key ring. A file that others than its owner may read is
// refused.
func OpenRing(l Location) (*Ring, error) {
	if l.File != "" {
		return readRing(l.File)
	}
	if l.Credentials != "" {
		r, err := readRing(filepath.Join(l.Credentials, "ingot-keys"))
		if err == nil {
			r.fix = true
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	path := filepath.Join(l.Dir, "keys")
	r, err := readRing(path)
	if !errors.Is(err, fs.ErrNotExist) || !l.Create {
		return r, err
	}
	r = NewRing()
	if err := createFile(path, r.format()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readRing(path) // perhaps another process was faster
}

func readRing(path string) (*Ring, error) {
	object := "key ring " + path
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Precondition, object, "does not exist", fs.ErrNotExist).Do("restore it: the secrets in the database cannot be read without it")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, object, "cannot be read", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fault.Newf(fault.Precondition, object, "can be read by others than its owner (mode %#o)", st.Mode().Perm()).Do("chmod 600 " + path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, object, "cannot be read", err)
	}
	keys, err := parse(text)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, object, "cannot be understood", err)
	}
	return &Ring{keys: keys, path: path}, nil
}

// createFile writes a new file, complete or not at all; fs.ErrExist if there
// is one already.
func createFile(path string, content []byte) error { return writeFile(path, content, os.Link) }

// replaceFile writes a file, complete or not at all.
func replaceFile(path string, content []byte) error { return writeFile(path, content, os.Rename) }

func writeFile(path string, content []byte, place func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // 0600
	if err == nil {
		defer func() {
			if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
				err = errors.Join(err, rm)
			}
		}()
		_, err = f.Write(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = place(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fault.Wrap(fault.Internal, "key ring "+path, "cannot be written", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

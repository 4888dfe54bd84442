package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ingot-cloud/ingot/api"
)

// Files in the data directory that people and programs need.
const (
	caFile    = "ca.crt"
	tokenFile = "admin.token"
)

// keepFiles writes what the server's clients need into the data directory, and
// reports whether the first token was made now.
//
// The token is written before it is valid and gets its name afterwards, so
// that no crash loses it, and none leaves a file with a token that was never
// valid: then the next start makes another.
func keepFiles(ctx context.Context, dir string, srv *api.Server) (bool, error) {
	fresh := filepath.Join(dir, tokenFile+".new")
	made, err := srv.Bootstrap(ctx, func(token string) error { return writeFile(fresh, []byte(token), 0o600) })
	if err != nil {
		return false, err
	}
	if token, err := os.ReadFile(fresh); err == nil {
		if srv.Knows(string(token)) {
			made = true
			err = os.Rename(fresh, filepath.Join(dir, tokenFile))
		} else {
			err = os.Remove(fresh)
		}
		if err != nil {
			return false, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if was, err := os.ReadFile(filepath.Join(dir, caFile)); err == nil && bytes.Equal(was, srv.CA()) {
		return made, nil
	}
	return made, writeFile(filepath.Join(dir, caFile), srv.CA(), 0o644)
}

// writeFile writes a file completely or not at all.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

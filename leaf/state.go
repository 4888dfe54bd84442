package leaf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// configurationFile holds the last configuration that was in effect. It is
// text, for the person who wonders what an unreachable switch thinks.
const configurationFile = "configuration.json"

// loadConfiguration returns the last good configuration, nil if there is none.
func loadConfiguration(dir string) (*ingotv1.LeafConfiguration, error) {
	path := filepath.Join(dir, configurationFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &ingotv1.LeafConfiguration{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, c); err != nil {
		return nil, fault.Wrap(fault.Invalid, path, "cannot be read", err).Do("remove it; the control plane sends another")
	}
	return c, nil
}

func saveConfiguration(dir string, c *ingotv1.LeafConfiguration) error {
	b, err := protojson.MarshalOptions{Multiline: true}.Marshal(c)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, configurationFile), b)
}

// writeFile replaces a file such that a crash leaves the old one or the new
// one. Only root can read it.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

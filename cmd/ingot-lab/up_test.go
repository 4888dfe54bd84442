package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ingot-cloud/ingot/fault"
)

func TestFolder(t *testing.T) {
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "running.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := folder(used); !errors.Is(err, fault.Precondition) {
		t.Errorf("a used folder: %v", err)
	}
	for _, dir := range []string{"", t.TempDir(), filepath.Join(used, "new")} {
		got, err := folder(dir)
		if err != nil || !filepath.IsAbs(got) || dir != "" && got != dir {
			t.Errorf("folder(%q) = %q, %v", dir, got, err)
		}
		if dir == "" {
			defer os.Remove(got)
		}
	}
}

func TestUnknownImage(t *testing.T) {
	cmd := up()
	cmd.SetArgs([]string{"--image", "plan9"})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.Execute(); !errors.Is(err, fault.Invalid) {
		t.Errorf("an image the lab does not have: %v", err)
	}
}

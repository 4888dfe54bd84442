package main

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	godiff "github.com/google/go-cmp/cmp"
)

// budget is how large the program may be, in bytes: it shares a switch's flash
// and memory with the rest of the system.
const budget = 16 << 20

func TestBudget(t *testing.T) {
	out := filepath.Join(t.TempDir(), "ingot-leaf")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(info.Size())/1e6)
	if info.Size() > budget {
		t.Errorf("the program has %d bytes, more than %d", info.Size(), budget)
	}
}

func TestDependencies(t *testing.T) {
	b, err := os.ReadFile("dependencies.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		module, why, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if why == "" {
			t.Errorf("%s: no reason is given", module)
		}
		want = append(want, module)
	}
	list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")
	list.Env = append(os.Environ(), "GOOS=linux")
	b, err = list.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Compact(slices.SortedFunc(slices.Values(strings.Fields(string(b))), cmp.Compare))
	if d := godiff.Diff(want, got); d != "" {
		t.Errorf("dependencies.txt differs (-listed +linked)\n%s", d)
	}
}

package ingot_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small are the programs that run where there is little room, and how large
// each may be, in bytes. Beside each lies dependencies.txt, the list of all
// its modules: a new one is a line that says why.
var small = map[string]int64{
	"ingot-leaf":  16 << 20, // shares a switch's flash and memory with the rest of the system
	"ingot-agent": 13 << 20, // half of the boot medium's 25 MB; the rest is kernel, modules and tools
}

func TestBudget(t *testing.T) {
	for program, budget := range small {
		t.Run(program, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), program)
			build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/"+program)
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
		})
	}
}

func TestModules(t *testing.T) {
	for program := range small {
		t.Run(program, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("cmd", program, "dependencies.txt"))
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
			list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/"+program)
			list.Env = append(os.Environ(), "GOOS=linux")
			if b, err = list.Output(); err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(string(b))
			slices.Sort(got)
			if d := cmp.Diff(want, slices.Compact(got)); d != "" {
				t.Errorf("dependencies.txt differs (-listed +linked)\n%s", d)
			}
		})
	}
}

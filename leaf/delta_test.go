package leaf

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// Each archive has what FRR runs, what it shall run, and the two steps between
// them. The first line of "running" and "wanted" may be "golden NAME": then it
// is the frr.conf of that golden file of Render.
func TestDelta(t *testing.T) {
	files, err := filepath.Glob("testdata/delta/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			d := diffFRR(part(t, a, "running"), part(t, a, "wanted"))
			got := map[string]string{"withdraw": d.Withdraw, "announce": d.Announce}
			if flag.Lookup("update").Value.String() == "true" {
				a.Files = append(a.Files[:2], txtar.File{Name: "withdraw", Data: []byte(d.Withdraw)}, txtar.File{Name: "announce", Data: []byte(d.Announce)})
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := map[string]string{"withdraw": part(t, a, "withdraw"), "announce": part(t, a, "announce")}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-golden +computed)\n%s", d)
			}
			if again := diffFRR(part(t, a, "wanted"), part(t, a, "wanted")); !again.Empty() {
				t.Errorf("a configuration differs from itself:\n%s%s", again.Withdraw, again.Announce)
			}
		})
	}
}

func part(t *testing.T, a *txtar.Archive, name string) string {
	t.Helper()
	for _, f := range a.Files {
		if f.Name != name {
			continue
		}
		other, golden := strings.CutPrefix(string(f.Data), "golden ")
		if !golden {
			return string(f.Data)
		}
		b, err := txtar.ParseFile("testdata/" + strings.TrimSpace(other) + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		return part(t, b, "frr.conf")
	}
	t.Fatalf("no file %s", name)
	return ""
}

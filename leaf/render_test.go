package leaf_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/ingot-cloud/ingot/leaf"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

var update = flag.Bool("update", false, "write what is rendered into the golden files")

// A golden file is an archive: the configuration and what is rendered from it.
// The lab's tests load the same files into real FRR, nftables and kernel.
func TestRender(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := leaf.Render(configuration(t, a), leaf.OldestFRR)
			got := map[string]string{}
			if err != nil {
				got["error"] = err.Error() + "\n"
			} else {
				got["frr.conf"], got["kernel"], got["ruleset.nft"] = f.FRR, f.Kernel.String(), f.Ruleset(all(f), nil).Text
			}
			if *update {
				rewrite(t, name, a, got)
				return
			}
			want := map[string]string{}
			for _, f := range a.Files[1:] {
				want[f.Name] = string(f.Data)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-golden +rendered)\n%s", d)
			}
		})
	}
}

// all names the ports that have an ACL.
func all(f leaf.Files) map[string]bool {
	m := map[string]bool{}
	for _, a := range f.ACLs {
		m[a.Port] = true
	}
	return m
}

func configuration(t *testing.T, a *txtar.Archive) *ingotv1.LeafConfiguration {
	t.Helper()
	if len(a.Files) == 0 || a.Files[0].Name != "configuration.yaml" {
		t.Fatal("the first file is not configuration.yaml")
	}
	j, err := yaml.YAMLToJSON(a.Files[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	c := &ingotv1.LeafConfiguration{}
	if err := protojson.Unmarshal(j, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func rewrite(t *testing.T, name string, a *txtar.Archive, got map[string]string) {
	t.Helper()
	a.Files = a.Files[:1]
	for _, n := range []string{"error", "frr.conf", "kernel", "ruleset.nft"} {
		if data, ok := got[n]; ok {
			a.Files = append(a.Files, txtar.File{Name: n, Data: []byte(data)})
		}
	}
	if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

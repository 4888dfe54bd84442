package ingot_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/ingot-cloud/ingot/"

// A room is a top-level package and what it may import of ours. docs/concepts.md
// has the picture; the reason says why the floor is where it is.
type room struct {
	may    string // rooms it may import, space separated; "*" is all
	reason string
}

// crafts are the packages that know nothing of the product's rules.
const crafts = "proto fault secret ipam bmc image client lldp"

var rooms = map[string]room{
	"proto":  {"", "generated from the wire contract, knows nothing"},
	"fault":  {"", "every floor reports errors, so errors know no floor"},
	"secret": {"proto fault", "sealing knows keys, not what is sealed"},

	"ipam":   {"fault", "arithmetic has no state"},
	"lldp":   {"fault", "frames and sockets, no decisions"},
	"bmc":    {"proto fault secret", "speaks to hardware, decides nothing"},
	"image":  {"proto fault", "reads bytes, decides nothing"},
	"client": {"proto fault", "dials the API like any client"},

	"store":   {"proto fault secret", "knows protobuf and etcd, not machines"},
	"records": {"proto fault store", "names the tables; logic lives in the rules"},

	"access":  {"proto fault secret ipam store records", "rules are pure; network and machine build on access"},
	"network": {"proto fault secret ipam store records access", "rules are pure; machine builds on network"},
	"machine": {"proto fault secret ipam store records access network", "rules are pure"},

	"api":  {"proto fault secret ipam store records access network machine", "hands meet in the store or in cmd/ingotd, never in each other"},
	"loop": {"proto fault secret ipam store records access network machine", "hands meet in the store or in cmd/ingotd, never in each other"},
	"web":  {"proto fault client", "the UI is a client of the API like any other"},

	"boot":  {crafts, "far ends speak the API; they have no store and no rules"},
	"agent": {crafts, "far ends speak the API; they have no store and no rules"},
	"leaf":  {crafts + " boot", "far ends speak the API; they have no store and no rules"},
	"site":  {crafts + " boot", "far ends speak the API; they have no store and no rules"},
	"cli":   {crafts, "edges speak the API like any client"},

	"lab": {"*", "proof: may look at everything, and nothing imports it"},
	"sim": {"*", "proof: may look at everything, and nothing imports it"},
	"cmd": {"*", "wiring"},
}

// onlyWiring are rooms that nothing but tests and cmd may import.
var onlyWiring = map[string]bool{"lab": true, "sim": true, "cmd": true}

type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func roomOf(importPath string) (string, bool) {
	rel, ours := strings.CutPrefix(importPath+"/", module)
	name, _, _ := strings.Cut(rel, "/")
	return name, ours && name != ""
}

func TestFloors(t *testing.T) {
	for p := range packages(t, ".") {
		from, ours := roomOf(p.ImportPath)
		if !ours {
			continue // the root package holds only tests
		}
		r, known := rooms[from]
		if !known {
			t.Errorf("%s: the room has no floor; add it to docs/concepts.md and to this table", p.ImportPath)
			continue
		}
		may := map[string]bool{from: true}
		for _, n := range strings.Fields(r.may) {
			may[n] = true
		}
		for _, i := range p.Imports {
			to, ours := roomOf(i)
			switch {
			case !ours || to == from:
			case onlyWiring[to] && from != "cmd" && !onlyWiring[from]:
				t.Errorf("%s imports %s: only cmd and tests may", p.ImportPath, i)
			case r.may != "*" && !may[to]:
				t.Errorf("%s imports %s: %s", p.ImportPath, i, r.reason)
			}
		}
	}
}

// rules must decide from what they are handed: no context, no network, no
// randomness of their own.
var ruleBans = map[string]string{
	"context":      "rules take no context: they do no I/O and cannot block",
	"net":          "rules do no I/O; net/netip has the arithmetic",
	"net/http":     "rules do no I/O",
	"os":           "rules do no I/O",
	"log/slog":     "hands log, rules return errors",
	"math/rand":    "randomness is handed in",
	"math/rand/v2": "randomness is handed in",
	"crypto/rand":  "randomness is handed in",
}

func TestRulesArePure(t *testing.T) {
	for p := range packages(t, ".") {
		switch r, _ := roomOf(p.ImportPath); r {
		case "access", "network", "machine", "ipam":
			for _, i := range p.Imports {
				if why, banned := ruleBans[i]; banned {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, why)
				}
			}
		}
	}
}

func packages(t *testing.T, dir string) func(func(pkg) bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = filepath.FromSlash(dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", dir, err)
	}
	return func(yield func(pkg) bool) {
		for d := json.NewDecoder(strings.NewReader(string(out))); ; {
			var p pkg
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatalf("go list in %s: %v", dir, err)
			}
			if !yield(p) {
				return
			}
		}
	}
}

// Long files hide things. These limits are for people who read.
const maxLines = 600

func TestSizes(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		generated := strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".connect.go")
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || generated {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(b), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by promise", path, n, maxLines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

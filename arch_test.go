package ingot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "github.com/ingot-cloud/ingot/"

// A room is a top-level package and what it may import of ours. docs/concepts.md
// has the picture; the reason says why the floor is where it is.
type room struct {
	may    string // rooms it may import, space separated; "*" is all
	reason string
}

// crafts are the packages that know nothing of the product's rules.
const crafts = "proto fault secret ipam bmc image client lldp console"

var rooms = map[string]room{
	"proto":  {"", "generated from the wire contract, knows nothing"},
	"fault":  {"", "every floor reports errors, so errors know no floor"},
	"secret": {"proto fault", "sealing knows keys, not what is sealed"},

	"ipam":    {"fault", "arithmetic has no state"},
	"lldp":    {"fault", "frames and sockets, no decisions"},
	"console": {"", "bounded memory and cleaning of bytes, no decisions"},
	"bmc":     {"proto fault secret", "speaks to hardware, decides nothing"},
	"image":   {"proto fault", "reads bytes, decides nothing"},
	"client":  {"proto fault", "dials the API like any client"},

	"store":   {"proto fault secret", "knows protobuf and etcd, not machines"},
	"records": {"proto fault store", "names the tables; logic lives in the rules"},

	"access":  {"proto fault secret ipam store records", "rules are pure; network and machine build on access"},
	"network": {"proto fault secret ipam store records access", "rules are pure; machine builds on network"},
	"machine": {"proto fault secret ipam store records access network", "rules are pure"},

	"api":  {"proto fault secret ipam console store records access network machine", "hands meet in the store or in cmd/ingotd, never in each other"},
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
	ImportPath, Name, Doc string
	GoFiles, Imports      []string
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
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,GoFiles,Imports", "./...")
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

// TestPackageComments wants every package to say in its comment what it is.
func TestPackageComments(t *testing.T) {
	for p := range packages(t, ".") {
		if !slices.ContainsFunc(p.GoFiles, func(f string) bool { return !generated(f) }) {
			continue // tests only, or all of it generated
		}
		start := "Package " + p.Name + " "
		if p.Name == "main" {
			start = "Command " + path.Base(p.ImportPath) + " "
		}
		if !strings.HasPrefix(p.Doc, start) {
			t.Errorf("%s: the package comment shall start with %q, not with %q", p.ImportPath, start, p.Doc)
		}
	}
}

// Long files hide things. These limits are for people who read.
const maxLines = 600

func TestSizes(t *testing.T) {
	for name, text := range texts(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || generated(name) {
			continue
		}
		if n := strings.Count(text, "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by promise", name, n, maxLines)
		}
	}
}

// banned words, each with what belongs in its place. They are patterns, so
// that this file does not hold the words.
var banned = map[*regexp.Regexp]string{
	regexp.MustCompile(`\b(TOD[O]|FIXM[E]|XX[X])\b`):                                        "do it, or open an issue",
	regexp.MustCompile(`(^|[^\w.)}/-])/(work|farm)(/|\b)`):                                  "a path of one machine; take it from a flag or the environment",
	regexp.MustCompile(`\b(deb|security|snapshot|ftp)(\.\w\w)?\.debian[.]org\b`):            "use the mirror the machine is configured for",
	regexp.MustCompile(`\b(proxy|sum)\.golang[.]org\b`):                                     "use GOPROXY as the machine has it",
	regexp.MustCompile(`\b(registry\.(npmjs|yarnpkg)|pypi|index\.crates)[.](org|com|io)\b`): "use the registry the machine is configured for",
}

// TestWords looks for words that have no place in the tree: work left undone,
// and names of the machines that it was or is to be built on.
func TestWords(t *testing.T) {
	for name, text := range texts(t) {
		if path.Base(name) == "go.sum" {
			continue // hashes may spell anything
		}
		for pattern, instead := range banned {
			for _, at := range pattern.FindAllStringIndex(text, -1) {
				line := 1 + strings.Count(text[:at[0]], "\n")
				t.Errorf("%s:%d: %q: %s", name, line, strings.TrimSpace(text[at[0]:at[1]]), instead)
			}
		}
	}
}

// generated says whether a program wrote the Go file of that name.
func generated(name string) bool {
	return strings.HasSuffix(name, ".pb.go") || strings.HasSuffix(name, ".connect.go")
}

// outside matches the folders that are not of the tree: what is built or
// fetched, and what git and editors keep.
var outside = regexp.MustCompile(`^bin$|(^|/)(node_modules|\.(git|lab|idea|vscode|cache))$`)

// texts reads all text files of the tree, by slash-separated path.
func texts(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	tree := os.DirFS(".")
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && outside.MatchString(name):
			return fs.SkipDir
		case !d.Type().IsRegular() || name == ".git": // a file in a worktree
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		if err == nil && utf8.Valid(b) && !bytes.Contains(b, []byte{0}) {
			all[name] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A dependency is a diff and one sentence why.
func TestDependenciesAreExplained(t *testing.T) {
	why, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not (or .Indirect .Main)}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatalf("go list -m all: %v", err)
	}
	used := strings.Fields(string(out))
	for _, m := range used {
		if !strings.Contains(string(why), "| `"+m+"` |") {
			t.Errorf("%s is not explained in docs/dependencies.md", m)
		}
	}
	if n := strings.Count(string(why), "\n| `"); n != len(used) {
		t.Errorf("docs/dependencies.md explains %d modules, go.mod uses %d", n, len(used))
	}
}

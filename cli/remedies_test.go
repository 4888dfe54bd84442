package cli

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A mention is a command line of ingot that a text tells people to type.
type mention struct{ where, line string }

// check returns what is wrong with a command line: the command does not exist,
// is only a group of others, or has no such flag.
func check(root *cobra.Command, line string) error {
	words := strings.Fields(line)[1:]
	for i, w := range words {
		if alternatives := strings.Split(w, "|"); len(alternatives) > 1 && w != "|" {
			var all []error
			for _, a := range alternatives {
				one := append(slices.Clone(words[:i]), a)
				all = append(all, check(root, "ingot "+strings.Join(append(one, words[i+1:]...), " ")))
			}
			return errors.Join(all...)
		}
	}
	for i, w := range words { // what stands for any of them
		switch w {
		case "RESOURCE":
			words[i] = "bmc"
		case "VERB":
			words[i] = "list"
		}
	}
	c, rest, err := root.Find(words)
	switch {
	case err != nil:
		return err
	case c == root && len(words) > 0 && !strings.HasPrefix(words[0], "-"):
		return fmt.Errorf("there is no command %q", words[0])
	case c.HasSubCommands() && c != root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		return fmt.Errorf("%q has no command %q", c.CommandPath(), rest[0])
	case c.HasSubCommands() && c != root:
		return fmt.Errorf("%q is not a whole command", c.CommandPath())
	}
	for i, w := range rest {
		long, isLong := strings.CutPrefix(w, "--")
		short, isShort := strings.CutPrefix(w, "-")
		name, _, _ := strings.Cut(long, "=")
		switch {
		case isLong && name != "help" && c.Flag(name) == nil:
			return fmt.Errorf("%q has no flag --%s", c.CommandPath(), name)
		case !isLong && isShort && short != "" && short != "h" && c.Flags().ShorthandLookup(short[:1]) == nil && c.InheritedFlags().ShorthandLookup(short[:1]) == nil:
			return fmt.Errorf("%q has no flag -%s", c.CommandPath(), short)
		case w == "|" || w == ">" || w == "&&" || w == "#":
			return nil // the rest is the shell's
		case i == 0 && c.Args != nil && !isShort:
			if err := c.Args(c, rest[:1]); err != nil {
				return err
			}
		}
	}
	return nil
}

var quoted = regexp.MustCompile(`'(ingot [^']*)('?)`)

// inSource finds the mentions in the string literals of Go files: they stand
// in single quotes, and whole, so that they can be checked.
func inSource(t *testing.T, path string) (found []mention) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			if m[2] == "" {
				t.Errorf("%s: %q goes on elsewhere: a command in a text stands whole", set.Position(lit.Pos()), m[1])
				continue
			}
			found = append(found, mention{set.Position(lit.Pos()).String(), m[1]})
		}
		return true
	})
	return found
}

var (
	codeSpan  = regexp.MustCompile("`(ingot [^`]*)`")
	codeBlock = regexp.MustCompile(`^ {4,}(?:\$ )?(ingot .*)$`)
)

// inBook finds the mentions in a page of the book: code spans, and lines of
// code.
func inBook(path, text string) (found []mention) {
	n, fenced := 0, false
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		where := path + ":" + strconv.Itoa(n)
		if fenced {
			line = "    " + strings.TrimLeft(line, " ")
		}
		if m := codeBlock.FindStringSubmatch(line); m != nil {
			found = append(found, mention{where, m[1]})
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			found = append(found, mention{where, m[1]})
		}
	}
	return found
}

// wholeTree is fullTree with the command that cobra adds when it runs.
func wholeTree() *cobra.Command {
	root := fullTree()
	root.InitDefaultCompletionCmd()
	return root
}

// TestRemediesExist checks that whatever texts tell people to type can be
// typed: the remedies in the source, the examples in the book.
func TestRemediesExist(t *testing.T) {
	var all []mention
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".md"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all = append(all, inBook(path, string(text))...)
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".pb.go"):
			all = append(all, inSource(t, path)...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	root, sources := wholeTree(), 0
	for _, m := range all {
		if strings.Contains(m.where, ".go:") {
			sources++
		}
		if err := check(root, m.line); err != nil {
			t.Errorf("%s: %q: %v", m.where, m.line, err)
		}
	}
	if sources < 20 || len(all) < sources+10 {
		t.Errorf("only %d mentions were found, %d of them in the source", len(all), sources)
	}
}

// TestRemediesChecked shows that the check finds what is wrong.
func TestRemediesChecked(t *testing.T) {
	root := wholeTree()
	for line, want := range map[string]string{
		"ingot machine confirm-off":                          "",
		"ingot machine confirm-off UUID --reason 'I saw it'": "",
		"ingot machine boot-medium":                          "",
		"ingot login --api-url URL --ca-file FILE":           "",
		"ingot ip list -o json | jq":                         "",
		"ingot RESOURCE list":                                "",
		"ingot ip list|create":                               "",
		"ingot ip list|burn":                                 `"ingot ip" has no command "burn"`,
		"ingot --help":                                       "",
		"ingot machine bmc boot-medium":                      `"ingot machine" has no command "bmc"`,
		"ingot machine":                                      `"ingot machine" is not a whole command`,
		"ingot frobnicate":                                   `there is no command "frobnicate"`,
		"ingot ip list --colour red":                         `"ingot ip list" has no flag --colour`,
		"ingot ip list -q":                                   `"ingot ip list" has no flag -q`,
	} {
		got := ""
		if err := check(root, line); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
}

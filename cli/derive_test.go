package cli

import (
	"bytes"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// programs are the services that only infrastructure or booting machines may
// call. 'ingot call' reaches them.
var programs = []string{
	"ingot.v1.AgentService", "ingot.v1.BootService", "ingot.v1.ConsoleService", "ingot.v1.LeafService", "ingot.v1.SiteService",
	"metalstack.infra.v2.BMCService", "metalstack.infra.v2.BootService", "metalstack.infra.v2.ComponentService",
	"metalstack.infra.v2.EventService", "metalstack.infra.v2.SwitchService",
}

// TestEveryMethodHasACommand walks the descriptors: no method of the API is
// out of reach.
func TestEveryMethodHasACommand(t *testing.T) {
	reached := map[protoreflect.FullName]bool{}
	tree := fullTree()
	for _, r := range load() {
		for _, v := range r.verbs {
			c, _, err := tree.Find([]string{r.name, v.name})
			if err != nil || c.Name() != v.name || c.RunE == nil {
				t.Errorf("there is no command %q", r.name+" "+v.name)
			}
			for _, m := range v.methods() {
				if reached[m.FullName()] {
					t.Errorf("%s has two commands", m.FullName())
				}
				reached[m.FullName()] = true
			}
		}
	}
	services := map[string]bool{}
	for _, m := range methods() {
		name := m.FullName()
		switch {
		case elsewhere[name] != "" && reached[name]:
			t.Errorf("%s has a command and need not be listed as elsewhere", name)
		case elsewhere[name] != "" || reached[name]:
		case forPrograms(m):
			services[string(m.Parent().FullName())] = true
		default:
			t.Errorf("%s has no command", name)
		}
	}
	var got []string
	for s := range services {
		got = append(got, s)
	}
	sort.Strings(got)
	if d := cmp.Diff(programs, got); d != "" {
		t.Errorf("services for programs (-want +got):\n%s", d)
	}
	if n := len(methods()); n < 150 {
		t.Errorf("only %d methods are linked in", n)
	}
}

// TestTables checks that what is written out is about something that exists.
func TestTables(t *testing.T) {
	exists := func(table string, n protoreflect.FullName) {
		t.Helper()
		if _, err := protoregistry.GlobalFiles.FindDescriptorByName(n); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}
	for n := range grafts {
		exists("grafts", n)
	}
	for n := range elsewhere {
		exists("elsewhere", n)
	}
	for n := range outputOnly {
		exists("outputOnly", n)
	}
	for n := range unlocked {
		exists("unlocked", n)
	}
	for n := range defaultPartition {
		exists("defaultPartition", n)
	}
	for n := range namedBy {
		exists("namedBy", n)
	}
	for n, f := range inside {
		exists("inside", n.Append(f))
	}
	for n := range resourceShort {
		if load()[n] == nil {
			t.Errorf("resourceShort: there is no resource %q", n)
		}
	}
	for n := range verbShort {
		noun, word, two := strings.Cut(n, " ")
		if two && (load()[noun] == nil || load()[noun].verbs[word] == nil) {
			t.Errorf("verbShort: there is no verb %q", n)
		}
	}
	for _, r := range references {
		if load()[r] == nil {
			t.Errorf("references: there is no resource %q", r)
		}
	}
}

// TestColumns checks that every path of every layout leads somewhere.
func TestColumns(t *testing.T) {
	for name := range layouts {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Error(err)
			continue
		}
		m := d.(protoreflect.MessageDescriptor)
		l := layoutOf(m, false)
		seen := map[string]bool{}
		for _, c := range l.columns {
			if seen[c.header] {
				t.Errorf("%s: two columns are called %s", name, c.header)
			}
			seen[c.header] = true
			from := m
			if l.each != nil && !c.parent {
				from = l.each.Message()
			}
			if c.path[0] == "@key" {
				continue
			}
			f := leads(from, c.path)
			if f == nil {
				t.Errorf("%s: %s=%s leads nowhere", name, c.header, strings.Join(c.path, "."))
				continue
			}
			if !slices.Contains([]string{"", "age", "bytes", "count"}, c.format) ||
				(c.format == "age" && (f.Message() == nil || f.Message().FullName() != timestampName)) || (c.format == "count" && !f.IsList()) {
				t.Errorf("%s: %s cannot be printed as %q", name, c.header, c.format)
			}
		}
	}
}

func leads(m protoreflect.MessageDescriptor, path []string) protoreflect.FieldDescriptor {
	var f protoreflect.FieldDescriptor
	for i, p := range path {
		if f != nil && f.IsList() && (p == "*" || digits(p) == len(p)) {
			if i == len(path)-1 {
				return f
			}
			continue
		}
		if m == nil {
			return nil
		}
		if f = m.Fields().ByName(protoreflect.Name(p)); f == nil {
			return nil
		}
		m = f.Message()
	}
	return f
}

// fullTree is the tree of commands with every flag.
func fullTree() *cobra.Command {
	a := &app{Options: Options{Env: func(string) string { return "" }}}
	root := a.root()
	a.addResources(root)
	for c := range a.calls {
		a.addFlags(c)
	}
	root.InitDefaultHelpCmd()
	return root
}

// TestFlags checks that a verb's flags neither hide those of every command nor
// mean two things.
func TestFlags(t *testing.T) {
	a := &app{}
	root := a.root()
	a.addResources(root)
	for c, k := range a.calls {
		a.addFlags(c)
		for name, in := range k.inputs {
			if name != "project" && root.PersistentFlags().Lookup(name) != nil {
				t.Errorf("%s: --%s hides the flag of every command", c.CommandPath(), name)
			}
			for _, m := range k.verb.methods() {
				for _, p := range paramsOf(m) {
					if p.name == name && (p.kind != in.kind || p.usage() != in.usageText) {
						t.Errorf("%s: --%s is %s for one and %s for the other", c.CommandPath(), name, in.usageText, p.usage())
					}
				}
			}
		}
	}
}

// TestCommands compares the whole tree with testdata/commands.golden.
// UPDATE=1 writes it.
func TestCommands(t *testing.T) {
	var b bytes.Buffer
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() && c.Name() != "help" {
			b.WriteString(c.CommandPath() + strings.TrimPrefix(c.Use, c.Name()) + "\n  " + c.Short + "\n")
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if c.Root().PersistentFlags().Lookup(f.Name) == nil && f.Name != "help" {
					b.WriteString(strings.TrimRight("    --"+f.Name+" "+f.Value.Type()+"  "+f.Usage, " ") + "\n")
				}
			})
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(fullTree())
	const path = "testdata/commands.golden"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("the tree of commands changed; if it should, run with UPDATE=1 (-want +got):\n%s", d)
	}
}

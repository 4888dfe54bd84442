package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// completionTime is how long a shell waits for values from the server.
const completionTime = 2 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// references are parameters whose values are the ids of another resource,
// where the name alone does not say so.
var references = map[string]string{
	"machine": "machine", "filesystem-layout": "filesystem", "parent-network": "network", "connected-machine-id": "machine",
	"old-switch": "switch", "new-switch": "switch", "login": "tenant", "user": "tenant",
}

// addGlobalCompletion completes the flags that every command has.
func (a *app) addGlobalCompletion(root *cobra.Command) {
	for name, f := range map[string]cobra.CompletionFunc{
		"output":  cobra.FixedCompletions(formats, noFiles),
		"context": a.completeContext,
		"project": func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return a.ids(c.Context(), "project", prefix), noFiles
		},
		"sort-by": func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return a.completeColumns(c, prefix, ""), noFiles
		},
		"filter": func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return a.completeColumns(c, prefix, "="), noFiles | cobra.ShellCompDirectiveNoSpace
		},
	} {
		if err := root.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // root has no such flag
		}
	}
}

// completeColumns offers the columns of what a verb prints.
func (a *app) completeColumns(c *cobra.Command, prefix, suffix string) []string {
	k := a.calls[c]
	if k == nil {
		return nil
	}
	f := payload(k.verb.methods()[0].Output())
	if f == nil {
		return nil
	}
	l := layoutOf(elementOf(f), f.IsMap())
	before, last := "", prefix
	if i := strings.LastIndexAny(prefix, ",-"); i >= 0 {
		before, last = prefix[:i+1], prefix[i+1:]
	}
	var out []string
	for _, h := range l.headers() {
		if strings.HasPrefix(h, last) {
			out = append(out, before+h+suffix)
		}
	}
	return out
}

func (a *app) completeContext(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, err := loadConfig(a.Env)
	if err != nil || len(args) > 0 {
		return nil, noFiles
	}
	return contextNames(cfg), noFiles
}

// completeParam offers the values of a parameter: words of an enum, methods,
// or the ids that the server knows.
func (a *app) completeParam(ctx context.Context, p param, of *resource, have []string, prefix string) ([]string, cobra.ShellCompDirective) {
	f := p.field()
	if f.IsMap() {
		return nil, noFiles
	}
	if f.Enum() != nil {
		return startingWith(enumWords(f.Enum()), prefix), noFiles
	}
	if f.Kind() == protoreflect.BoolKind {
		return []string{"true", "false"}, noFiles
	}
	if f.Kind() != protoreflect.StringKind {
		return nil, noFiles
	}
	last := p.name[strings.LastIndex(p.name, ".")+1:]
	if last == "methods" {
		var out []string
		for _, m := range methods() {
			out = append(out, procedure(m))
		}
		return startingWith(out, prefix), noFiles
	}
	resource := references[last]
	switch {
	case resource != "":
	case load()[last] != nil:
		resource = last
	case load()[strings.TrimSuffix(last, "s")] != nil && f.IsList():
		resource = strings.TrimSuffix(last, "s")
	case of.message != nil && identityField(of.message) != nil && (last == string(identityField(of.message).Name()) || last == "uuid" || last == "id"):
		resource = of.name
	default:
		return nil, cobra.ShellCompDirectiveDefault // perhaps @FILE
	}
	return slices.DeleteFunc(a.ids(ctx, resource, prefix), func(s string) bool {
		id, _, _ := strings.Cut(s, "\t")
		return slices.Contains(have, id)
	}), noFiles
}

func startingWith(all []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

// ids asks the server for the ids of a resource, with their names. Whatever
// goes wrong, there are none.
func (a *app) ids(ctx context.Context, name, prefix string) []string {
	r := load()[name]
	if r == nil || r.verbs["list"] == nil {
		return nil
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	a.timeout = completionTime
	k := &call{app: a, verb: r.verbs["list"]}
	if k.open() != nil {
		return nil
	}
	given := map[string][]string{}
	if a.flags.Project != "" && name != "project" {
		given["project"] = []string{a.flags.Project}
	}
	m, err := k.method(given)
	if err != nil {
		return nil
	}
	req, err := k.request(m, given)
	if err != nil {
		return nil
	}
	res, err := k.caller.unary(ctx, m, req)
	if err != nil {
		return nil
	}
	list := payload(m.Output())
	var out []string
	for _, e := range entries(res.Get(list), list) {
		id := nameOf(e)
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		for _, hint := range [][]string{{"name"}, {"allocation", "hostname"}, {"description"}} {
			text := column{path: hint}.cell(row{of: e.of, item: e.of}, a.now()).text
			if text != "" && text != id {
				id += "\t" + text
				break
			}
		}
		out = append(out, id)
	}
	return out
}

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

// resolve adds the resources to the tree and the flags to the verb that args
// lead to. It returns args.
func (a *app) resolve(root *cobra.Command, args []string) []string {
	words := slices.Clone(args)
	for len(words) > 0 && slices.Contains([]string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}, words[0]) {
		words = words[1:]
	}
	if c, _, err := root.Find(words); err == nil && c != root && c.GroupID == "tool" {
		return args // no resource is needed
	}
	a.addResources(root)
	if c, _, err := root.Find(words); err == nil {
		a.addFlags(c)
	}
	return args
}

// addResources adds a command for every resource and verb, without flags.
func (a *app) addResources(root *cobra.Command) {
	a.calls = map[*cobra.Command]*call{}
	for _, r := range load() {
		parent := &cobra.Command{Use: r.name, Short: r.short(), GroupID: "resource", Args: noSuchCommand, Aliases: r.aliases()}
		parent.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		for _, v := range r.sortedVerbs() {
			parent.AddCommand(a.verbCommand(v))
		}
		if r.applicable() {
			parent.AddCommand(a.resourceApplyCommand(r))
		}
		if r.verbs["update"] != nil {
			parent.AddCommand(a.editCommand(r))
		}
		root.AddCommand(parent)
	}
}

// aliases lets people write the plural.
func (r *resource) aliases() []string {
	switch {
	case strings.HasSuffix(r.name, "s") || strings.HasSuffix(r.name, "h"):
		return nil
	default:
		return []string{r.name + "s"}
	}
}

func (a *app) verbCommand(v *verb) *cobra.Command {
	s := subjectOf(v)
	use := v.name
	args := cobra.NoArgs
	if s != nil {
		word := strings.ToUpper(s.name)
		switch {
		case v.many():
			use, args = use+" ["+word+"]...", cobra.ArbitraryArgs
		default:
			use, args = use+" ["+word+"]", cobra.MaximumNArgs(1)
		}
	}
	c := &cobra.Command{Use: use, Short: v.short(), Args: usageArgs(args)}
	switch v.name {
	case "describe":
		c.Aliases = []string{"get"}
	case "list":
		c.Aliases = []string{"ls"}
	case "delete":
		c.Aliases = []string{"rm"}
	}
	k := &call{app: a, verb: v, subject: s}
	a.calls[c] = k
	c.RunE = func(c *cobra.Command, args []string) error { return k.run(c.Context(), args) }
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if s == nil || (len(args) > 0 && !v.many()) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completeParam(c.Context(), *s, v.resource, args, prefix)
	}
	return c
}

// noSuchCommand refuses what is not a command of c, and offers what is alike.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := "see '" + c.CommandPath() + " --help'"
	c.SuggestionsMinimumDistance = 2
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		remedy = "did you mean " + strings.Join(like, " or ") + "?"
	}
	return fault.New(fault.Invalid, strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "ingot"), " "), fmt.Sprintf("has no command %q", args[0]), remedy)
}

// usageArgs makes a wrong number of arguments an error of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usagef("%v; see '%s --help'", err, c.CommandPath())
		}
		return nil
	}
}

// many reports whether the verb is repeated for each argument.
func (v *verb) many() bool { return v.name == "describe" || v.name == "delete" }

// An input is a flag of a verb: the values that were given for it.
type input struct {
	param
	usageText string
	values    []string
	member    bool // the members' method has it
	operator  bool // the operators' method has it
}

func (i *input) String() string { return strings.Join(i.values, ",") }
func (i *input) Type() string   { return i.usageText }
func (i *input) Set(s string) error {
	i.values = append(i.values, s)
	return nil
}

// addFlags adds the flags of a verb, once it is known which verb is to run.
func (a *app) addFlags(c *cobra.Command) {
	k := a.calls[c]
	if k == nil || k.inputs != nil {
		return
	}
	k.inputs = map[string]*input{}
	for _, m := range k.verb.methods() {
		for _, p := range paramsOf(m) {
			in := k.inputs[p.name]
			if in == nil {
				in = &input{param: p, usageText: p.usage()}
				k.inputs[p.name] = in
			}
			in.member = in.member || m == k.verb.member
			in.operator = in.operator || m == k.verb.operator
		}
	}
	f := c.Flags()
	for name, in := range k.inputs {
		if name == "project" {
			continue // every command has it
		}
		fl := f.VarPF(in, name, "", in.help(k.verb))
		if in.kind == scalar && in.field().Kind() == protoreflect.BoolKind {
			fl.NoOptDefVal = "true"
		}
		if err := c.RegisterFlagCompletionFunc(name, func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return a.completeParam(c.Context(), in.param, k.verb.resource, nil, prefix)
		}); err != nil {
			panic(err) // the flag was added above
		}
	}
	if m := k.verb.operator; m != nil && m.FullName() == wipesName {
		f.BoolVar(&k.verify, "verify", false, "check the proofs with the keys that the server publishes")
		f.StringVar(&k.keysFile, "keys", "", "check the proofs with the keys in this file, as 'ingot machine wipe-keys -o json' printed them")
	}
	if k.verb.asks() {
		f.BoolVarP(&k.yes, "yes", "y", false, "do not ask")
	}
	switch k.verb.name {
	case "create":
		f.StringArrayVarP(&k.files, "file", "f", nil, "file or directory with objects to create; - is the standard input")
	case "console":
		f.BoolVar(&k.readOnly, "read-only", false, "type nothing, also on a terminal")
		f.StringVar(&k.record, "record", "", "new file to record in what is shown (asciicast v2)")
	case "list":
		if k.verb.resource.watchable() {
			f.BoolVarP(&k.watch, "watch", "w", false, "go on with what changes")
		}
	}
}

// help is the text of a flag: who may use it, whether it is required and what
// the field's validation rules say.
func (i *input) help(v *verb) string {
	var parts []string
	switch {
	case v.member == nil || v.operator == nil:
	case !i.operator:
		parts = append(parts, "(members)")
	case !i.member:
		parts = append(parts, "(operators)")
	}
	if r := rulesOf(i.field()); r != "" {
		parts = append(parts, r)
	}
	return strings.Join(parts, " ")
}

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

// outcomes of applying a document, in the order of the summary.
const (
	created   = "created"
	updated   = "updated"
	unchanged = "unchanged"
	failed    = "failed"
)

// applyCommand is "ingot apply".
func (a *app) applyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or update the objects of files",
		Long: "Create or update the objects of files: YAML or JSON, any number to a file, each with its kind. An object that exists is found by its id\n" +
			"or, if the document has none, by its name, and only fields that the document names are changed.",
		Args: usageArgs(cobra.NoArgs),
	}
	a.applyFlags(c, nil)
	return c
}

// resourceApplyCommand is "ingot RESOURCE apply": documents need no kind.
func (a *app) resourceApplyCommand(r *resource) *cobra.Command {
	c := &cobra.Command{Use: "apply -f FILE", Short: "Create or update the objects of files", Args: usageArgs(cobra.NoArgs)}
	a.applyFlags(c, r)
	return c
}

func (a *app) applyFlags(c *cobra.Command, r *resource) {
	var files []string
	var dry bool
	c.Flags().StringArrayVarP(&files, "file", "f", nil, "file or directory; - is the standard input")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, but do nothing")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if len(files) == 0 {
			return usagef("nothing to apply; name a file with -f")
		}
		docs, err := readDocuments(files, a.In)
		if err != nil {
			return err
		}
		w, err := a.writer()
		if err != nil {
			return err
		}
		w.dry = dry
		return w.applyAll(c.Context(), docs, r)
	}
}

// applyAll applies the documents in their order and sums up. It goes on after
// a failure.
func (w *writer) applyAll(ctx context.Context, docs []document, r *resource) error {
	count := map[string]int{}
	var last error
	for _, d := range docs {
		k, err := kindOf(d, r)
		outcome, what := failed, d.source
		if err == nil {
			outcome, what, err = w.apply(ctx, k, d)
		}
		if ctx.Err() != nil {
			return context.Canceled
		}
		count[outcome]++
		if err != nil {
			last = err
			fmt.Fprintf(w.Err, "ingot: %s: %s\n", d.source, explain(err))
			continue
		}
		fmt.Fprintf(w.Out, "%s %s\n", what, outcome)
	}
	var sum []string
	for _, o := range []string{created, updated, unchanged, failed} {
		if count[o] > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", count[o], o))
		}
	}
	line := strings.Join(sum, ", ")
	if w.dry {
		line += " (dry run)"
	}
	fmt.Fprintln(w.Out, line)
	switch {
	case count[failed] == 1 && len(docs) == 1:
		return reported{last}
	case count[failed] > 0:
		return errReported
	}
	return nil
}

// reported is an error that was printed already but still decides the exit
// code.
type reported struct{ error }

func (r reported) Is(target error) bool { return target == errReported }
func (r reported) Unwrap() error        { return r.error }

// kindOf finds out what a document is: by its kind, or by the command.
func kindOf(d document, r *resource) (*kindSpec, error) {
	var want *kindSpec
	if r != nil {
		want = r.kind()
	}
	if d.kind == "" {
		if want == nil {
			return nil, fault.New(fault.Invalid, "kind", "not given", "write 'kind: NAME', one of "+strings.Join(kindNames(), ", "))
		}
		return want, nil
	}
	k := kinds()[d.kind]
	switch {
	case k == nil:
		return nil, fault.New(fault.Invalid, "kind "+d.kind, "not known", "use one of "+strings.Join(kindNames(), ", "))
	case want != nil && k != want:
		return nil, fault.New(fault.Invalid, "kind "+k.name, "is not "+want.name, "use 'ingot apply'")
	}
	return k, nil
}

// apply creates or updates one object.
func (w *writer) apply(ctx context.Context, k *kindSpec, d document) (outcome, what string, err error) {
	if err := k.knows(d); err != nil {
		return failed, "", err
	}
	as := w.face(k, d)
	current, err := w.find(ctx, k, d, as)
	if err != nil {
		return failed, "", err
	}
	switch {
	case k.put != nil:
		return w.put(ctx, k, d, current, as)
	case current == nil:
		m, req, err := w.creation(k, d, as)
		if err != nil {
			return failed, "", err
		}
		if w.dry {
			return created, k.label(d, nil), nil
		}
		res, err := w.caller.unary(ctx, m, req)
		if err != nil {
			return failed, "", err
		}
		return created, k.label(d, part(res, k.message)), nil
	}
	changed, err := w.change(ctx, k, d, current, as)
	if err != nil {
		return failed, "", err
	}
	if !changed {
		return unchanged, k.label(d, current), nil
	}
	return updated, k.label(d, current), nil
}

// label is how an object is called in the summary: "image debian-12.0".
func (k *kindSpec) label(d document, m protoreflect.Message) string {
	name := ""
	if m != nil {
		name = identity(m)
	}
	return k.name + " " + first(name, d.text(identityField(k.message)), d.text(k.message.Fields().ByName("name")))
}

// knows refuses documents with fields that no message of the kind has.
func (k *kindSpec) knows(d document) error {
	all := []protoreflect.MessageDescriptor{k.message}
	for _, v := range []*verb{k.create, k.update, k.put, k.describe} {
		if v == nil {
			continue
		}
		for _, m := range v.methods() {
			_, body := bodyOf(m)
			all = append(all, body)
		}
	}
	for name := range d.body {
		if name == "labels" || slices.ContainsFunc(all, func(m protoreflect.MessageDescriptor) bool { return fieldOf(m, name) != nil }) {
			continue
		}
		return fault.New(fault.Invalid, k.name, fmt.Sprintf("has no field %q", name), "")
	}
	return nil
}

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
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

// A writer creates and updates objects from documents.
type writer struct {
	*app
	profile profile
	caller  *caller
	dry     bool
}

func (a *app) writer() (*writer, error) {
	p, err := a.profile()
	if err != nil {
		return nil, err
	}
	c, err := a.dial(p)
	return &writer{app: a, profile: p, caller: c}, err
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
	current, err := w.find(ctx, k, d)
	if err != nil {
		return failed, "", err
	}
	switch {
	case k.put != nil:
		return w.put(ctx, k, d, current)
	case current == nil:
		m, req, err := w.creation(k, d)
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
	changed, err := w.change(ctx, k, d, current)
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

// part returns the object in an answer.
func part(res protoreflect.Message, d protoreflect.MessageDescriptor) protoreflect.Message {
	fs := res.Descriptor().Fields()
	for i := range fs.Len() {
		if f := fs.Get(i); f.Message() == d && !f.IsList() && res.Has(f) {
			return res.Get(f).Message()
		}
	}
	return nil
}

// pick chooses the method for a document: the operators' if the profile says
// so or if only it knows one of the fields; otherwise the members', if the
// scopes it requires are known.
func (w *writer) pick(v *verb, d document, fields []string) protoreflect.MethodDescriptor {
	switch {
	case v.operator == nil:
		return v.member
	case v.member == nil || w.profile.Admin:
		return v.operator
	}
	_, mine := bodyOf(v.member)
	_, theirs := bodyOf(v.operator)
	for _, name := range fields {
		if fieldOf(mine, name) == nil && fieldOf(theirs, name) != nil {
			return v.operator
		}
	}
	for _, name := range required(v.member) {
		if d.body[name] == nil && !(name == "project" && w.profile.Project != "") && !(name == "partition" && w.profile.Partition != "") {
			return v.operator
		}
	}
	return v.member
}

func keys(d document) []string {
	var out []string
	for name := range d.body {
		out = append(out, name)
	}
	return out
}

// call prepares a use of a verb for a document.
func (w *writer) call(v *verb) *call {
	return &call{app: w.app, verb: v, subject: subjectOf(v), profile: w.profile, caller: w.caller}
}

// find returns the object that a document is about, nil if there is none.
func (w *writer) find(ctx context.Context, k *kindSpec, d document) (protoreflect.Message, error) {
	id := d.text(identityField(k.message))
	if id == "" {
		return w.findByName(ctx, k, d)
	}
	m, err := w.fetch(ctx, k, d, id)
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, nil
	}
	return m, err
}

// fetch gets an object by its id.
func (w *writer) fetch(ctx context.Context, k *kindSpec, d document, id string) (protoreflect.Message, error) {
	c := w.call(k.describe)
	m := k.describe.methods()[0]
	if k.describe.operator != nil && k.describe.member != nil {
		m = w.pick(k.describe, d, nil)
		// A document that only operators can write and that names no project
		// is not looked for in the project one happens to be in.
		if k.create != nil && w.pick(k.create, d, keys(d)) == k.create.operator && d.body["project"] == nil {
			m = k.describe.operator
		}
	}
	given := d.scopes(m)
	given[c.subject.name] = []string{id}
	req, err := c.request(m, given)
	if err != nil {
		return nil, err
	}
	res, err := w.caller.unary(ctx, m, req)
	if err != nil {
		return nil, err
	}
	return part(res, k.message), nil
}

// scopes returns what a document says about where to look.
func (d document) scopes(m protoreflect.MethodDescriptor) map[string][]string {
	out := map[string][]string{}
	for _, p := range paramsOf(m) {
		if s := d.text(p.field()); scopes[p.name] && s != "" && p.kind == scalar {
			out[p.name] = []string{s}
		}
	}
	return out
}

// findByName looks for the one object with the document's name.
func (w *writer) findByName(ctx context.Context, k *kindSpec, d document) (protoreflect.Message, error) {
	f := k.message.Fields().ByName("name")
	name := ""
	if f != nil {
		name = d.text(f)
	}
	if name == "" || k.list == nil {
		return nil, fault.New(fault.Invalid, k.name, "has neither "+string(identityField(k.message).Name())+" nor name", "give it one, so that it can be found again")
	}
	m := w.pick(k.list, d, nil)
	given := d.scopes(m)
	given["name"] = []string{name}
	c := w.call(k.list)
	req, err := c.request(m, given)
	if err != nil {
		return nil, err
	}
	res, err := w.caller.unary(ctx, m, req)
	if err != nil {
		return nil, err
	}
	list := payload(m.Output())
	var found protoreflect.Message
	for _, r := range entries(res.Get(list), list) {
		if r.of.Get(f).String() != name {
			continue
		}
		if found != nil {
			return nil, fault.New(fault.Invalid, k.name+" "+name, "there are several", "write the "+string(identityField(k.message).Name())+" of the one you mean")
		}
		found = r.of
	}
	return found, nil
}

// creation builds the request that creates a document's object.
func (w *writer) creation(k *kindSpec, d document) (protoreflect.MethodDescriptor, protoreflect.Message, error) {
	m := w.pick(k.create, d, keys(d))
	id := d.text(identityField(k.message))
	if o := k.create.operator; o != nil && id != "" && namedBy[o.FullName()] != "" {
		m = o
	}
	req := newMessage(m.Input())
	wrap, body := bodyOf(m)
	into := req
	if wrap != nil {
		into = req.Mutable(wrap).Message()
	}
	if err := w.fill(into, body, d); err != nil {
		return nil, nil, err
	}
	switch by := namedBy[m.FullName()]; {
	case id == "":
	case by != "":
		into.Set(body.Fields().ByName(by), protoreflect.ValueOfString(id))
	case body.Fields().ByName(identityField(k.message).Name()) == nil:
		return nil, nil, fault.New(fault.NotFound, k.name+" "+id, "not found", "to create another leave out "+string(identityField(k.message).Name())+": the server gives it")
	}
	for _, p := range paramsOf(m) {
		if v := defaults[m.FullName()][p.name]; v != "" && !req.Has(p.field()) {
			if err := p.set(req, []string{v}, w.now()); err != nil {
				return nil, nil, err
			}
		}
	}
	return m, req, nil
}

// fill puts what a document says into a message; the profile's project and
// partition where it says nothing.
func (w *writer) fill(into protoreflect.Message, body protoreflect.MessageDescriptor, d document) error {
	for i := range body.Fields().Len() {
		f := body.Fields().Get(i)
		if outputOnly[f.FullName()] {
			continue
		}
		if f.Name() == "meta" {
			if l, ok := d.labels(); ok {
				if err := decode(into, f, map[string]any{"labels": l}); err != nil {
					return fault.New(fault.Invalid, "", err.Error(), "")
				}
			}
			continue
		}
		v, ok := d.valueOf(f)
		if f.Name() == "labels" {
			v, ok = d.labels()
		}
		if !ok && !f.HasOptionalKeyword() && f.Kind() == protoreflect.StringKind && !f.IsList() {
			switch f.Name() {
			case "project":
				v, ok = w.profile.Project, w.profile.Project != ""
			case "partition":
				v, ok = w.profile.Partition, w.profile.Partition != ""
			}
		}
		if ok {
			if err := decode(into, f, v); err != nil {
				return fault.New(fault.Invalid, "", err.Error(), "")
			}
		}
	}
	return nil
}

// put creates or replaces an object of a kind that has only that method.
func (w *writer) put(ctx context.Context, k *kindSpec, d document, current protoreflect.Message) (outcome, what string, err error) {
	m := w.pick(k.put, d, keys(d))
	wrap, body := bodyOf(m)
	req := newMessage(m.Input())
	into := req.Mutable(wrap).Message()
	if current != nil {
		proto.Merge(into.Interface(), current.Interface())
		for f := range outputOnly {
			if f.Parent() == body.FullName() {
				into.Clear(body.Fields().ByName(f.Name()))
			}
		}
	}
	before := proto.Clone(into.Interface())
	if err := w.fill(into, body, d); err != nil {
		return failed, "", err
	}
	outcome = created
	switch {
	case current != nil && proto.Equal(before, into.Interface()):
		return unchanged, k.label(d, current), nil
	case current != nil:
		outcome = updated
	}
	if !w.dry {
		if _, err := w.caller.unary(ctx, m, req); err != nil {
			return failed, "", err
		}
	}
	return outcome, k.label(d, into), nil
}

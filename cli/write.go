package cli

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

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

// A face is whose methods are used where members and operators have one each.
type face bool

const (
	asMember   face = false
	asOperator face = true
)

// of returns the face's method of a verb. If only the operators' knows one of
// the fields to be written, it is that one.
func (as face) of(v *verb, fields []string) protoreflect.MethodDescriptor {
	switch {
	case v.operator == nil:
		return v.member
	case v.member == nil || as == asOperator || onlyOperators(v, fields):
		return v.operator
	}
	return v.member
}

// onlyOperators reports whether a field can only be written by operators.
func onlyOperators(v *verb, fields []string) bool {
	if v.member == nil || v.operator == nil {
		return false
	}
	_, mine := bodyOf(v.member)
	_, theirs := bodyOf(v.operator)
	for _, name := range fields {
		if fieldOf(mine, name) == nil && fieldOf(theirs, name) != nil {
			return true
		}
	}
	return false
}

// face chooses for a document: an operator's if the profile says so, if a
// member's method would need a project or tenant that is not known, or if the
// document names no project and has fields that only operators write.
func (w *writer) face(k *kindSpec, d document) face {
	if w.profile.Admin {
		return asOperator
	}
	for _, v := range []*verb{k.create, k.describe, k.update} {
		if v == nil || v.member == nil || v.operator == nil {
			continue
		}
		if d.body["project"] == nil && onlyOperators(v, keys(d)) {
			return asOperator
		}
		for _, name := range required(v.member) {
			if d.body[name] == nil && w.profile.scope(name) == "" {
				return asOperator
			}
		}
	}
	return asMember
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

func keys(d document) []string {
	var out []string
	for name := range d.body {
		out = append(out, name)
	}
	return out
}

// call prepares a use of a verb, or of none in particular.
func (w *writer) call(v *verb) *call {
	c := &call{app: w.app, verb: v, profile: w.profile, caller: w.caller}
	if v != nil {
		c.subject = subjectOf(v)
	}
	return c
}

// find returns the object that a document is about, nil if there is none.
func (w *writer) find(ctx context.Context, k *kindSpec, d document, as face) (protoreflect.Message, error) {
	id := d.text(identityField(k.message))
	if id == "" {
		return w.findByName(ctx, k, d, as)
	}
	m, err := w.fetch(ctx, k, d, id, as)
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, nil
	}
	return m, err
}

// fetch gets an object by its id.
func (w *writer) fetch(ctx context.Context, k *kindSpec, d document, id string, as face) (protoreflect.Message, error) {
	c := w.call(k.describe)
	m := as.of(k.describe, nil)
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
func (w *writer) findByName(ctx context.Context, k *kindSpec, d document, as face) (protoreflect.Message, error) {
	f := k.message.Fields().ByName("name")
	name := ""
	if f != nil {
		name = d.text(f)
	}
	if name == "" || k.list == nil {
		return nil, fault.New(fault.Invalid, k.name, "has neither "+string(identityField(k.message).Name())+" nor name", "give it one, so that it can be found again")
	}
	m := as.of(k.list, nil)
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
func (w *writer) creation(k *kindSpec, d document, as face) (protoreflect.MethodDescriptor, protoreflect.Message, error) {
	m := as.of(k.create, keys(d))
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
	if err := fill(into, body, d); err != nil {
		return nil, nil, err
	}
	switch by := namedBy[m.FullName()]; {
	case id == "":
	case by != "":
		into.Set(body.Fields().ByName(by), protoreflect.ValueOfString(id))
	case body.Fields().ByName(identityField(k.message).Name()) == nil:
		return nil, nil, fault.New(fault.NotFound, k.name+" "+id, "not found", "to create another leave out "+string(identityField(k.message).Name())+": the server gives it")
	}
	return m, req, w.complete(m, req, d)
}

// complete adds the defaults and the profile's project and partition where a
// document says nothing.
func (w *writer) complete(m protoreflect.MethodDescriptor, req protoreflect.Message, d document) error {
	given := map[string][]string{}
	for name := range d.body {
		given[kebab(name)] = []string{}
	}
	c := w.call(nil)
	for _, p := range paramsOf(m) {
		if given[p.name] != nil {
			continue
		}
		v := c.fallback(m, p, given)
		if v == "" {
			if p.name == "project" && !p.field().HasOptionalKeyword() {
				return usagef("project: not given; write it, use --project, or set one in the context")
			}
			continue
		}
		if err := p.set(req, []string{v}, w.now()); err != nil {
			return err
		}
	}
	return nil
}

// fill puts what a document says into a message.
func fill(into protoreflect.Message, body protoreflect.MessageDescriptor, d document) error {
	for i := range body.Fields().Len() {
		f := body.Fields().Get(i)
		v, ok := d.valueOf(f)
		switch {
		case outputOnly[f.FullName()]:
			continue
		case f.Name() == "meta":
			var l any
			l, ok = d.labels()
			v = map[string]any{"labels": l}
		case f.Name() == "labels":
			v, ok = d.labels()
		}
		if !ok {
			continue
		}
		if err := decode(into, f, v); err != nil {
			return err
		}
	}
	return nil
}

// put creates or replaces an object of a kind that has only that method.
func (w *writer) put(ctx context.Context, k *kindSpec, d document, current protoreflect.Message, as face) (outcome, what string, err error) {
	m := as.of(k.put, nil)
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
	if err := fill(into, body, d); err != nil {
		return failed, "", err
	}
	if err := w.complete(m, req, d); err != nil {
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

package cli

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

// change sends an update with the fields that differ, and reports whether
// there were any.
func (w *writer) change(ctx context.Context, k *kindSpec, d document, current protoreflect.Message, as face) (bool, error) {
	differing, err := k.differing(d, current)
	if err != nil {
		return false, err
	}
	if len(differing) == 0 {
		return false, nil
	}
	m := as.of(k.update, differing)
	req := newMessage(m.Input())
	for _, name := range differing {
		f := m.Input().Fields().ByName(protoreflect.Name(name))
		if f == nil {
			return false, fault.New(fault.Denied, k.label(d, current), name+" can only be changed by operators", "")
		}
		v, _ := d.valueOf(f)
		if f.Message() != nil && f.Message().FullName() == newLabelsName {
			l, _ := d.labels()
			v = map[string]any{"replace": l}
		}
		if err := decode(req, f, v); err != nil {
			return false, err
		}
		if !req.Has(f) && !f.HasPresence() {
			return false, fault.New(fault.Invalid, k.label(d, current), name+" cannot be emptied by this API", "delete and create the object")
		}
	}
	given := d.scopes(m)
	given[subjectOf(k.update).name] = []string{identity(current)}
	if err := w.call(k.update).complete(m, req, given, current); err != nil {
		return false, err
	}
	if w.dry {
		return true, nil
	}
	_, err = w.caller.unary(ctx, m, req)
	return err == nil, err
}

// differing returns the fields of a document that are not as the object has
// them. A difference that no update can make good is an error.
func (k *kindSpec) differing(d document, current protoreflect.Message) ([]string, error) {
	var out []string
	changeable := map[protoreflect.Name]bool{}
	for _, m := range k.update.methods() {
		for i := range m.Input().Fields().Len() {
			f := m.Input().Fields().Get(i)
			changeable[f.Name()] = true
		}
	}
	seen := map[string]bool{}
	consider := func(f protoreflect.FieldDescriptor) error {
		name := string(f.Name())
		if seen[name] || f.Name() == "meta" || f.Message() != nil && f.Message().Name() == "UpdateMeta" || outputOnly[f.FullName()] {
			return nil
		}
		seen[name] = true
		same, comparable, err := k.same(d, f, current)
		if err != nil || same || (!comparable && !changeable[f.Name()]) {
			return err
		}
		if !changeable[f.Name()] {
			return fault.New(fault.Invalid, k.label(d, current), name+" cannot be changed", "delete and create the object")
		}
		out = append(out, name)
		return nil
	}
	for _, v := range []*verb{k.update, k.create} {
		if v == nil {
			continue
		}
		for _, m := range v.methods() {
			_, body := bodyOf(m)
			for i := range body.Fields().Len() {
				if err := consider(body.Fields().Get(i)); err != nil {
					return nil, err
				}
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// same reports whether the object has a field as the document wants it, and
// whether the two can be compared at all.
func (k *kindSpec) same(d document, f protoreflect.FieldDescriptor, current protoreflect.Message) (same, comparable bool, err error) {
	if f.Message() != nil && (f.Message().FullName() == newLabelsName || f.Message().FullName() == labelsName && f.Name() == "labels") {
		want, ok := d.labels()
		if !ok {
			return true, true, nil
		}
		holder, lf := labelsOf(within(current))
		if lf == nil {
			return false, true, nil
		}
		wanted := holder.New()
		if err := decode(wanted, lf, want); err != nil {
			return false, false, err
		}
		return equal(wanted, lf, holder, lf), true, nil
	}
	v, ok := d.valueOf(f)
	if !ok {
		return true, true, nil
	}
	has, cf := lookup(current, f)
	if cf == nil {
		return false, false, nil
	}
	wanted := newMessage(f.ContainingMessage())
	if err := decode(wanted, f, v); err != nil {
		return false, false, err
	}
	return equal(wanted, f, has, cf), true, nil
}

// within returns the message that holds an object's changeable fields.
func within(m protoreflect.Message) protoreflect.Message {
	if n, ok := inside[m.Descriptor().FullName()]; ok {
		return m.Get(m.Descriptor().Fields().ByName(n)).Message()
	}
	return m
}

// labelsOf returns the message that holds the labels of an object, and its
// field for them.
func labelsOf(m protoreflect.Message) (protoreflect.Message, protoreflect.FieldDescriptor) {
	meta := m.Descriptor().Fields().ByName("meta")
	if meta == nil {
		return nil, nil
	}
	holder := m.Get(meta).Message()
	return holder, holder.Descriptor().Fields().ByName("labels")
}

// lookup finds the field of an object that a request's field of the same name
// and type would change.
func lookup(current protoreflect.Message, f protoreflect.FieldDescriptor) (protoreflect.Message, protoreflect.FieldDescriptor) {
	for _, m := range []protoreflect.Message{current, within(current)} {
		c := m.Descriptor().Fields().ByName(f.Name())
		if c != nil && c.Kind() == f.Kind() && c.IsList() == f.IsList() && c.IsMap() == f.IsMap() && c.Message() == f.Message() && c.Enum() == f.Enum() {
			return m, c
		}
	}
	return nil, nil
}

// equal compares two fields; one that is not set equals an empty one.
func equal(a protoreflect.Message, fa protoreflect.FieldDescriptor, b protoreflect.Message, fb protoreflect.FieldDescriptor) bool {
	va, vb := a.Get(fa), b.Get(fb)
	if fa.Message() != nil && !fa.IsList() && !fa.IsMap() {
		return proto.Equal(va.Message().Interface(), vb.Message().Interface()) || (empty(va.Message()) && empty(vb.Message()))
	}
	return va.Equal(vb)
}

// empty reports whether a message says nothing.
func empty(m protoreflect.Message) bool { return proto.Size(m.Interface()) == 0 }

// complete adds to an update what a person does not write: which object, the
// version it was read at, and the present value of fields that the API cannot
// leave unchanged by leaving them out.
func (k *call) complete(m protoreflect.MethodDescriptor, req protoreflect.Message, given map[string][]string, current protoreflect.Message) error {
	for _, p := range paramsOf(m) {
		if len(p.path) > 1 || p.kind != scalar || req.Has(p.field()) {
			continue
		}
		values := given[p.name]
		if values == nil {
			if v := k.fallback(m, p, given); v != "" {
				values = []string{v}
			}
		}
		if values != nil {
			if err := p.set(req, values, k.now()); err != nil {
				return usagef("--%s: %v", p.name, err)
			}
			continue
		}
		if has, f := lookup(current, p.field()); f != nil && !p.field().HasPresence() {
			req.Set(p.field(), has.Get(f))
		}
	}
	lock := m.Input().Fields().ByName("update_meta")
	if lock == nil || unlocked[m.Parent().FullName()] {
		return nil
	}
	meta := current.Descriptor().Fields().ByName("meta")
	to := req.Mutable(lock).Message()
	if at := current.Get(meta).Message(); meta != nil {
		from, field := at.Descriptor().Fields().ByName("updated_at"), lock.Message().Fields().ByName("updated_at")
		if at.Has(from) {
			to.Set(field, at.Get(from))
		}
	}
	strategy := lock.Message().Fields().ByName("locking_strategy")
	to.Set(strategy, protoreflect.ValueOfEnum(strategy.Enum().Values().ByName("OPTIMISTIC_LOCKING_STRATEGY_CLIENT").Number()))
	return nil
}

// update changes the fields given as flags, provided that nobody else changes
// the object in between.
func (k *call) update(ctx context.Context, m protoreflect.MethodDescriptor, req protoreflect.Message) error {
	if k.subject == nil {
		panic("update without a subject: " + string(m.FullName()))
	}
	id := req.Get(m.Input().Fields().ByName(k.subject.path[0].Name())).String()
	w := &writer{app: k.app, profile: k.profile, caller: k.caller}
	d := document{body: map[string]any{}}
	for _, p := range paramsOf(m) {
		if scopes[p.name] && p.kind == scalar && req.Has(p.field()) {
			d.body[p.name] = req.Get(p.field()).String()
		}
	}
	current, err := w.fetch(ctx, k.verb.resource.kind(), d, id, face(m == k.verb.operator))
	if err != nil {
		return err
	}
	if err := k.complete(m, req, nil, current); err != nil {
		return err
	}
	res, err := k.caller.unary(ctx, m, req)
	if err != nil {
		return err
	}
	return k.answer(m, res, id)
}

// createFiles is "create -f": it prints each object as it is created.
func (k *call) createFiles(ctx context.Context) error {
	docs, err := readDocuments(k.files, k.In)
	if err != nil {
		return err
	}
	w := &writer{app: k.app, profile: k.profile, caller: k.caller}
	spec := k.verb.resource.kind()
	for _, d := range docs {
		if d.kind != "" && kinds()[d.kind] != spec {
			return fault.New(fault.Invalid, d.source, "is not a "+spec.name, "use 'ingot apply'")
		}
		err := spec.knows(d)
		if err != nil {
			return fault.Wrap(fault.KindOf(err), d.source, "not created", err)
		}
		m, req, err := w.creation(spec, d, w.face(spec, d))
		if err != nil {
			return fault.Wrap(fault.KindOf(err), d.source, "not created", err)
		}
		res, err := k.caller.unary(ctx, m, req)
		if err != nil {
			return err
		}
		if err := k.answer(m, res, d.source); err != nil {
			return err
		}
	}
	return nil
}

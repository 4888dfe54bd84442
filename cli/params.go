package cli

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A param is one field of a request as a person names it: a flag.
type param struct {
	name string                         // "allocation.project", "labels", "remove-labels"
	path []protoreflect.FieldDescriptor // from the request to the field
	kind kind
}

// kind is how the values of a flag become a field.
type kind uint8

const (
	scalar kind = iota // one value: a string, number, bool or enum
	scalars
	pairs // a map
	moment
	span // a duration

	inlines // messages written as name=value,...
	labels
	patchLabels  // labels to add or change
	removeLabels // labels to remove
)

// depth bounds how far nested messages become dotted flags.
const depth = 4

// paramsOf lists the flags of a request. Messages that only wrap what is
// meant, a query or the resource itself, leave no trace in the names.
func paramsOf(m protoreflect.MethodDescriptor) []param {
	var out []param
	seen := map[string]bool{}
	add := func(p param) {
		if !seen[p.name] {
			seen[p.name] = true
			out = append(out, p)
		}
	}
	var walk func(md protoreflect.MessageDescriptor, prefix string, path []protoreflect.FieldDescriptor)
	walk = func(md protoreflect.MessageDescriptor, prefix string, path []protoreflect.FieldDescriptor) {
		for i := range md.Fields().Len() {
			f := md.Fields().Get(i)
			path := append(path[:len(path):len(path)], f)
			name := prefix + kebab(string(f.Name()))
			switch {
			case ignored(f):
			case f.Message() == nil && f.IsList():
				add(param{name, path, scalars})
			case f.Message() == nil:
				add(param{name, path, scalar})
			case f.IsMap():
				add(param{name, path, pairs})
			case f.IsList():
				add(param{name, path, inlines})
			case f.Message().FullName() == timestampName:
				add(param{name, path, moment})
			case f.Message().FullName() == durationName:
				add(param{name, path, span})
			case f.Message().FullName() == labelsName:
				add(param{name, path, labels})
			case f.Message().FullName() == newLabelsName:
				add(param{name, path, patchLabels})
				add(param{prefix + "remove-" + kebab(string(f.Name())), path, removeLabels})
			case f.Message().Name() == "Meta":
				if l := f.Message().Fields().ByName("labels"); l != nil {
					add(param{prefix + "labels", append(path, l), labels})
				}
			case wraps(m, f):
				walk(f.Message(), prefix, path)
			case len(path) < depth && !wellKnown(f.Message()):
				walk(f.Message(), name+".", path)
			}
		}
	}
	walk(m.Input(), "", nil)
	return out
}

// ignored reports fields that nobody sets by hand.
func ignored(f protoreflect.FieldDescriptor) bool {
	if outputOnly[f.FullName()] || (f.Message() != nil && f.Message().Name() == "UpdateMeta") {
		return true
	}
	return f.Name() == "updated_at" && strings.HasSuffix(string(f.Parent().Name()), "UpdateRequest")
}

// wraps reports whether a request's field only wraps what is meant.
func wraps(m protoreflect.MethodDescriptor, f protoreflect.FieldDescriptor) bool {
	if f.Parent() != m.Input() {
		return false
	}
	if f.Name() == "query" || strings.HasSuffix(string(f.Message().Name()), "Request") {
		return true
	}
	p := payload(m.Output())
	return p != nil && !p.IsMap() && p.Message() == f.Message()
}

func (p param) field() protoreflect.FieldDescriptor { return p.path[len(p.path)-1] }

// usage says what a value looks like.
func (p param) usage() string {
	f := p.field()
	switch p.kind {
	case moment:
		return "time"
	case span:
		return "duration"
	case labels, patchLabels:
		return "key=value"
	case removeLabels:
		return "key"
	case inlines:
		return inlineUsage(f.Message())
	case pairs:
		return "key=" + scalarUsage(f.MapValue())
	default:
		return scalarUsage(f)
	}
}

func scalarUsage(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Enum() != nil:
		return strings.Join(enumWords(f.Enum()), "|")
	case f.Message() != nil:
		return "json"
	case f.Kind() == protoreflect.StringKind:
		return "string"
	case f.Kind() == protoreflect.BytesKind:
		return "base64"
	case f.Kind() == protoreflect.BoolKind:
		return ""
	default:
		return "number"
	}
}

func inlineUsage(m protoreflect.MessageDescriptor) string {
	var parts []string
	for i := range m.Fields().Len() {
		parts = append(parts, string(m.Fields().Get(i).Name())+"=")
	}
	return strings.Join(parts, ",")
}

// set puts the values given for the flag into the request.
func (p param) set(req protoreflect.Message, values []string, now time.Time) error {
	m := req
	for _, f := range p.path[:len(p.path)-1] {
		m = m.Mutable(f).Message()
	}
	f := p.field()
	switch p.kind {
	case scalar:
		v, err := parseScalar(f, values[len(values)-1])
		if err != nil {
			return err
		}
		m.Set(f, v)
	case scalars:
		return appendScalars(m, f, values)
	case pairs:
		return setPairs(m.Mutable(f).Map(), f, values)
	case moment:
		t, err := parseTime(values[len(values)-1], now)
		if err != nil {
			return err
		}
		setTime(m.Mutable(f).Message(), t)
	case span:
		d, err := parseDuration(values[len(values)-1])
		if err != nil {
			return err
		}
		setDuration(m.Mutable(f).Message(), d)
	case inlines:
		for _, v := range values {
			if err := setInline(m.Mutable(f).List().AppendMutable().Message(), v, now); err != nil {
				return err
			}
		}
	case labels:
		return setLabels(m.Mutable(f).Message(), values)
	case patchLabels:
		return setLabels(child(child(m.Mutable(f).Message(), "patch"), "update"), values)
	case removeLabels:
		patch := child(m.Mutable(f).Message(), "patch")
		return appendScalars(patch, patch.Descriptor().Fields().ByName("remove"), values)
	}
	return nil
}

func child(m protoreflect.Message, name protoreflect.Name) protoreflect.Message {
	return m.Mutable(m.Descriptor().Fields().ByName(name)).Message()
}

func setLabels(m protoreflect.Message, values []string) error {
	f := m.Descriptor().Fields().ByName("labels")
	return setPairs(m.Mutable(f).Map(), f, values)
}

// split separates a value at its commas. A value with a space, such as an ssh
// key, or one that names a file is taken whole.
func split(v string) []string {
	if strings.ContainsAny(v, " \n") || strings.HasPrefix(v, "@") {
		return []string{v}
	}
	return strings.Split(v, ",")
}

func appendScalars(m protoreflect.Message, f protoreflect.FieldDescriptor, values []string) error {
	l := m.Mutable(f).List()
	for _, v := range values {
		for _, s := range split(v) {
			if s == "" {
				continue
			}
			e, err := parseScalar(f, s)
			if err != nil {
				return err
			}
			l.Append(e)
		}
	}
	return nil
}

func setPairs(to protoreflect.Map, f protoreflect.FieldDescriptor, values []string) error {
	for _, v := range values {
		for _, s := range split(v) {
			k, val, ok := strings.Cut(s, "=")
			if !ok || k == "" {
				return fmt.Errorf("%q is not key=value", s)
			}
			key, err := parseScalar(f.MapKey(), k)
			if err != nil {
				return err
			}
			if f.MapValue().Message() != nil {
				if err := setInline(to.Mutable(key.MapKey()).Message(), val, time.Now()); err != nil {
					return err
				}
				continue
			}
			e, err := parseScalar(f.MapValue(), val)
			if err != nil {
				return err
			}
			to.Set(key.MapKey(), e)
		}
	}
	return nil
}

// setInline fills a message from "{json}", from "name=value,name=value", where
// names may be dotted and repeated, or from one bare value for its first field.
func setInline(m protoreflect.Message, s string, now time.Time) error {
	if strings.HasPrefix(s, "@") {
		var err error
		if s, err = fromFile(s); err != nil {
			return err
		}
	}
	if strings.HasPrefix(strings.TrimSpace(s), "{") {
		into := m.New().Interface()
		if err := protojson.Unmarshal([]byte(s), into); err != nil {
			return err
		}
		proto.Merge(m.Interface(), into)
		return nil
	}
	for i, part := range strings.Split(s, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			if i > 0 {
				return fmt.Errorf("%q is not name=value; names are %s", part, inlineUsage(m.Descriptor()))
			}
			name, value = string(m.Descriptor().Fields().Get(0).Name()), part
		}
		if err := setDotted(m, name, value, now); err != nil {
			return err
		}
	}
	return nil
}

func setDotted(m protoreflect.Message, name, value string, now time.Time) error {
	head, rest, nested := strings.Cut(name, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(strings.ReplaceAll(head, "-", "_")))
	switch {
	case f == nil:
		return fmt.Errorf("there is no %q; names are %s", head, inlineUsage(m.Descriptor()))
	case nested && f.Message() != nil && !f.IsList() && !f.IsMap():
		return setDotted(m.Mutable(f).Message(), rest, value, now)
	case nested:
		return fmt.Errorf("%q has no fields", head)
	}
	for _, p := range []struct {
		is   bool
		kind kind
	}{
		{f.IsMap(), pairs}, {f.Message() == nil && f.IsList(), scalars}, {f.Message() == nil, scalar}, {f.IsList(), inlines},
		{f.Message() != nil && f.Message().FullName() == timestampName, moment},
		{f.Message() != nil && f.Message().FullName() == durationName, span},
	} {
		if p.is {
			return param{name, []protoreflect.FieldDescriptor{f}, p.kind}.set(m, []string{value}, now)
		}
	}
	return fmt.Errorf("%q has fields of its own: write %s.NAME=VALUE or give JSON", name, name)
}

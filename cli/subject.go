package cli

import (
	"google.golang.org/protobuf/reflect/protoreflect"
)

// scopes are fields that say where to look, not what for.
var scopes = map[string]bool{"project": true, "login": true, "partition": true, "tenant": true, "queue": true, "namespace": true}

// prose are fields that nobody would expect as an argument.
var prose = map[string]bool{"description": true, "reason": true, "name": true}

// subjectOf returns the field that a verb takes as its argument: what it is
// about. It is nil for verbs that create, and for most that list.
func subjectOf(v *verb) *param {
	if v.name == "create" || v.name == "list" {
		return nil
	}
	for _, m := range v.methods() {
		if name := subjects[m.FullName()]; name != "" {
			return namedParam(m, name)
		}
		if p := payload(m.Output()); p != nil && (p.IsList() || p.IsMap()) {
			continue
		}
		if s := subjectOfMethod(m); s != nil {
			return s
		}
	}
	return nil
}

// namedParam returns the flag of that name, nil if there is none.
func namedParam(m protoreflect.MethodDescriptor, name string) *param {
	for _, p := range paramsOf(m) {
		if p.name == name {
			return &p
		}
	}
	return nil
}

func subjectOfMethod(m protoreflect.MethodDescriptor) *param {
	var scope *param
	for _, p := range paramsOf(m) {
		f := p.field()
		if p.kind != scalar || f.Kind() != protoreflect.StringKind || f.HasOptionalKeyword() || prose[p.name] {
			continue
		}
		if len(p.path) > 1 && (!wraps(m, p.path[0]) || f != identityField(p.path[0].Message())) {
			continue // of a resource that the request wraps, only what names it
		}
		if !scopes[p.name] {
			return &p
		}
		if scope == nil {
			scope = &p
		}
	}
	return scope
}

// required returns the scopes that a method cannot do without: single text
// fields that are not marked optional, outside of queries.
func required(m protoreflect.MethodDescriptor) []string {
	var out []string
	for _, p := range paramsOf(m) {
		if scopes[p.name] && p.kind == scalar && !p.field().HasOptionalKeyword() {
			out = append(out, p.name)
		}
	}
	return out
}

package api

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

type protoName = protoreflect.Name

// A filter says whether a message matches a query. A query without a value
// matches everything.
//
// Each field of the query that is set must match the field of the message that
// has the same name: a scalar is equal, a list contains every value of the
// query's, a message matches as a whole by these rules. A query's labels are
// those that must be in the message's Meta.
type filter[Q, M proto.Message] struct {
	own map[protoName]func(Q, M) bool
}

// newFilter returns a filter. The fields in own match by a function of their
// own, or, if it is nil, match everything, because the caller looks after them.
// newFilter panics if another field of the query has no counterpart in the
// message: filters are package-level variables, so a wrong one never starts.
func newFilter[Q, M proto.Message](own map[protoName]func(Q, M) bool) filter[Q, M] {
	var q Q
	var m M
	skip := map[protoName]bool{}
	for name := range own {
		skip[name] = true
	}
	mustMatch(q.ProtoReflect().Descriptor(), m.ProtoReflect().Descriptor(), skip)
	return filter[Q, M]{own}
}

func mustMatch(q, m protoreflect.MessageDescriptor, skip map[protoName]bool) {
	for i := range q.Fields().Len() {
		f := q.Fields().Get(i)
		if skip[f.Name()] || isLabels(f) && m.Fields().ByName("meta") != nil {
			continue
		}
		c := m.Fields().ByName(f.Name())
		switch {
		case c == nil, c.Kind() != f.Kind(), c.IsList() != f.IsList(), c.IsMap() || f.IsMap():
			panic(fmt.Sprintf("api: field %s of %s has no counterpart in %s", f.Name(), q.FullName(), m.FullName()))
		case f.Message() != nil && f.IsList():
			panic(fmt.Sprintf("api: field %s of %s is a list of messages", f.Name(), q.FullName()))
		case f.Message() != nil:
			mustMatch(f.Message(), c.Message(), nil)
		}
	}
}

func isLabels(f protoreflect.FieldDescriptor) bool {
	return f.Name() == "labels" && f.Message() != nil && f.Message().FullName() == (&apiv2.Labels{}).ProtoReflect().Descriptor().FullName()
}

// match reports whether m matches q, which may be nil.
func (f filter[Q, M]) match(q Q, m M) bool {
	query := q.ProtoReflect()
	if !query.IsValid() {
		return true
	}
	for name, own := range f.own {
		fd := query.Descriptor().Fields().ByName(name)
		if own != nil && query.Has(fd) && !own(q, m) {
			return false
		}
	}
	return matches(query, m.ProtoReflect(), func(name protoName) bool { _, own := f.own[name]; return own })
}

func matches(q, m protoreflect.Message, skip func(protoName) bool) bool {
	ok := true
	q.Range(func(f protoreflect.FieldDescriptor, want protoreflect.Value) bool {
		if !skip(f.Name()) {
			ok = matchesField(f, want, m)
		}
		return ok
	})
	return ok
}

func matchesField(f protoreflect.FieldDescriptor, want protoreflect.Value, m protoreflect.Message) bool {
	fields := m.Descriptor().Fields()
	if meta := fields.ByName("meta"); isLabels(f) && meta != nil {
		has, _ := m.Get(meta).Message().Interface().(*apiv2.Meta)
		asked, _ := want.Message().Interface().(*apiv2.Labels)
		return hasLabels(has.GetLabels(), asked)
	}
	c := fields.ByName(f.Name())
	switch has := m.Get(c); {
	case f.IsList():
		return containsAll(has.List(), want.List())
	case f.Message() != nil:
		return m.Has(c) && matches(want.Message(), has.Message(), func(protoName) bool { return false })
	case c.HasPresence() && !m.Has(c):
		return false
	default:
		return has.Equal(want)
	}
}

func containsAll(has, want protoreflect.List) bool {
	for i := range want.Len() {
		found := false
		for j := range has.Len() {
			found = found || has.Get(j).Equal(want.Get(i))
		}
		if !found {
			return false
		}
	}
	return true
}

// hasLabels reports whether all labels asked for are there with their values.
func hasLabels(has, asked *apiv2.Labels) bool {
	for k, v := range asked.GetLabels() {
		if w, ok := has.GetLabels()[k]; !ok || v != w {
			return false
		}
	}
	return true
}

package cli

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A kindSpec says how objects of one message are read and written.
type kindSpec struct {
	name     string // "SizeReservation"
	message  protoreflect.MessageDescriptor
	describe *verb
	list     *verb
	create   *verb
	update   *verb
	put      *verb // creates or replaces; then there is neither create nor update
}

// kinds finds a kind by its message's or resource's name in lower case.
var kinds = sync.OnceValue(func() map[string]*kindSpec {
	out := map[string]*kindSpec{}
	add := func(k *kindSpec, resource string) {
		k.name = string(k.message.Name())
		out[strings.ToLower(k.name)] = k
		if resource != "" {
			out[resource] = k
		}
	}
	for _, r := range load() {
		if r.message == nil {
			continue
		}
		k := newKind(r)
		if k.create != nil && k.update != nil && k.describe != nil && nameable(k) {
			add(k, r.name)
		}
		for _, v := range r.sortedVerbs() {
			m := v.methods()[0]
			if m.Name() != "Put" {
				continue
			}
			k := &kindSpec{message: payload(m.Output()).Message(), put: v}
			name := ""
			for _, get := range r.sortedVerbs() {
				if g := get.methods()[0]; g.Parent() == m.Parent() && g.Name() == "Get" {
					k.describe = get
				}
			}
			if k.message == r.message {
				name = r.name
			}
			add(k, name)
		}
	}
	return out
})

// nameable reports whether an object can be found again by what a document
// says: by its id or its name.
func nameable(k *kindSpec) bool {
	for _, m := range k.create.methods() {
		_, body := bodyOf(m)
		for _, n := range []protoreflect.Name{"id", "name", identityField(k.message).Name()} {
			if body.Fields().ByName(n) != nil {
				return true
			}
		}
	}
	return false
}

// bodyOf returns the field of a request that wraps the object to write, and
// the object's message: the request's own if nothing wraps it.
func bodyOf(m protoreflect.MethodDescriptor) (protoreflect.FieldDescriptor, protoreflect.MessageDescriptor) {
	fs := m.Input().Fields()
	for i := range fs.Len() {
		if f := fs.Get(i); f.Message() != nil && !f.IsList() && !f.IsMap() && wraps(m, f) {
			return f, f.Message()
		}
	}
	return nil, m.Input()
}

// kindNames returns the kinds a document may have.
func kindNames() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// kind says how objects of a resource are read and written.
func (r *resource) kind() *kindSpec {
	if k := kinds()[r.name]; k != nil {
		return k
	}
	return newKind(r)
}

func newKind(r *resource) *kindSpec {
	return &kindSpec{
		name: string(r.message.Name()), message: r.message,
		describe: r.verbs["describe"], list: r.verbs["list"], create: r.verbs["create"], update: r.verbs["update"],
	}
}

// applicable reports whether documents of the resource can be applied.
func (r *resource) applicable() bool { return kinds()[r.name] != nil }

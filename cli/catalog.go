package cli

import (
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// The commands are derived from the services these packages register.
	_ "github.com/ingot-cloud/ingot/proto/ingot/v1"
	_ "github.com/metal-stack/api/go/metalstack/admin/v2"
	_ "github.com/metal-stack/api/go/metalstack/infra/v2"
)

// A resource is what a person names on the command line: one or more services
// that are about the same thing.
type resource struct {
	name    string                         // "size-reservation"
	message protoreflect.MessageDescriptor // what it is on the wire; nil if its services have none
	verbs   map[string]*verb
}

// A verb is one thing that can be done to a resource. Two methods may do it:
// one for members of a project or tenant, one for operators. At least one is
// set.
type verb struct {
	resource *resource
	name     string
	member   protoreflect.MethodDescriptor
	operator protoreflect.MethodDescriptor
}

// methods returns the one or two methods behind the verb.
func (v *verb) methods() []protoreflect.MethodDescriptor {
	return slices.DeleteFunc([]protoreflect.MethodDescriptor{v.member, v.operator}, func(m protoreflect.MethodDescriptor) bool { return m == nil })
}

// sortedVerbs returns the verbs in the order of their names.
func (r *resource) sortedVerbs() []*verb {
	out := make([]*verb, 0, len(r.verbs))
	for _, v := range r.verbs {
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// catalog is every resource by name.
type catalog map[string]*resource

// load walks the linked services once.
var load = sync.OnceValue(func() catalog {
	c := catalog{}
	for _, m := range methods() {
		if forPrograms(m) || elsewhere[m.FullName()] != "" {
			continue
		}
		noun, word := words(m)
		r := c[noun]
		if r == nil {
			r = &resource{name: noun, verbs: map[string]*verb{}}
			c[noun] = r
		}
		v := r.verbs[word]
		if v == nil {
			v = &verb{resource: r, name: word}
			r.verbs[word] = v
		}
		if forOperators(m) {
			v.operator = m
		} else {
			v.member = m
		}
	}
	for _, r := range c {
		r.message = messageOf(r)
	}
	return c
})

// methods returns every method of the API that is linked in, sorted by name.
func methods() []protoreflect.MethodDescriptor {
	var out []protoreflect.MethodDescriptor
	for _, p := range []protoreflect.FullName{"metalstack.api.v2", "metalstack.admin.v2", "metalstack.infra.v2", "ingot.v1"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(p, func(f protoreflect.FileDescriptor) bool {
			for i := range f.Services().Len() {
				s := f.Services().Get(i)
				for j := range s.Methods().Len() {
					out = append(out, s.Methods().Get(j))
				}
			}
			return true
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].FullName() < out[j].FullName() })
	return out
}

// forPrograms reports whether only infrastructure or a booting machine may
// call the method. A person reaches it with 'ingot call'.
func forPrograms(m protoreflect.MethodDescriptor) bool {
	o := m.Options()
	if !proto.HasExtension(o, apiv2.E_InfraRoles) && !proto.HasExtension(o, apiv2.E_MachineRoles) {
		return false
	}
	return !proto.HasExtension(o, apiv2.E_AdminRoles) && !proto.HasExtension(o, apiv2.E_ProjectRoles) &&
		!proto.HasExtension(o, apiv2.E_TenantRoles) && !proto.HasExtension(o, apiv2.E_Visibility)
}

func forOperators(m protoreflect.MethodDescriptor) bool {
	return proto.HasExtension(m.Options(), apiv2.E_AdminRoles)
}

// words returns the resource and the verb of a method.
func words(m protoreflect.MethodDescriptor) (noun, word string) {
	if g, ok := grafts[m.FullName()]; ok {
		noun, word, _ = strings.Cut(g, " ")
		return noun, word
	}
	noun = kebab(strings.TrimSuffix(string(m.Parent().Name()), "Service"))
	word = kebab(string(m.Name()))
	if word == "get" {
		word = "describe"
	}
	return noun, word
}

// messageOf finds the message a resource is made of: what Get returns, or what
// List returns many of, or what any other method returns first.
func messageOf(r *resource) protoreflect.MessageDescriptor {
	order := append([]string{"describe", "list", "create"}, names(r.sortedVerbs())...)
	for _, name := range order {
		v := r.verbs[name]
		if v == nil {
			continue
		}
		for _, m := range v.methods() {
			if f := payload(m.Output()); f != nil && f.Message() != nil && !f.IsMap() {
				return f.Message()
			}
		}
	}
	return nil
}

func names(vs []*verb) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = v.name
	}
	return out
}

// payload returns the field of a response that carries what was asked for: a
// list or a map that comes first, or a message that comes alone; nil if the
// response as a whole is the answer.
func payload(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if m.Fields().Len() == 0 {
		return nil
	}
	f := m.Fields().Get(0)
	if f.IsList() || f.IsMap() || (m.Fields().Len() == 1 && f.Message() != nil && !wellKnown(f.Message())) {
		return f
	}
	return nil
}

func wellKnown(m protoreflect.MessageDescriptor) bool {
	return strings.HasPrefix(string(m.FullName()), "google.protobuf.")
}

// kebab turns SizeReservation, BMCCommand or boot_vni into size-reservation,
// bmc-command and boot-vni.
func kebab(s string) string {
	var b strings.Builder
	rs := []rune(s)
	for i, r := range rs {
		switch {
		case r == '_':
			b.WriteByte('-')
		case unicode.IsUpper(r):
			starts := i > 0 && (unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]) ||
				(unicode.IsUpper(rs[i-1]) && i+1 < len(rs) && unicode.IsLower(rs[i+1])))
			if starts {
				b.WriteByte('-')
			}
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

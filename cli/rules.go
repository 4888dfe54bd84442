package cli

import (
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// plainRules are rules that say nothing a person would not expect.
var plainRules = map[string]bool{
	"name": true, "description": true, "partition": true, "trimmed": true, "all trimmed": true, "keys trimmed": true,
	"keys and values trimmed": true, "key": true, "user": true, "tenant login": true, "prefixes": true, "ips": true,
}

var ruleWords = strings.NewReplacer(
	"gte ", "at least ", "gt ", "more than ", "lte ", "at most ", "lt ", "less than ",
	"min len ", "length at least ", "max len ", "length at most ", "min items ", "at least ", "max items ", "at most ",
)

// rulesOf says in words which values a field takes, as far as its validation
// rules say so: "uuid", "ip prefix", "at most 128".
func rulesOf(f protoreflect.FieldDescriptor) string {
	if !proto.HasExtension(f.Options(), validate.E_Field) {
		return ""
	}
	rules := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules).ProtoReflect()
	var words []string
	collect(rules, &words)
	words = slices.DeleteFunc(words, func(w string) bool { return plainRules[w] })
	return ruleWords.Replace(strings.Join(words, ", "))
}

// collect walks the rules: a true flag is its name, a bound its name and
// value. Lists and patterns are left out.
func collect(m protoreflect.Message, words *[]string) {
	fs := m.Descriptor().Fields()
	for i := range fs.Len() {
		f := fs.Get(i)
		if !m.Has(f) || f.IsList() || f.IsMap() {
			continue
		}
		name := strings.ReplaceAll(string(f.Name()), "_", " ")
		switch {
		case f.Message() != nil && wellKnown(f.Message()):
			*words = append(*words, name+" "+format(m.Get(f), f, "", timeZero).text)
		case f.Message() != nil:
			collect(m.Get(f).Message(), words)
		case f.Name() == "defined_only" || f.Name() == "ignore" || f.Name() == "pattern":
		case f.Kind() == protoreflect.BoolKind:
			if m.Get(f).Bool() {
				*words = append(*words, name)
			}
		default:
			*words = append(*words, name+" "+format(m.Get(f), f, "", timeZero).text)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsExtension() && f.Kind() == protoreflect.BoolKind && v.Bool() {
			*words = append(*words, strings.ReplaceAll(strings.TrimPrefix(string(f.Name()), "is_"), "_", " "))
		}
		return true
	})
}

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/fault"
)

// A document is one object of a file.
type document struct {
	source string // "networks.yaml:12"
	kind   string // lower case; empty if it does not say
	body   map[string]any
}

// readDocuments reads files, directories (*.yaml, *.yml, *.json in order of
// their names) and, for "-", the standard input. A file holds any number of
// YAML documents; each is an object or a list of objects.
func readDocuments(paths []string, stdin io.Reader) ([]document, error) {
	var out []document
	for _, p := range paths {
		files := []string{p}
		if info, err := os.Stat(p); p != "-" && err == nil && info.IsDir() {
			entries, err := os.ReadDir(p)
			if err != nil {
				return nil, err
			}
			files = nil
			for _, e := range entries {
				if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
					files = append(files, filepath.Join(p, e.Name()))
				}
			}
		}
		for _, f := range files {
			docs, err := readFile(f, stdin)
			if err != nil {
				return nil, err
			}
			out = append(out, docs...)
		}
	}
	if len(out) == 0 {
		return nil, fault.New(fault.Invalid, strings.Join(paths, " "), "holds no object", "")
	}
	return out, nil
}

func readFile(path string, stdin io.Reader) ([]document, error) {
	if path == "-" {
		return parseDocuments("stdin", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseDocuments(path, f)
}

func parseDocuments(name string, r io.Reader) ([]document, error) {
	var out []document
	for d := yaml.NewDecoder(r); ; {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fault.Wrap(fault.Invalid, name, "not YAML", err)
		}
		if len(n.Content) == 0 {
			continue
		}
		nodes := []*yaml.Node{n.Content[0]}
		if nodes[0].Kind == yaml.SequenceNode {
			nodes = nodes[0].Content
		}
		for _, n := range nodes {
			doc := document{source: fmt.Sprintf("%s:%d", name, n.Line)}
			if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
				continue
			}
			if n.Kind != yaml.MappingNode {
				return nil, fault.New(fault.Invalid, doc.source, "not an object", "write fields as NAME: VALUE")
			}
			if err := n.Decode(&doc.body); err != nil {
				return nil, fault.Wrap(fault.Invalid, doc.source, "not an object", err)
			}
			kind, _ := doc.body["kind"].(string)
			doc.kind = strings.ToLower(kind)
			delete(doc.body, "kind")
			out = append(out, doc)
		}
	}
}

// fieldOf finds a field by its name in JSON or in the proto file.
func fieldOf(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if d == nil {
		return nil
	}
	if f := d.Fields().ByJSONName(name); f != nil {
		return f
	}
	return d.Fields().ByName(protoreflect.Name(name))
}

// valueOf returns what a document says about a field, by either name.
func (d document) valueOf(f protoreflect.FieldDescriptor) (any, bool) {
	if v, ok := d.body[f.JSONName()]; ok {
		return v, true
	}
	v, ok := d.body[string(f.Name())]
	return v, ok
}

// text returns what a document says about a field of text, or "".
func (d document) text(f protoreflect.FieldDescriptor) string {
	if f == nil {
		return ""
	}
	v, _ := d.valueOf(f)
	switch x := v.(type) {
	case string:
		return x
	case map[string]any: // the whole object where its id is meant
		for _, n := range []string{"id", "uuid"} {
			if s, ok := x[n].(string); ok {
				return s
			}
		}
	}
	return ""
}

// labels returns the labels of a document: of "labels", or of "meta" as the
// API returns them.
func (d document) labels() (any, bool) {
	if l, ok := d.body["labels"]; ok {
		return l, true
	}
	meta, _ := d.body["meta"].(map[string]any)
	l, ok := meta["labels"]
	return l, ok
}

// decode reads what a document says about a field into a message.
func decode(into protoreflect.Message, f protoreflect.FieldDescriptor, v any) error {
	j, err := json.Marshal(map[string]any{string(f.Name()): fieldJSON(f, v)})
	if err != nil {
		return err
	}
	one := into.New()
	if err := protojson.Unmarshal(j, one.Interface()); err != nil {
		return fmt.Errorf("%s: %s", f.Name(), strings.TrimPrefix(oneLine(err.Error()), "proto: "))
	}
	if one.Has(f) {
		into.Set(f, one.Get(f))
	}
	return nil
}

// fieldJSON turns what people write for a field into what protojson reads:
// enums by their word, durations and times in the forms of the flags, labels
// without a message around them, an object where its id is meant.
func fieldJSON(f protoreflect.FieldDescriptor, v any) any {
	if m, ok := v.(map[string]any); ok && f.IsMap() {
		out := map[string]any{}
		for k, e := range m {
			out[k] = elementJSON(f.MapValue(), e)
		}
		return out
	}
	if l, ok := v.([]any); ok && f.IsList() {
		out := make([]any, len(l))
		for i, e := range l {
			out[i] = elementJSON(f, e)
		}
		return out
	}
	return elementJSON(f, v)
}

func elementJSON(f protoreflect.FieldDescriptor, v any) any {
	if t, ok := v.(time.Time); ok { // YAML knows times
		return t.UTC().Format(time.RFC3339Nano)
	}
	switch s := v.(type) {
	case string:
		switch {
		case f.Enum() != nil:
			if n, err := parseEnum(f.Enum(), s); err == nil {
				return int32(n)
			}
		case f.Message() != nil && f.Message().FullName() == durationName:
			if d, err := parseDuration(s); err == nil {
				return fmt.Sprintf("%.9fs", d.Seconds())
			}
		}
	case map[string]any:
		switch {
		case f.Message() == nil:
			for _, n := range []string{"id", "uuid"} {
				if id, ok := s[n]; ok {
					return id
				}
			}
		case f.Message().FullName() == labelsName:
			if _, wrapped := s["labels"].(map[string]any); !wrapped {
				return map[string]any{"labels": s}
			}
		case !wellKnown(f.Message()):
			out := map[string]any{}
			for k, e := range s {
				if sub := fieldOf(f.Message(), k); sub != nil {
					e = fieldJSON(sub, e)
				}
				out[k] = e
			}
			return out
		}
	}
	return v
}

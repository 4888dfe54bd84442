package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	v, err := fieldJSON(f, v)
	if err != nil {
		return fault.New(fault.Invalid, string(f.Name()), err.Error(), "")
	}
	j, err := json.Marshal(map[string]any{string(f.Name()): v})
	if err != nil {
		return err
	}
	one := into.New()
	if err := protojson.Unmarshal(j, one.Interface()); err != nil {
		return fault.New(fault.Invalid, string(f.Name()), protoText.ReplaceAllString(oneLine(err.Error()), ""), "")
	}
	if one.Has(f) {
		into.Set(f, one.Get(f))
	}
	return nil
}

// protoText is what protojson says about a text that nobody wrote.
var protoText = regexp.MustCompile(`^proto:\s*|\(line \d+:\d+\): `)

// fieldJSON turns what people write for a field into what protojson reads:
// enums by their word, durations and times in the forms of the flags, labels
// without a message around them, an object where its id is meant.
func fieldJSON(f protoreflect.FieldDescriptor, v any) (any, error) {
	if m, ok := v.(map[string]any); ok && f.IsMap() {
		out := map[string]any{}
		for k, e := range m {
			var err error
			if out[k], err = elementJSON(f.MapValue(), e); err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
		}
		return out, nil
	}
	if l, ok := v.([]any); ok && f.IsList() {
		out := make([]any, len(l))
		for i, e := range l {
			var err error
			if out[i], err = elementJSON(f, e); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return elementJSON(f, v)
}

func elementJSON(f protoreflect.FieldDescriptor, v any) (any, error) {
	switch s := v.(type) {
	case time.Time: // YAML knows times
		return s.UTC().Format(time.RFC3339Nano), nil
	case int: // a word of digits, as 8300 for a GPT type
		if f.Enum() != nil {
			n, err := parseEnum(f.Enum(), strconv.Itoa(s))
			return int32(n), err
		}
	case string:
		switch {
		case f.Enum() != nil:
			n, err := parseEnum(f.Enum(), s)
			return int32(n), err
		case f.Message() != nil && f.Message().FullName() == durationName:
			d, err := parseDuration(s)
			return fmt.Sprintf("%.9fs", d.Seconds()), err
		}
	case map[string]any:
		return objectJSON(f, s)
	}
	return v, nil
}

func objectJSON(f protoreflect.FieldDescriptor, v map[string]any) (any, error) {
	switch {
	case f.Message() == nil:
		for _, n := range []string{"id", "uuid"} {
			if id, ok := v[n]; ok {
				return id, nil
			}
		}
		return v, nil
	case f.Message().FullName() == labelsName:
		if _, wrapped := v["labels"].(map[string]any); !wrapped {
			return map[string]any{"labels": v}, nil
		}
		return v, nil
	case wellKnown(f.Message()):
		return v, nil
	}
	out := map[string]any{}
	for k, e := range v {
		if sub := fieldOf(f.Message(), k); sub != nil {
			var err error
			if e, err = fieldJSON(sub, e); err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
		}
		out[k] = e
	}
	return out, nil
}

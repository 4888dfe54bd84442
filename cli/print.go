package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// formats are the values of --output.
var formats = []string{"table", "wide", "json", "yaml", "template", "name"}

// A printer writes answers the way the caller asked for.
type printer struct {
	to        io.Writer
	width     int    // of the terminal; 0 if it is none
	format    string // one of formats, or empty: a table for many, YAML for one
	template  string
	noHeaders bool
	sortBy    string
	filters   []string
	now       time.Time
}

// entries returns what a list or map holds as rows to print.
func entries(v protoreflect.Value, f protoreflect.FieldDescriptor) []row {
	var out []row
	wrap := func(e protoreflect.Value, f protoreflect.FieldDescriptor) protoreflect.Message {
		if f.Message() != nil {
			return e.Message()
		}
		return wrapperspb.String(format(e, f, "", time.Time{}).text).ProtoReflect()
	}
	if f.IsMap() {
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out = append(out, row{key: k.String(), of: wrap(e, f.MapValue())})
			return true
		})
		slices.SortFunc(out, func(a, b row) int { return strings.Compare(a.key, b.key) })
		return out
	}
	for i := range v.List().Len() {
		out = append(out, row{of: wrap(v.List().Get(i), f)})
	}
	return out
}

// elementOf returns the message of the elements of a list or map.
func elementOf(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if f.IsMap() {
		f = f.MapValue()
	}
	if f.Message() != nil {
		return f.Message()
	}
	return (&wrapperspb.StringValue{}).ProtoReflect().Descriptor()
}

// arrange lays messages out, filters and sorts them.
func (p *printer) arrange(d protoreflect.MessageDescriptor, items []row, keyed bool) (layout, []row, error) {
	l := layoutOf(d, keyed)
	keys, err := l.sortKeys(p.sortBy, d)
	if err != nil {
		return l, nil, err
	}
	var filters []filter
	for _, text := range p.filters {
		f, err := l.filterOf(text, d)
		if err != nil {
			return l, nil, err
		}
		filters = append(filters, f)
	}
	rows := l.rows(items, p.now)
	var kept []row
	for _, r := range rows {
		keep := true
		for _, f := range filters {
			ok, err := f.keeps(r, p.now)
			if err != nil {
				return l, nil, err
			}
			keep = keep && ok
		}
		if keep {
			kept = append(kept, r)
		}
	}
	sortRows(kept, keys)
	return l, kept, nil
}

// many prints a list.
func (p *printer) many(d protoreflect.MessageDescriptor, items []row, keyed bool) error {
	l, rows, err := p.arrange(d, items, keyed)
	if err != nil {
		return err
	}
	switch p.format {
	case "", "table", "wide":
		return p.table(l, rows)
	case "name":
		for _, r := range whole(rows) {
			fmt.Fprintln(p.to, nameOf(r))
		}
		return nil
	case "template":
		for _, r := range whole(rows) {
			if err := p.execute(r.of); err != nil {
				return err
			}
		}
		return nil
	}
	var b bytes.Buffer
	open, end := "[", "]"
	if keyed {
		open, end = "{", "}"
	}
	b.WriteString(open)
	for i, r := range whole(rows) {
		if i > 0 {
			b.WriteByte(',')
		}
		if keyed {
			k, err := json.Marshal(r.key)
			if err != nil {
				return err
			}
			b.Write(append(k, ':'))
		}
		j, err := protojson.Marshal(r.of.Interface())
		if err != nil {
			return err
		}
		b.Write(j)
	}
	b.WriteString(end)
	return p.document(b.Bytes())
}

// whole drops rows that are further elements of a message already seen.
func whole(rows []row) []row {
	seen := map[protoreflect.Message]bool{}
	var out []row
	for _, r := range rows {
		if !seen[r.of] {
			seen[r.of] = true
			out = append(out, r)
		}
	}
	return out
}

func nameOf(r row) string {
	if r.key != "" {
		return r.key
	}
	if id := identity(r.of); id != "" {
		return id
	}
	if f := r.of.Descriptor().Fields().ByName("value"); f != nil {
		return r.of.Get(f).String()
	}
	return ""
}

// one prints a single message.
func (p *printer) one(m protoreflect.Message) error {
	switch p.format {
	case "table", "wide", "name", "template":
		return p.many(m.Descriptor(), []row{{of: m}}, false)
	}
	j, err := protojson.Marshal(m.Interface())
	if err != nil {
		return err
	}
	return p.document(j)
}

// document prints JSON as it is asked for: indented, or as YAML with the
// fields in the same order.
func (p *printer) document(j []byte) error {
	if p.format == "json" {
		var b bytes.Buffer
		if err := json.Indent(&b, j, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
		_, err := b.WriteTo(p.to)
		return err
	}
	y, err := toYAML(j)
	if err != nil {
		return err
	}
	_, err = p.to.Write(y)
	return err
}

// toYAML writes JSON as block style YAML and keeps the order of the fields.
func toYAML(j []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(j, &n); err != nil {
		return nil, err
	}
	var plain func(*yaml.Node)
	plain = func(n *yaml.Node) {
		n.Style = 0
		for _, c := range n.Content {
			plain(c)
		}
	}
	plain(&n)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// compact removes the white space that protojson varies on purpose.
func compact(j []byte) []byte {
	var b bytes.Buffer
	if err := json.Compact(&b, j); err != nil {
		return j
	}
	return b.Bytes()
}

// execute runs the Go template over the message's JSON. A message that is not
// set is nil there: use "with".
func (p *printer) execute(m protoreflect.Message) error {
	t, err := template.New("").Parse(p.template)
	if err != nil {
		return usagef("--template: %v", err)
	}
	j, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m.Interface())
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err
	}
	if err := t.Execute(p.to, v); err != nil {
		return usagef("--template: %v", err)
	}
	_, err = fmt.Fprintln(p.to)
	return err
}

// table prints rows under headers, cut to the width of a terminal.
func (p *printer) table(l layout, rows []row) error {
	lines := make([][]string, 0, len(rows)+1)
	if !p.noHeaders {
		lines = append(lines, p.shownHeaders(l))
	}
	for _, r := range rows {
		lines = append(lines, p.shown(l, r))
	}
	return p.lines(lines, widths(lines, p.width))
}

// shows reports whether a column is printed.
func (p *printer) shows(c column) bool { return !c.hidden && (p.format == "wide" || !c.wide) }

func (p *printer) shownHeaders(l layout) []string {
	var out []string
	for _, c := range l.columns {
		if p.shows(c) {
			out = append(out, c.header)
		}
	}
	return out
}

// shown returns the texts of the cells that are printed.
func (p *printer) shown(l layout, r row) []string {
	var out []string
	for i, c := range l.columns {
		if p.shows(c) {
			out = append(out, r.cells[i].text)
		}
	}
	return out
}

func (p *printer) lines(lines [][]string, width []int) error {
	var b strings.Builder
	for _, line := range lines {
		var s strings.Builder
		for i, text := range line {
			text = cut(text, width[i])
			s.WriteString(text)
			s.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(text)+2))
		}
		b.WriteString(strings.TrimRight(s.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(p.to, b.String())
	return err
}

// widths returns the width of each column so that a line fits into total
// characters, if it can: the widest columns but the first give way.
func widths(lines [][]string, total int) []int {
	const least = 8
	if len(lines) == 0 {
		return nil
	}
	out := make([]int, len(lines[0]))
	sum := -2
	for i := range out {
		for _, line := range lines {
			out[i] = max(out[i], utf8.RuneCountInString(line[i]))
		}
		sum += out[i] + 2
	}
	for total > 0 && sum > total {
		widest := 0
		for i := 1; i < len(out); i++ {
			if widest == 0 || out[i] > out[widest] {
				widest = i
			}
		}
		if widest == 0 || out[widest] <= least {
			break
		}
		out[widest]--
		sum--
	}
	return out
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// find returns the index of the column that a person means: by its header, or
// by a path of fields, which adds a column that is not printed.
func (l *layout) find(name string, m protoreflect.MessageDescriptor) (int, error) {
	for i, c := range l.columns {
		if strings.EqualFold(c.header, name) {
			return i, nil
		}
	}
	path := strings.Split(strings.ReplaceAll(name, "-", "_"), ".")
	if m.Fields().ByName(protoreflect.Name(path[0])) == nil {
		return 0, usagef("there is no column %q; columns are %s", name, strings.Join(l.headers(), ", "))
	}
	l.columns = append(l.columns, column{header: name, path: path, parent: l.each != nil, hidden: true})
	return len(l.columns) - 1, nil
}

// headers returns the names of all columns in lower case.
func (l *layout) headers() []string {
	var out []string
	for _, c := range l.columns {
		if !c.hidden {
			out = append(out, strings.ToLower(c.header))
		}
	}
	return out
}

// A key is one column to sort by.
type key struct {
	column int
	down   bool
}

// sortKeys understands "name,-age".
func (l *layout) sortKeys(text string, m protoreflect.MessageDescriptor) ([]key, error) {
	var out []key
	for name := range strings.SplitSeq(text, ",") {
		if name == "" {
			continue
		}
		name, down := strings.CutPrefix(name, "-")
		i, err := l.find(name, m)
		if err != nil {
			return nil, err
		}
		out = append(out, key{i, down})
	}
	return out, nil
}

func sortRows(rows []row, keys []key) {
	slices.SortStableFunc(rows, func(a, b row) int {
		for _, k := range keys {
			c := less(a.cells[k.column], b.cells[k.column])
			if k.down {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

// A filter keeps rows whose column compares as asked.
type filter struct {
	column int
	op     string
	value  string
	re     *regexp.Regexp // for ~ and !~
}

var filterExpr = regexp.MustCompile(`^([\w.@-]+?)\s*(!=|!~|>=|<=|=|~|>|<)\s*(.*)$`)

// filterOf understands "status=waiting", "image!=debian-12", "name~^web",
// "age>7d".
func (l *layout) filterOf(text string, m protoreflect.MessageDescriptor) (filter, error) {
	parts := filterExpr.FindStringSubmatch(text)
	if parts == nil {
		return filter{}, usagef("--filter %q is not COLUMN=VALUE; operators are = != ~ !~ > >= < <=", text)
	}
	i, err := l.find(parts[1], m)
	if err != nil {
		return filter{}, err
	}
	f := filter{column: i, op: parts[2], value: parts[3]}
	if strings.HasSuffix(f.op, "~") {
		if f.re, err = regexp.Compile(f.value); err != nil {
			return filter{}, usagef("--filter %q: %v", text, err)
		}
	}
	return f, nil
}

// keeps reports whether the row passes.
func (f filter) keeps(r row, now time.Time) (bool, error) {
	c := r.cells[f.column]
	switch f.op {
	case "~":
		return f.re.MatchString(c.text), nil
	case "!~":
		return !f.re.MatchString(c.text), nil
	case "=":
		return strings.EqualFold(c.text, f.value), nil
	case "!=":
		return !strings.EqualFold(c.text, f.value), nil
	}
	if c.text == "" {
		return false, nil // nothing is neither more nor less
	}
	want, err := f.bound(c, now)
	if err != nil {
		return false, err
	}
	n := less(c, want)
	switch f.op {
	case ">":
		return n > 0, nil
	case ">=":
		return n >= 0, nil
	case "<":
		return n < 0, nil
	default:
		return n <= 0, nil
	}
}

// bound reads the value to compare with in the unit of the cell.
func (f filter) bound(c cell, now time.Time) (cell, error) {
	want := cell{text: f.value, order: c.order}
	var err error
	switch c.order {
	case byNumber:
		want.number, err = strconv.ParseFloat(f.value, 64)
	case bySeconds:
		var d time.Duration
		d, err = parseDuration(f.value)
		want.number = d.Seconds()
	case byInstant:
		var t time.Time
		t, err = parseTime(f.value, now)
		want.number = float64(t.UnixNano())
	}
	if err != nil {
		return cell{}, usagef("--filter: %v", fmt.Errorf("%q cannot be compared with %q: %w", f.value, c.text, err))
	}
	return want, nil
}

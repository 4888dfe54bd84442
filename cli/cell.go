package cli

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A cell is one value of a table: as it is printed, and as it is ordered.
type cell struct {
	text   string
	number float64
	order  order
}

// order is what a cell is ordered by.
type order uint8

const (
	byText    order = iota
	byNumber        // of whatever unit
	bySeconds       // a duration or an age
	byInstant       // nanoseconds since 1970
)

// A row is one line of a table and the message behind it.
type row struct {
	key   string // of the map the message is from
	of    protoreflect.Message
	item  protoreflect.Message // the element of the layout's "each", or of
	cells []cell
}

// rows turns messages into rows with one cell for each column.
func (l layout) rows(of []row, now time.Time) []row {
	var out []row
	for _, r := range of {
		items := []protoreflect.Message{r.of}
		if l.each != nil {
			items = nil
			list := r.of.Get(l.each).List()
			for i := range list.Len() {
				items = append(items, list.Get(i).Message())
			}
		}
		for _, item := range items {
			n := row{key: r.key, of: r.of, item: item, cells: make([]cell, len(l.columns))}
			for i, c := range l.columns {
				n.cells[i] = c.cell(n, now)
			}
			out = append(out, n)
		}
	}
	return out
}

func (c column) cell(r row, now time.Time) cell {
	if c.path[0] == "@key" {
		return cell{text: r.key}
	}
	from := r.item
	if c.parent {
		from = r.of
	}
	var out []cell
	follow(protoreflect.ValueOfMessage(from), nil, c.path, func(v protoreflect.Value, f protoreflect.FieldDescriptor) {
		out = append(out, format(v, f, c.format, now))
	})
	switch len(out) {
	case 0:
		return cell{}
	case 1:
		return out[0]
	}
	texts := make([]string, 0, len(out))
	for _, o := range out {
		if o.text != "" {
			texts = append(texts, o.text)
		}
	}
	return cell{text: strings.Join(texts, ",")}
}

// follow calls found with every value at the end of the path. Unset messages,
// missing elements and unset optional fields lead nowhere.
func follow(v protoreflect.Value, f protoreflect.FieldDescriptor, path []string, found func(protoreflect.Value, protoreflect.FieldDescriptor)) {
	if len(path) == 0 {
		found(v, f)
		return
	}
	switch x := v.Interface().(type) {
	case protoreflect.Message:
		f := x.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
		if f == nil || (f.HasPresence() && !x.Has(f)) {
			return
		}
		follow(x.Get(f), f, path[1:], found)
	case protoreflect.List:
		if path[0] == "*" {
			for i := range x.Len() {
				follow(x.Get(i), f, path[1:], found)
			}
			return
		}
		if i, err := strconv.Atoi(path[0]); err == nil && i < x.Len() {
			follow(x.Get(i), f, path[1:], found)
		}
	case protoreflect.Map:
		if k := protoreflect.ValueOfString(path[0]).MapKey(); x.Has(k) {
			follow(x.Get(k), f.MapValue(), path[1:], found)
		}
	}
}

// format prints a value. f is its field; for an element of a list or map it is
// the list's or the map value's field.
func format(v protoreflect.Value, f protoreflect.FieldDescriptor, how string, now time.Time) cell {
	switch x := v.Interface().(type) {
	case protoreflect.Message:
		return formatMessage(x, how, now)
	case protoreflect.List:
		if how == "count" {
			return cell{strconv.Itoa(x.Len()), float64(x.Len()), byNumber}
		}
		texts := make([]string, x.Len())
		for i := range texts {
			texts[i] = format(x.Get(i), f, how, now).text
		}
		return cell{text: strings.Join(texts, ",")}
	case protoreflect.Map:
		var texts []string
		x.Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			texts = append(texts, k.String()+"="+format(e, f.MapValue(), how, now).text)
			return true
		})
		sort.Strings(texts)
		return cell{text: strings.Join(texts, ",")}
	default:
		return formatScalar(v, f, how)
	}
}

func formatScalar(v protoreflect.Value, f protoreflect.FieldDescriptor, how string) cell {
	number := func(n float64, text string) cell {
		if how == "bytes" {
			if text = size(n); n == 0 {
				text = ""
			}
		}
		return cell{text, n, byNumber}
	}
	switch x := v.Interface().(type) {
	case protoreflect.EnumNumber:
		if d := f.Enum().Values().ByNumber(x); d != nil {
			return cell{text: enumWord(d)}
		}
		return cell{text: strconv.Itoa(int(x))}
	case int32, int64:
		return number(float64(v.Int()), strconv.FormatInt(v.Int(), 10))
	case uint32, uint64:
		return number(float64(v.Uint()), strconv.FormatUint(v.Uint(), 10))
	case float32, float64:
		return number(v.Float(), strconv.FormatFloat(v.Float(), 'f', -1, 32))
	case []byte:
		return cell{text: base64.StdEncoding.EncodeToString(x)}
	default:
		return cell{text: strings.Join(strings.Fields(fmt.Sprint(x)), " ")}
	}
}

// formatMessage prints a message in a cell: times and durations as such,
// labels as key=value, a resource by its id, anything else by its fields.
func formatMessage(m protoreflect.Message, how string, now time.Time) cell {
	switch m.Descriptor().FullName() {
	case timestampName:
		t := timeOf(m)
		if how != "age" {
			return cell{t.UTC().Format(time.RFC3339), float64(t.UnixNano()), byInstant}
		}
		if t.After(now) {
			return cell{"in " + short(t.Sub(now).Truncate(time.Second)), now.Sub(t).Seconds(), bySeconds}
		}
		return cell{short(now.Sub(t).Truncate(time.Second)), now.Sub(t).Seconds(), bySeconds}
	case durationName:
		d := durationOf(m)
		return cell{short(d), d.Seconds(), bySeconds}
	}
	fs := m.Descriptor().Fields()
	if fs.ByName("meta") != nil {
		if id := identity(m); id != "" {
			return cell{text: id}
		}
	}
	var texts []string
	for i := range fs.Len() {
		if f := fs.Get(i); m.Has(f) {
			texts = append(texts, format(m.Get(f), f, "", now).text)
		}
	}
	return cell{text: strings.Join(texts, " ")}
}

// identity returns what a resource is called in the API.
func identity(m protoreflect.Message) string {
	if f := identityField(m.Descriptor()); f != nil {
		return m.Get(f).String()
	}
	return ""
}

// identityField returns the field that names a resource.
func identityField(d protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if d == nil {
		return nil
	}
	for _, n := range []protoreflect.Name{"id", "ip", "uuid", "login", "size", "image", "partition", "secret"} {
		if f := d.Fields().ByName(n); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			return f
		}
	}
	return nil
}

// less orders two cells: numbers by size, texts by their letters and numbers
// ("m2" before "m10"), nothing before something.
func less(a, b cell) int {
	switch {
	case a.text == "" || b.text == "":
		return strings.Compare(a.text, b.text)
	case a.order != byText && a.order == b.order:
		return cmp.Compare(a.number, b.number)
	}
	return natural(a.text, b.text)
}

// natural compares texts so that runs of digits count as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := len(x) - len(y); c != 0 {
				return c
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

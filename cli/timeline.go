package cli

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const timelineName = protoreflect.FullName("ingot.v1.Timeline")

var timeZero time.Time

// timeline prints what happened to a machine and, below, what it waits for,
// for how much longer, what a person can do, and which signs of progress were
// seen and which are missing.
func (p *printer) timeline(m protoreflect.Message) error {
	p.format = "table"
	if err := p.one(m); err != nil {
		return err
	}
	at := func(path ...string) string {
		return column{path: path}.cell(row{of: m, item: m}, p.now).text
	}
	age := func(path ...string) string {
		return column{path: path, format: "age"}.cell(row{of: m, item: m}, p.now).text
	}
	fmt.Fprintf(p.to, "\nphase:   %s", at("phase"))
	if since := age("phase_since"); since != "" {
		fmt.Fprintf(p.to, " for %s", since)
	}
	fmt.Fprintln(p.to)
	if what := at("waiting", "what"); what != "" {
		fmt.Fprintf(p.to, "waiting: for %s", what)
		if since := age("waiting", "since"); since != "" {
			fmt.Fprintf(p.to, ", since %s", since)
		}
		f := m.Descriptor().Fields().ByName("waiting")
		w := m.Get(f).Message()
		if o := w.Descriptor().Fields().ByName("overdue_at"); w.Has(o) {
			if left := timeOf(w.Get(o).Message()).Sub(p.now); left > 0 {
				fmt.Fprintf(p.to, ", for at most %s more", short(left))
			} else {
				fmt.Fprintf(p.to, ", overdue by %s", short(-left))
			}
		}
		fmt.Fprintln(p.to)
	}
	if remedy := at("waiting", "remedy"); remedy != "" {
		fmt.Fprintf(p.to, "do:      %s\n", remedy)
	}
	return p.signs(m)
}

// signs prints what should be seen of a machine while it waits.
func (p *printer) signs(m protoreflect.Message) error {
	w := m.Get(m.Descriptor().Fields().ByName("waiting")).Message()
	f := w.Descriptor().Fields().ByName("signs")
	list := w.Get(f).List()
	if list.Len() == 0 {
		return nil
	}
	var rows []row
	for i := range list.Len() {
		of := list.Get(i).Message()
		rows = append(rows, row{of: of, item: of})
	}
	fmt.Fprintln(p.to)
	signs := printer{to: p.to, now: p.now, format: "wide"} // what was chosen for the timeline is not for these
	return signs.many(f.Message(), rows, false)
}

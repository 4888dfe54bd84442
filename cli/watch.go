package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// watchable reports whether a resource's list can go on with changes: the
// server streams what its list returns.
func (r *resource) watchable() bool {
	list := payload(r.verbs["list"].methods()[0].Output())
	return r.message != nil && list != nil && list.Message() == r.message
}

// A watch is a list that goes on.
type watch struct {
	*call
	list    protoreflect.MethodDescriptor
	request protoreflect.Message
	layout  layout
	width   []int
}

// watchList prints a list and then, as they come, objects that change. If the
// server no longer knows what changed, the list is printed again.
func (k *call) watchList(ctx context.Context) error {
	given, err := k.given("")
	if err != nil {
		return err
	}
	for name := range given {
		if !scopes[name] || name == "partition" {
			return usagef("--%s does not go with --watch; use --filter", name)
		}
	}
	w := &watch{call: k}
	if w.list, err = k.method(given); err != nil {
		return err
	}
	if w.request, err = k.request(w.list, given); err != nil {
		return err
	}
	follow := client.Watch{Types: []string{string(k.verb.resource.message.FullName())}, List: w.all, Apply: w.change}
	if f := w.list.Input().Fields().ByName("project"); f != nil && w.request.Has(f) {
		follow.Project = w.request.Get(f).String()
	}
	if k.debug {
		follow.Lost = func(err error) { fmt.Fprintf(k.Err, "watch: %s\n", explain(err)) }
	}
	return k.caller.Watch(ctx, follow)
}

// all prints the list as it is now.
func (w *watch) all(ctx context.Context) (int64, error) {
	res, revision, err := w.caller.at(ctx, w.list, w.request)
	if err != nil {
		return 0, err
	}
	if revision == 0 {
		return 0, fault.New(fault.Unimplemented, w.verb.resource.name, "cannot be watched on this server", "")
	}
	w.print.now = w.now()
	f := payload(w.list.Output())
	l, rows, err := w.print.arrange(f.Message(), entries(res.Get(f), f), false)
	if err != nil {
		return 0, err
	}
	if !w.tabular() {
		for _, r := range whole(rows) {
			if err := w.object(r.of); err != nil {
				return 0, err
			}
		}
		return revision, nil
	}
	var lines [][]string
	if !w.print.noHeaders {
		lines = append(lines, append([]string{""}, w.print.shownHeaders(l)...))
	}
	for _, r := range rows {
		lines = append(lines, append([]string{""}, w.print.shown(l, r)...))
	}
	w.layout, w.width = l, widths(lines, w.print.width)
	if len(w.width) > 0 {
		w.width[0] = len("gone")
	}
	return revision, w.print.lines(lines, w.width)
}

func (w *watch) tabular() bool {
	return w.print.format == "" || w.print.format == "table" || w.print.format == "wide"
}

// change prints what one revision changed.
func (w *watch) change(c *ingotv1.Change) error {
	w.print.now = w.now()
	for _, r := range c.GetResources() {
		if err := w.one(r); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) one(r *ingotv1.ResourceChange) error {
	if r.Resource == nil {
		return w.gone(r.Id)
	}
	m, err := r.Resource.UnmarshalNew()
	if err != nil {
		return fault.Wrap(fault.Internal, r.Type+" "+r.Id, "cannot be read", err)
	}
	_, rows, err := w.print.arrange(m.ProtoReflect().Descriptor(), []row{{of: m.ProtoReflect()}}, false)
	if err != nil || len(rows) == 0 {
		return err
	}
	if !w.tabular() {
		return w.object(m.ProtoReflect())
	}
	for _, r := range rows {
		line := append([]string{"*"}, w.print.shown(w.layout, r)...)
		if w.width == nil {
			w.width = widths([][]string{line}, 0)
		}
		for i, text := range line {
			if w.print.width == 0 {
				w.width[i] = max(w.width[i], utf8.RuneCountInString(text))
			}
		}
		if err := w.print.lines([][]string{line}, w.width); err != nil {
			return err
		}
	}
	return nil
}

// gone prints that there is an object no more.
func (w *watch) gone(id string) error {
	if w.print.format == "json" || w.print.format == "yaml" {
		j, err := json.Marshal(map[string]string{"gone": id})
		if err != nil {
			return err
		}
		return w.line(j)
	}
	_, err := fmt.Fprintf(w.Out, "gone  %s\n", id)
	return err
}

// object prints one object of a stream: JSON on a line of its own, a YAML
// document, a name, or what the template makes of it.
func (w *watch) object(m protoreflect.Message) error {
	if w.print.format == "name" || w.print.format == "template" {
		return w.print.one(m)
	}
	j, err := protojson.Marshal(m.Interface())
	if err != nil {
		return err
	}
	return w.line(j)
}

func (w *watch) line(j []byte) error {
	if w.print.format == "json" {
		_, err := fmt.Fprintf(w.Out, "%s\n", compact(j))
		return err
	}
	if _, err := fmt.Fprintln(w.Out, "---"); err != nil {
		return err
	}
	return w.print.document(j)
}

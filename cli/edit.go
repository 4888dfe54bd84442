package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/fault"
)

// editCommand is "ingot RESOURCE edit ID": the object in an editor.
func (a *app) editCommand(r *resource) *cobra.Command {
	s := subjectOf(r.verbs["update"])
	c := &cobra.Command{
		Use:   "edit " + strings.ToUpper(s.name),
		Short: "Change " + r.noun() + " in $EDITOR",
		Args:  usageArgs(cobra.ExactArgs(1)),
	}
	partition := ""
	if r.name == "bmc" {
		c.Flags().StringVar(&partition, "partition", "", "partition of the BMC")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.edit(c.Context(), r, args[0], partition)
	}
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completeParam(c.Context(), *s, r, nil, prefix)
	}
	return c
}

func (a *app) edit(ctx context.Context, r *resource, id, partition string) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	k := r.kind()
	where := document{body: map[string]any{}}
	if p := first(partition, w.profile.Partition); p != "" && r.name == "bmc" {
		where.body["partition"] = p
	}
	as := w.face(k, where)
	current, err := w.fetch(ctx, k, where, id, as)
	if err != nil {
		return err
	}
	j, err := protojson.Marshal(current.Interface())
	if err != nil {
		return err
	}
	before, err := toYAML(j)
	if err != nil {
		return err
	}
	path, after, err := a.editor(ctx, before)
	if err != nil {
		return err
	}
	if bytes.Equal(before, after) {
		_, err := fmt.Fprintf(a.Out, "%s %s unchanged\n", k.name, id)
		return errors.Join(err, os.Remove(path))
	}
	err = func() error {
		docs, err := parseDocuments(path, bytes.NewReader(after))
		if err != nil {
			return err
		}
		if len(docs) != 1 {
			return fault.Newf(fault.Invalid, path, "holds %d objects instead of one", len(docs))
		}
		d := docs[0]
		for name, v := range where.body {
			d.body[name] = v
		}
		if err := k.knows(d); err != nil {
			return err
		}
		changed, err := w.change(ctx, k, d, current, as)
		if err != nil {
			return err
		}
		outcome := unchanged
		if changed {
			outcome = updated
		}
		_, err = fmt.Fprintf(a.Out, "%s %s %s\n", k.name, id, outcome)
		return err
	}()
	if err != nil {
		fmt.Fprintf(a.Err, "ingot: what you wrote is kept in %s\n", path)
		return err
	}
	return os.Remove(path)
}

// editor has a person edit text and returns the file and what is in it.
func (a *app) editor(ctx context.Context, text []byte) (path string, after []byte, err error) {
	f, err := os.CreateTemp("", "ingot-*.yaml")
	if err != nil {
		return "", nil, err
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return "", nil, err
	}
	if err := f.Close(); err != nil {
		return "", nil, err
	}
	words := strings.Fields(first(a.Env("VISUAL"), a.Env("EDITOR"), "vi"))
	c := exec.CommandContext(ctx, words[0], append(words[1:], f.Name())...)
	c.Stdin, c.Stdout, c.Stderr = a.In, a.Out, a.Err
	if err := c.Run(); err != nil {
		return "", nil, fault.Wrap(fault.Precondition, "editor "+words[0], "failed", err).Do("set EDITOR")
	}
	after, err = os.ReadFile(f.Name())
	return f.Name(), after, err
}

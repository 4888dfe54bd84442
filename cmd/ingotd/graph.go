package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// graphCommand prints the architecture as the loops declare it.
func graphCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "graph",
		Short: "Print which loop reads and writes which tables, for Graphviz",
		Long:  "Print which loop reads and writes which tables, for Graphviz: ingotd graph | dot -Tsvg",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var b strings.Builder
			b.WriteString("digraph ingot {\n  rankdir=LR; node [fontname=\"sans-serif\"];\n")
			for _, l := range loops(nil) {
				fmt.Fprintf(&b, "  %q [shape=box, style=rounded];\n", l.Name)
				for _, t := range l.Inputs {
					fmt.Fprintf(&b, "  %q -> %q;\n", t, l.Name)
				}
				for _, t := range l.Outputs {
					fmt.Fprintf(&b, "  %q -> %q;\n", l.Name, t)
				}
			}
			b.WriteString("}\n")
			_, err := fmt.Fprint(c.OutOrStdout(), b.String())
			return err
		},
	}
}

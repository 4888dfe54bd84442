package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/lab"
)

// running are the flags that say which data centre is meant.
type running struct{ cache, dir string }

func (r *running) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.cache, "cache", "", cacheUsage)
	cmd.Flags().StringVar(&r.dir, "dir", "", "folder of the data centre's state (default: of the one started last)")
}

// entrance returns what leads into the data centre.
func (r *running) entrance() (*lab.Entrance, error) {
	c, err := lab.OpenCache(r.cache, nil)
	if err != nil {
		return nil, err
	}
	return c.Running(r.dir)
}

// play hands a script to the data centre.
func (r *running) play(ctx context.Context, script string) error {
	e, err := r.entrance()
	if err != nil {
		return err
	}
	return e.Play(ctx, []byte(script), func(s string) { fmt.Println(s) })
}

func breaks() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "break [FAULT [ON]]",
		Short: "Make something fail in the running data centre; without a name: list what can",
		Args:  cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listFaults(cmd.OutOrStdout())
			}
			return r.play(cmd.Context(), "break "+strings.Join(args, " "))
		},
	}
	r.flags(cmd)
	return cmd
}

func listFaults(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tON\tLASTS\tWHAT HAPPENS")
	for _, f := range lab.Faults() {
		lasts := "until mended"
		if !f.Lasts() {
			lasts = "a moment"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, f.Takes, lasts, f.Does)
	}
	return w.Flush()
}

func mend() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "mend FAULT [ON]",
		Short: "Undo ingot-lab break",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.play(cmd.Context(), "mend "+strings.Join(args, " "))
		},
	}
	r.flags(cmd)
	return cmd
}

func capture() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "capture WIRE [off]",
		Short: "Record what passes through a wire, as WIRE.pcap in the data centre's folder",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.play(cmd.Context(), "capture "+strings.Join(args, " "))
		},
	}
	r.flags(cmd)
	return cmd
}

func report() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Write a bug report: timelines, consoles, logs, captures and versions, without secrets",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return r.play(cmd.Context(), "report") },
	}
	r.flags(cmd)
	return cmd
}

func replay() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Carry out a script of faults and what shall follow from them",
		Long: "Carry out a script in the running data centre, \"-\" being the standard input. A line\n" +
			"is a command; what follows # is a remark:\n\n" +
			"  break FAULT [ON]           make something fail: 'ingot-lab break' lists the faults\n" +
			"  mend FAULT [ON]            undo that\n" +
			"  allocate SERVER [IMAGE]    for the project demo\n" +
			"  release SERVER             delete the allocation\n" +
			"  wait SERVER PHASE [TIME]   at most ten minutes, if no time is given\n" +
			"  sleep TIME\n" +
			"  capture WIRE [off]         into WIRE.pcap in the data centre's folder\n" +
			"  report                     write a bug report into that folder",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := readScript(args[0])
			if err != nil {
				return err
			}
			return r.play(cmd.Context(), string(script))
		},
	}
	r.flags(cmd)
	return cmd
}

func readScript(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

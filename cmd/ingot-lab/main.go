// Command ingot-lab stands in for the iron on a laptop or in CI, without root:
// servers with UEFI firmware, their BMCs, switches and the wires between them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "ingot-lab",
		Short:         "Servers, BMCs, switches and wires on one machine, without root",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(up(), ssh(), breaks(), mend(), capture(), replay(), report(), artefacts(), server())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ingot-lab:", err)
		os.Exit(1)
	}
}

const cacheUsage = "folder to keep artefacts in (default: ingot-lab in the user's cache folder)"

const binUsage = "folder of Ingot's programs"

// progress prints what is being built, with the time since the start.
func progress() func(string, ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Printf("%5.1f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func artefacts() *cobra.Command {
	var dir, bin string
	cmd := &cobra.Command{
		Use:   "artefacts",
		Short: "Build what the lab's guests boot from, ahead of time",
		Long: "Build what the lab's guests boot from, ahead of time: firmware, kernel, the image of\n" +
			"leaves and site, the busybox OS image and the boot image. What is there already is\n" +
			"kept.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return build(cmd.Context(), dir, bin) },
	}
	cmd.Flags().StringVar(&dir, "cache", "", cacheUsage)
	cmd.Flags().StringVar(&bin, "bin", "bin", binUsage)
	return cmd
}

func build(ctx context.Context, dir, bin string) error {
	say := progress()
	c, err := lab.OpenCache(dir, say)
	if err != nil {
		return err
	}
	fw, err := c.Firmware(ctx)
	if err != nil {
		return err
	}
	guest, err := c.GuestImage(ctx)
	if err != nil {
		return err
	}
	osImage, err := c.BusyboxImage(ctx, filepath.Join(bin, "lldpsender"), "")
	if err != nil {
		return err
	}
	boot, err := c.BootImage(ctx, filepath.Join(bin, "ingot-agent"))
	if err != nil {
		return err
	}
	files := []string{fw.Code, guest.Kernel, guest.Initrd, osImage, boot.Initrd}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		say("%6.1f MB  %s", float64(info.Size())/1e6, filepath.Clean(f))
	}
	return nil
}

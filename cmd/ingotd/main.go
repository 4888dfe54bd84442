// Command ingotd is Ingot's control plane: the API and its reconcilers over an
// embedded etcd member, in one process. With other parts switched on it is the
// management server of a partition.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "ingotd",
		Short:         "Ingot's control plane",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), graphCommand(), versionCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ingotd:", err)
		os.Exit(1)
	}
}

package main

import (
	"errors"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/lab"
)

func ssh() *cobra.Command {
	var cache, dir string
	cmd := &cobra.Command{
		Use:   "ssh NAME [COMMAND]...",
		Short: "Log in to an installed server, through its VRF, or to a leaf",
		Long: "Log in to an installed server (m1) as the user metal, or to a leaf (leaf1) as root.\n" +
			"A server is reached on its own address, through the VRF of its network: from a\n" +
			"leaf, which gets an address of that network.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.OpenCache(cache, nil)
			if err != nil {
				return err
			}
			e, err := c.Running(dir)
			if err != nil {
				return err
			}
			run, err := e.SSH(cmd.Context(), args[0], args[1:]...)
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			var ended *exec.ExitError
			if err := run.Run(); errors.As(err, &ended) {
				os.Exit(ended.ExitCode()) // what the command on the other side said
			} else if err != nil {
				return err
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&cache, "cache", "", cacheUsage)
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the data centre's state (default: of the one started last)")
	return cmd
}

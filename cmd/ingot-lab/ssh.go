package main

import (
	"errors"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
)

func ssh() *cobra.Command {
	r := running{}
	cmd := &cobra.Command{
		Use:   "ssh NAME [COMMAND]...",
		Short: "Log in to an installed server, through its VRF, or to a leaf",
		Long: "Log in to an installed server (m1) as the user metal, or to a leaf (leaf1) as root.\n" +
			"A server is reached on its own address, through the VRF of its network: from a\n" +
			"leaf, which gets an address of that network.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := r.entrance()
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
	r.flags(cmd)
	return cmd
}

package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// version is set by the linker.
var version string

// buildVersion returns what is known about this build.
func buildVersion() *apiv2.Version {
	v := &apiv2.Version{Version: version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	v.Revision = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.GitSha1 = s.Value
		case "vcs.time":
			v.BuildDate = s.Value
		}
	}
	return v
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			v := buildVersion()
			fmt.Fprintf(c.OutOrStdout(), "ingotd %s (%s, built %s with %s)\n", or(v.GetVersion(), "unknown"), or(v.GetGitSha1(), "unknown commit"), or(v.GetBuildDate(), "at an unknown time"), v.GetRevision())
		},
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

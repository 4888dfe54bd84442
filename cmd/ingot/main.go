// Command ingot is the command line of an Ingot cloud. See docs/cli.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/ingot-cloud/ingot/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.Options{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv, Version: versionOrModule(),
	})
	stop()
	os.Exit(code)
}

// version is set by the linker; otherwise it is that of the module.
var version string

func versionOrModule() string {
	if b, ok := debug.ReadBuildInfo(); ok && version == "" {
		return b.Main.Version
	}
	return version
}

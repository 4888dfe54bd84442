// Command ingot-agent is /init of the boot image. It runs in a server's memory
// and takes its configuration from the medium it came with.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/agent"
)

var version = "unknown" // set by the linker

func main() {
	log := slog.New(slog.NewTextHandler(console(), nil))
	agent.Prepare(log)
	err := run(context.Background(), log)
	log.Error("rebooting in 5 s", "reason", err)
	time.Sleep(5 * time.Second) // for whoever reads the console
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		log.Error("cannot reboot", "error", err)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	args, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cfg, err := agent.FromMedium(agent.Medium, string(args))
	if err != nil {
		return err
	}
	cfg.Version, cfg.Log = version, log
	log.Info("Ingot boot image", "version", version, "boot", cfg.Boot)
	system, err := agent.New(cfg).Run(ctx)
	if err != nil {
		return err
	}
	log.Info("starting the installed system", "kernel", system.Kernel)
	return errors.Join(errors.New("the installed system did not start"), system.Start())
}

// console is where the kernel writes; as the first process there is nothing
// else.
func console() *os.File {
	if os.Getpid() != 1 {
		return os.Stderr
	}
	// Before /dev is mounted, the kernel has opened the console for us.
	return os.Stdout
}

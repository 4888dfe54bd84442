package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// upFlags are the flags of `ingot-lab up`.
type upFlags struct {
	cache, dir, bin string
	image, boot     string
	servers         int
	install         int
	capture, exit   bool
	patience        time.Duration
}

func up() *cobra.Command {
	f := upFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a data centre: two leaves, a management server, servers from power-on to a running system",
		Long: "Run a data centre on this machine: Ingot's control plane, two leaves, a management\n" +
			"server, and servers with UEFI firmware and BMCs. Ingot finds the servers, boots them\n" +
			"over the routed boot network, wipes them and installs a system on the first of them.\n" +
			"The data centre runs until it is interrupted.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return f.run(ctx)
		},
	}
	cmd.Flags().StringVar(&f.cache, "cache", "", cacheUsage)
	cmd.Flags().StringVar(&f.dir, "dir", "", "folder of the data centre's state (default: a new one below the system's folder for temporary files)")
	cmd.Flags().StringVar(&f.bin, "bin", "bin", binUsage)
	cmd.Flags().IntVar(&f.servers, "servers", 3, "how many servers")
	cmd.Flags().IntVar(&f.install, "install", 1, "how many of them to allocate and install")
	cmd.Flags().StringVar(&f.image, "image", lab.Busybox, "image to install, one of "+strings.Join(lab.Images(), ", ")+"; a Debian one takes minutes to build once")
	cmd.Flags().StringVar(&f.boot, "boot", string(lab.UKI), "what servers boot: "+string(lab.UKI)+" or "+string(lab.IPXE))
	cmd.Flags().BoolVar(&f.capture, "capture", false, "record every wire of the servers from the start, as pcap files in --dir")
	cmd.Flags().BoolVar(&f.exit, "exit", false, "end when everything has been reached")
	cmd.Flags().DurationVar(&f.patience, "patience", 15*time.Minute, "when to give up")
	return cmd
}

func (f upFlags) run(ctx context.Context) (err error) {
	say := progress()
	start := time.Now()
	if !slices.Contains(lab.Images(), f.image) {
		return fault.New(fault.Invalid, "image "+f.image, "not known to the lab", "take one of "+strings.Join(lab.Images(), ", "))
	}
	if f.boot != string(lab.UKI) && f.boot != string(lab.IPXE) {
		return fault.New(fault.Invalid, "boot medium "+f.boot, "not known to the lab", "take "+string(lab.UKI)+" or "+string(lab.IPXE))
	}
	if f.dir, err = folder(f.dir); err != nil {
		return err
	}
	if f.bin, err = filepath.Abs(f.bin); err != nil {
		return err
	}
	c, err := lab.OpenCache(f.cache, say)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	d, err := c.NewDataCenter(limited, lab.Plan{Dir: f.dir, Bin: f.bin, Servers: f.servers, Capture: f.capture, Boot: lab.BootMedium(f.boot), Debian: f.image == lab.Debian, Say: say})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	say("everything has power; state, logs and consoles are in %s", f.dir)
	page, err := d.Ingot(limited, "web")
	if err != nil {
		return err
	}
	say("watch it at %s", page)

	if err := f.reach(limited, d, say); err != nil {
		return err
	}
	say("done in %.0f s", time.Since(start).Seconds())
	if f.exit {
		return nil
	}
	if err := f.summary(ctx, d); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// folder returns the path of an empty folder: dir, or a new one if dir is "".
func folder(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "ingot-lab-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	switch files, err := os.ReadDir(dir); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case len(files) > 0:
		return "", fault.New(fault.Precondition, "folder "+dir, "is not empty, and a data centre begins from nothing", "remove it or name another one")
	}
	return dir, nil
}

// reach takes the first servers to a running system and the others to waiting.
func (f upFlags) reach(ctx context.Context, d *lab.DataCenter, say func(string, ...any)) error {
	see := func(s lab.Sighting) { say("%s", s.Text()) }
	var first, last []lab.Goal
	for n := 1; n <= f.servers; n++ {
		waiting := lab.Goal{Server: n, Phase: ingotv1.MachinePhase_MACHINE_PHASE_WAITING}
		if n > f.install {
			last = append(last, waiting)
			continue
		}
		first = append(first, waiting)
		last = append(last, lab.Goal{Server: n, Phase: ingotv1.MachinePhase_MACHINE_PHASE_PHONED_HOME})
	}
	if err := d.Reach(ctx, see, first...); err != nil {
		return err
	}
	if f.install > 0 {
		project, err := d.NewProject(ctx, "demo")
		if err != nil {
			return err
		}
		for n := 1; n <= f.install; n++ {
			if err := d.Allocate(ctx, n, project, f.image); err != nil {
				return err
			}
		}
	}
	return d.Reach(ctx, see, last...)
}

// summary shows what there is and what to try next.
func (f upFlags) summary(ctx context.Context, d *lab.DataCenter) error {
	list, err := d.Ingot(ctx, "machine", "list", "--admin")
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n\nTry, in another terminal:\n\n", list)
	if f.install > 0 {
		fmt.Printf("  %s/ingot-lab ssh m1\n", f.bin)
	}
	fmt.Printf("  export %[1]s\n  %[2]s/ingot machine timeline %[3]s --admin\n  %[2]s/ingot machine console %[3]s --admin\n\nCtrl-C ends the data centre.\n",
		d.Environment(), f.bin, lab.UUID(1))
	return nil
}

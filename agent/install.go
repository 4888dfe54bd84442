package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// target is where the new system's root file system is mounted.
const target = "/mnt/system"

// A System is an installed operating system that is ready to be started.
type System struct {
	Allocation  string // uuid
	Kernel      string // path below the mounted root
	Initrd      string
	CommandLine string
	Reset       bool // start it through the firmware, not by kexec

	layout   *Layout
	password string // for the console
	loaded   bool   // the kernel is in memory
}

// examine finds out what would fail later, before a disk is written: a layout
// that cannot be made, and, where a system is to be replaced that can still be
// started, other disks than those it was installed on, or an image that cannot
// be had whole.
func (a *Agent) examine(ctx context.Context) error {
	i := a.install
	if _, err := NewLayout(i.GetAllocation().GetFilesystemLayout()); err != nil {
		return err
	}
	re := i.GetReinstallation()
	if re == nil {
		return nil
	}
	for _, d := range i.GetAllocation().GetFilesystemLayout().GetDisks() {
		if err := sameDisk(d.GetDevice(), re.GetDisks(), a.disks); err != nil {
			return err
		}
	}
	if !re.GetIntact() {
		return nil
	}
	_, err := image.Verify(ctx, image.SourceOf(i.GetSource(), i.GetUrls()...), image.Options{
		Client: a.api.http,
		Progress: func(p image.Progress) {
			a.progress(ctx, ingotv1.AgentStep_AGENT_STEP_CHECK, int(p.Percent()), p.Left, "verifying image "+i.GetSource().GetImage())
		},
	})
	return err
}

// sameDisk refuses a device that is another disk than it was: kernel names may
// change between boots, and what was the system's disk may be one with data.
func sameDisk(device string, then, now []*ingotv1.Disk) error {
	name := path.Base(device)
	of := func(disks []*ingotv1.Disk) *ingotv1.Disk {
		i := slices.IndexFunc(disks, func(d *ingotv1.Disk) bool { return d.GetName() == name })
		if i < 0 {
			return nil
		}
		return disks[i]
	}
	// A disk that tells no number is known by its size.
	number := func(d *ingotv1.Disk) string {
		return first(d.GetSerial(), d.GetWwn(), fmt.Sprintf("a disk of %d bytes without a serial number", d.GetSize()))
	}
	object := "disk " + device
	was, is := of(then), of(now)
	switch {
	case is == nil:
		return fault.New(fault.Invalid, object, "is not there", "look at the server; a disk that was replaced needs a new allocation")
	case was == nil:
		return fault.New(fault.Invalid, object, "was not there when the machine was installed", "name another layout")
	case number(was) != number(is):
		return fault.Newf(fault.Invalid, object, "is %s now and was %s when the machine was installed; it may hold data and is not touched", number(is), number(was)).
			Do("put the disks back into their places; a disk that was replaced needs a new allocation")
	}
	return nil
}

// partition begins the installation. Until here no disk was written for the
// allocation.
func (a *Agent) partition(ctx context.Context) error {
	i := a.install
	layout, err := NewLayout(i.GetAllocation().GetFilesystemLayout())
	if err != nil {
		return err
	}
	if i.GetReinstallation() != nil {
		// The control plane must know that there is no way back, before there is none.
		if err := a.api.report(ctx, &ingotv1.AgentServiceReportRequest{
			Uuid: a.uuid, BootId: a.bootID, Step: ingotv1.AgentStep_AGENT_STEP_PARTITION, State: ingotv1.StepState_STEP_STATE_BEGUN,
		}); err != nil {
			return fault.Wrap(fault.Unavailable, "allocation "+i.GetAllocation().GetUuid(), "nothing is written before that is recorded, and it cannot be reported", err)
		}
	}
	if a.system != nil { // an earlier try got further
		if err := a.system.layout.Unmount(target); err != nil {
			return err
		}
	}
	a.system = &System{Allocation: i.GetAllocation().GetUuid(), Reset: i.GetThroughFirmware(), layout: layout, password: rand.Text()}
	return layout.Partition(ctx)
}

func (a *Agent) makeFilesystems(ctx context.Context) error {
	layout := a.system.layout
	if err := layout.Unmount(target); err != nil {
		return err
	}
	if err := layout.Format(ctx); err != nil {
		return err
	}
	return layout.Mount(target)
}

func (a *Agent) writeImage(ctx context.Context) error {
	i := a.install
	_, err := image.Install(ctx, image.SourceOf(i.GetSource(), i.GetUrls()...), target, image.Options{
		Client: a.api.http,
		Progress: func(p image.Progress) {
			a.progress(ctx, ingotv1.AgentStep_AGENT_STEP_IMAGE, int(p.Percent()), p.Left, "writing image "+i.GetSource().GetImage())
		},
	})
	return err
}

func (a *Agent) configure(ctx context.Context) error {
	ports := make([]Port, 0, len(a.network.Ports))
	for _, p := range a.network.Ports {
		ports = append(ports, Port{MAC: p.HardwareAddr.String(), Name: fmt.Sprintf("lan%d", len(ports))})
	}
	return Configure(target, Settings{
		Machine:    a.uuid,
		Allocation: a.install.GetAllocation(),
		Ports:      ports,
		Fstab:      a.system.layout.Fstab(),
		Password:   a.system.password,
	})
}

func (a *Agent) installBootloader(context.Context) error {
	s := a.system
	var err error
	if s.Kernel, s.Initrd, err = findKernel(target); err != nil {
		return err
	}
	s.CommandLine = commandLine(target, s.layout.RootID())
	esp := s.layout.ESP()
	if esp == "" {
		if s.Reset {
			return fault.New(fault.Invalid, "file system layout", "has no EFI system partition to boot from", "add a vfat partition of type ef00")
		}
		a.cfg.Log.Warn("the layout has no EFI system partition: the system starts now but not after a reset")
		return nil
	}
	return writeBootloader(target, esp, s)
}

// finish loads the new kernel, has the disks keep what was written, and reports
// the installation: from the report on the machine boots from disk, also if it
// loses power before the new kernel starts. It is repeated until the control
// plane has heard of it.
func (a *Agent) finish(ctx context.Context) error {
	s := a.system
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if !s.Reset && !s.loaded {
		if err := s.load(); err != nil {
			return err
		}
		s.loaded = true
	}
	if err := s.layout.Unmount(target); err != nil {
		return err
	}
	if err := s.layout.Sync(); err != nil {
		return err
	}
	_, err := a.api.agent.Installed(ctx, connect.NewRequest(&ingotv1.AgentServiceInstalledRequest{
		Uuid: a.uuid, BootId: a.bootID, Allocation: s.Allocation, ConsolePassword: s.password,
	}))
	if err != nil {
		return fault.Wrap(fault.Unavailable, "allocation "+s.Allocation, "is installed but cannot be reported", err)
	}
	return nil
}

// Start leaves the boot image for the installed system. It returns only if
// that fails.
func (s *System) Start() error {
	if s.Reset {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return kexecReboot()
}

func (s *System) open() (kernel, initrd *os.File, err error) {
	if kernel, err = os.Open(filepath.Join(target, s.Kernel)); err != nil {
		return nil, nil, err
	}
	if s.Initrd != "" {
		if initrd, err = os.Open(filepath.Join(target, s.Initrd)); err != nil {
			kernel.Close()
			return nil, nil, err
		}
	}
	return kernel, initrd, nil
}

// Command install is /init of a boot image in tests: it does with the agent's
// own code what an agent does that the control plane tells to install. The
// image comes from the second disk instead of a server.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"github.com/u-root/u-root/pkg/boot/kexec"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ingot-cloud/ingot/agent"
	"github.com/ingot-cloud/ingot/image"
)

// order is /order.json, what the test wants to have installed.
type order struct {
	Machine, SHA256 string
	Size            int64
	Ports           []agent.Port
	Allocation      json.RawMessage
}

const target = "/mnt/system"

func main() {
	agent.Prepare(slog.New(slog.NewTextHandler(os.Stdout, nil)))
	fmt.Println("install: failed:", install(context.Background()))
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func install(ctx context.Context) error {
	var o order
	b, err := os.ReadFile("/order.json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	allocation := &apiv2.MachineAllocation{}
	if err := protojson.Unmarshal(o.Allocation, allocation); err != nil {
		return err
	}
	layout, err := agent.NewLayout(allocation.GetFilesystemLayout())
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return layout.Partition(ctx) },
		func() error { return layout.Format(ctx) },
		func() error { return layout.Mount(target) },
		func() error { return unpack(ctx, o) },
		func() error {
			return agent.Configure(target, agent.Settings{
				Machine: o.Machine, Allocation: allocation, Ports: o.Ports, Fstab: layout.Fstab(), Password: "of the console",
			})
		},
		func() error { return load(layout.RootID()) },
		func() error { return layout.Unmount(target) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	unix.Sync()
	fmt.Println("install: kexec")
	return kexec.Reboot()
}

func unpack(ctx context.Context, o order) error {
	disk, err := os.Open("/dev/vdb")
	if err != nil {
		return err
	}
	defer disk.Close()
	began := time.Now()
	src := image.Source{URLs: []string{"http://disk/image"}, SHA256: o.SHA256, Size: o.Size}
	r, err := image.Install(ctx, src, target, image.Options{Client: &http.Client{Transport: file{io.NewSectionReader(disk, 0, o.Size)}}})
	if err == nil {
		fmt.Printf("install: %d entries, %d bytes in %.1f s\n", r.Entries, r.Unpacked, time.Since(began).Seconds())
	}
	return err
}

// file answers every request with one file.
type file struct{ *io.SectionReader }

func (f file) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{}, ContentLength: f.Size(), Body: io.NopCloser(io.NewSectionReader(f, 0, f.Size())),
	}, nil
}

// load loads the image's kernel as the agent does.
func load(rootID string) error {
	kernels, err := filepath.Glob(filepath.Join(target, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("%d kernels (%w)", len(kernels), err)
	}
	kernel, err := os.Open(kernels[0])
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := os.Open(strings.Replace(kernels[0], "vmlinuz", "initrd.img", 1))
	if err != nil {
		return err
	}
	defer initrd.Close()
	more, err := os.ReadFile(filepath.Join(target, "etc/kernel/cmdline"))
	if err != nil {
		return err
	}
	return kexec.FileLoad(kernel, initrd, "root=UUID="+rootID+" rw console=tty0 console=ttyS0,115200n8 "+strings.TrimSpace(string(more)))
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/ingot-cloud/ingot/lab"
)

// serverFlags are the flags of `ingot-lab server`.
type serverFlags struct {
	cache, dir, listen, user, uuid string
	memory, disk                   int
}

func server() *cobra.Command {
	f := serverFlags{}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run one server with UEFI firmware behind a Redfish BMC",
		Long: "Run one server with UEFI firmware, powered off, behind a Redfish BMC that switches it\n" +
			"on and loads its virtual CD. The folder keeps the server's disk and variables, its\n" +
			"serial log, and the BMC's certificate and password.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&f.cache, "cache", "", cacheUsage)
	cmd.Flags().StringVar(&f.dir, "dir", "server", "folder of the server's files")
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "address and port of the BMC")
	cmd.Flags().StringVar(&f.user, "user", "admin", "user of the BMC")
	cmd.Flags().StringVar(&f.uuid, "uuid", "", "the server's UUID (default: a new one)")
	cmd.Flags().IntVar(&f.memory, "memory", 1024, "memory in MiB")
	cmd.Flags().IntVar(&f.disk, "disk", 10, "size of the disk in GiB")
	return cmd
}

func (f serverFlags) run(ctx context.Context) error {
	c, err := lab.OpenCache(f.cache, progress())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	password, err := f.password()
	if err != nil {
		return err
	}
	if f.uuid == "" {
		f.uuid = uuid.NewString()
	}
	s, err := c.NewServer(ctx, f.dir, lab.ServerSpec{
		Spec: lab.Spec{
			Name: filepath.Base(f.dir), UUID: f.uuid, Serial: f.uuid[:8], Manufacturer: "Ingot", Product: "Lab server", Memory: f.memory,
			Disks: []lab.Disk{{Size: int64(f.disk) << 30, Serial: "disk-" + f.uuid[:8]}},
			NICs:  []lab.NIC{{MAC: "02:00:00:00:01:01"}, {MAC: "02:00:00:00:01:02"}},
		},
		User: f.user, Password: password, BMCMAC: "02:00:00:00:01:ff",
	})
	if err != nil {
		return err
	}
	ca := filepath.Join(f.dir, "bmc.crt")
	if err := os.WriteFile(ca, s.BMC.CA(), 0o644); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	fmt.Printf("BMC        https://%s/redfish/v1\nuser       %s\npassword   in %s\nCA         %s\nserial     %s\n",
		l.Addr(), f.user, f.passwordFile(), ca, s.VM.SerialLog())
	return s.Run(ctx, l)
}

func (f serverFlags) passwordFile() string { return filepath.Join(f.dir, "bmc.password") }

// password reads the BMC's password, or makes one on first use.
func (f serverFlags) password() (string, error) {
	b, err := os.ReadFile(f.passwordFile())
	if errors.Is(err, os.ErrNotExist) {
		b = []byte(rand.Text() + "\n")
		err = os.WriteFile(f.passwordFile(), b, 0o600)
	}
	return strings.TrimSpace(string(b)), err
}

// Command ingot-leaf runs on every leaf switch: it keeps FRR, the kernel and
// nftables as the control plane wants them, tells it how the ports are, and is
// metal-boot for the servers that boot behind them.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/leaf"
	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// version is set by the linker.
var version = "devel"

type options struct {
	apiURL, caFile, tokenFile, secretFile string
	id, partition, uplinks, management    string
	managementIP, stateDir                string
}

func main() {
	var o options
	host, _ := os.Hostname()
	flag.StringVar(&o.apiURL, "api-url", "", "where the control plane listens, https://HOST:PORT")
	flag.StringVar(&o.caFile, "ca-file", "", "PEM file with the control plane's CA (default: the system's)")
	flag.StringVar(&o.tokenFile, "token-file", "", "file with the leaf's token (default: token in --state-dir)")
	flag.StringVar(&o.secretFile, "enrol-secret-file", "", "file with a one-time secret, used if there is no token yet")
	flag.StringVar(&o.id, "id", host, "name of this leaf")
	flag.StringVar(&o.partition, "partition", "", "partition this leaf is in")
	flag.StringVar(&o.uplinks, "uplinks", "", "ports that lead to other switches, separated by commas")
	flag.StringVar(&o.management, "management", "eth0", "interfaces that are not front panel ports, separated by commas")
	flag.StringVar(&o.managementIP, "management-ip", "", "address operators reach this switch at (default: the one it reaches the control plane from)")
	flag.StringVar(&o.stateDir, "state-dir", "/var/lib/ingot-leaf", "folder for what survives a restart")
	show := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *show {
		fmt.Println(version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "ingot-leaf:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	api, err := url.Parse(o.apiURL)
	if err != nil || api.Scheme != "https" || api.Host == "" {
		return fault.New(fault.Invalid, "--api-url", "is not https://HOST:PORT", "")
	}
	if o.partition == "" || o.id == "" {
		return fault.New(fault.Invalid, "--id and --partition", "are needed", "")
	}
	if err := os.MkdirAll(o.stateDir, 0o700); err != nil {
		return err
	}
	device := &leaf.Linux{Dir: o.stateDir, Log: log}
	var frr leaf.FRRVersion
	if err := retry(ctx, log, func() (err error) { frr, err = device.FRRVersion(ctx); return err }); err != nil {
		return err
	}
	if o.tokenFile == "" {
		o.tokenFile = filepath.Join(o.stateDir, "token")
	}
	c, err := client.Join(ctx, client.Config{URL: o.apiURL, CAFile: o.caFile, TokenFile: o.tokenFile},
		client.FarEnd{Kind: ingotv1.FarEnd_FAR_END_LEAF, ID: o.id, Partition: o.partition}, o.secretFile, notYet(log))
	if err != nil {
		return err
	}
	if o.managementIP == "" {
		if err := retry(ctx, log, func() (err error) { o.managementIP, err = leaf.ManagementIP(ctx, hostport(api)); return err }); err != nil {
			return err
		}
	}
	system := systemName()
	agent, err := leaf.New(leaf.Config{
		Switch: o.id, Partition: o.partition, ManagementIP: o.managementIP,
		Management: list(o.management), Uplinks: list(o.uplinks),
		OS: system, Version: version, FRR: frr, Dir: o.stateDir, Device: device, Log: log,
		API: client.Of(c, ingotv1connect.NewLeafServiceClient),
		Neighbors: &leaf.Neighbors{Self: lldp.Frame{
			ChassisID: chassis(o.management), SystemName: o.id, SystemDescription: system + ", ingot-leaf " + version,
		}},
		Boot: &boot.Server{
			Switch: o.id, Partition: o.partition, API: api, Upstream: c.Vouching(), Log: log,
			Tokens: client.Of(c, ingotv1connect.NewBootServiceClient),
		},
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { return device.Watch(ctx, agent.Kick) })
	g.Go(func() error { return c.KeepToken(ctx, func(err error) { log.Error("token", "error", err) }) })
	return g.Wait()
}

func notYet(log *slog.Logger) func(error) {
	return func(err error) { log.Error("cannot start yet", "error", err) }
}

// retry repeats what the switch cannot start without until it succeeds.
func retry(ctx context.Context, log *slog.Logger, do func() error) error {
	for said := ""; ; {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			notYet(log)(err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func hostport(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// chassis is what identifies the box to its neighbours: the address of its
// first management interface, or its name.
func chassis(management string) string {
	for _, name := range list(management) {
		if i, err := net.InterfaceByName(name); err == nil && len(i.HardwareAddr) == 6 {
			return i.HardwareAddr.String()
		}
	}
	host, _ := os.Hostname()
	return host
}

// systemName is the release of the switch's system, at least of its kernel.
func systemName() string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "Linux"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

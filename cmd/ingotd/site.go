package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/client"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
	"github.com/ingot-cloud/ingot/site"
)

// siteOptions are the flags of a partition's management server.
type siteOptions struct {
	apiURL, caFile, tokenFile, secretFile string
	id, partition                         string
	mediaListen, mediaURL, stub, ipxe     string
	bootPorts                             []string
	cacheListen, filesListen              string
	cacheGiB                              int64
	bmcInterval                           time.Duration
	leaseFiles                            []string
	leasePort                             uint16
}

func (o *siteOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.apiURL, "api-url", "", "site: the control plane, https://HOST:PORT")
	f.StringVar(&o.caFile, "ca-file", "", "site: PEM file with the control plane's CA (default: the system's)")
	f.StringVar(&o.tokenFile, "token-file", "", "site: file with the site's token (default: site.token in --data-dir)")
	f.StringVar(&o.secretFile, "enrol-secret-file", "", "site: file with a one-time secret, used if there is no token yet")
	f.StringVar(&o.id, "id", "", "site: name of this management server")
	f.StringVar(&o.partition, "partition", "", "site: partition this management server is in")
	f.StringVar(&o.mediaListen, "media-listen", ":8080", "boot: host and port to serve boot media to BMCs on")
	f.StringVar(&o.mediaURL, "media-url", "", "boot: url under which BMCs reach --media-listen")
	f.StringVar(&o.stub, "efi-stub", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "boot: systemd's EFI stub")
	f.StringVar(&o.ipxe, "ipxe-file", "", "boot: iPXE 2.0 or later for UEFI, where machines boot it; Debian's is /usr/lib/ipxe/ipxe.efi")
	f.StringSliceVar(&o.bootPorts, "boot-ports", nil, "cache, boot: ports that lead to leaves; machines fetch images there, and iPXE what it boots")
	f.StringVar(&o.cacheListen, "cache-port", "80", "cache: TCP port to serve images on")
	f.StringVar(&o.filesListen, "boot-files-port", "443", "boot: TCP port to serve kernel and initrd to iPXE on")
	f.Int64Var(&o.cacheGiB, "cache-gib", 50, "cache: how much space images may take")
	f.DurationVar(&o.bmcInterval, "bmc-interval", time.Minute, "bmc: how often each BMC is looked at")
	f.StringArrayVar(&o.leaseFiles, "lease-file", nil, "bmc: lease file of a DHCP server (ISC dhcpd, dnsmasq, Kea) to find BMCs by; may be repeated")
	f.Uint16Var(&o.leasePort, "lease-port", 443, "bmc: TCP port where BMCs found by --lease-file serve Redfish")
}

// siteParts are what a management server is made of.
var siteParts = []string{"bmc", "boot", "cache"}

func hasSite(parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(siteParts, p) })
}

// check refuses what the wanted parts cannot work with.
func (o *siteOptions) check(parts []string) error {
	if u, err := url.Parse(o.apiURL); err != nil || u.Scheme != "https" || u.Host == "" {
		return fault.New(fault.Invalid, "--api-url", "is not https://HOST:PORT", "say where the control plane is")
	}
	if o.id == "" || o.partition == "" {
		return fault.New(fault.Invalid, "--id and --partition", "are needed by the parts bmc, boot and cache", "")
	}
	if u, err := url.Parse(o.mediaURL); slices.Contains(parts, "boot") && (err != nil || u.Host == "") {
		return fault.New(fault.Invalid, "--media-url", "is not a url", "say where BMCs reach --media-listen")
	}
	if slices.Contains(parts, "cache") && len(o.bootPorts) == 0 {
		return fault.New(fault.Invalid, "--boot-ports", "are needed by the part cache", "name the ports that lead to leaves")
	}
	if slices.Contains(parts, "bmc") && !slices.Contains(parts, "boot") {
		return fault.New(fault.Invalid, "--parts", "has bmc without boot", "the part that inserts media must be with the one that serves them")
	}
	if len(o.leaseFiles) > 0 && (!slices.Contains(parts, "bmc") || o.leasePort == 0) {
		return fault.New(fault.Invalid, "--lease-file", "needs the part bmc and a --lease-port other than 0", "")
	}
	return nil
}

// runSite runs the parts of a management server until ctx ends.
func runSite(ctx context.Context, o siteOptions, parts []string, dir string, log *slog.Logger) error {
	if o.tokenFile == "" {
		o.tokenFile = filepath.Join(dir, "site.token")
	}
	c, err := client.Join(ctx, client.Config{URL: o.apiURL, CAFile: o.caFile, TokenFile: o.tokenFile},
		client.FarEnd{Kind: ingotv1.FarEnd_FAR_END_SITE, ID: o.id, Partition: o.partition}, o.secretFile,
		func(err error) { log.Error("site: cannot start yet", "error", err) })
	if err != nil {
		return err
	}
	api := client.Of(c, ingotv1connect.NewSiteServiceClient)
	g, ctx := errgroup.WithContext(ctx)
	var run []site.Part
	medium := func(ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) { return nil, nil }
	if len(o.bootPorts) > 0 {
		if err := site.PreparePorts(o.bootPorts); err != nil {
			return err
		}
	}
	if slices.Contains(parts, "boot") {
		m, err := o.bootPart(ctx, g, api, dir, log)
		if err != nil {
			return err
		}
		medium = m.Medium
		run = append(run, m)
	}
	if slices.Contains(parts, "bmc") {
		b, err := site.NewBMCs(site.BMCsConfig{
			Partition: o.partition, API: api, Dir: filepath.Join(dir, "operations"), Medium: medium, Every: o.bmcInterval, Log: log,
		})
		if err != nil {
			return err
		}
		run = append(run, b, site.NewConsoles(site.ConsolesConfig{
			Partition: o.partition, API: client.Of(c, ingotv1connect.NewConsoleServiceClient), Log: log,
		}))
		if len(o.leaseFiles) > 0 {
			run = append(run, site.NewDiscovery(site.DiscoveryConfig{
				Partition: o.partition, API: api, Files: o.leaseFiles, Port: o.leasePort, Every: o.bmcInterval, Log: log,
			}))
		}
	}
	if slices.Contains(parts, "cache") {
		cache, err := image.OpenCache(filepath.Join(dir, "images"), o.cacheGiB<<30, image.Options{})
		if err != nil {
			return err
		}
		run = append(run, site.NewImages(site.ImagesConfig{
			Partition: o.partition, API: api, Cache: cache, URLs: site.BootAddresses("http", o.bootPorts, o.cacheListen), Log: log,
		}))
		for _, port := range o.bootPorts {
			l, err := site.Listen(ctx, port, o.cacheListen)
			if err != nil {
				return err
			}
			g.Go(func() error { return serveHTTP(ctx, l, cache) })
		}
	}
	s := site.New(site.Config{Partition: o.partition, API: api, Log: log}, run...)
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error {
		return c.KeepToken(ctx, func(err error) { log.Error("site: token", "error", err) })
	})
	log.Info("site: at work", "partition", o.partition, "id", o.id, "parts", strings.Join(parts, ","))
	return g.Wait()
}

// bootPart builds the boot media and serves them.
func (o *siteOptions) bootPart(ctx context.Context, g *errgroup.Group, api ingotv1connect.SiteServiceClient, dir string, log *slog.Logger) (*site.Media, error) {
	base, err := url.Parse(o.mediaURL)
	if err != nil {
		return nil, err
	}
	files, err := o.serveFiles(ctx, g, api)
	if err != nil {
		return nil, err
	}
	m, err := site.NewMedia(site.MediaConfig{
		Partition: o.partition, API: api, Dir: filepath.Join(dir, "media"), URL: base, Stub: o.stub, IPXE: o.ipxe,
		Files: files, Client: &http.Client{Timeout: 10 * time.Minute}, Log: log,
	})
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.mediaListen)
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, "address "+o.mediaListen, "cannot be listened on", err).Do("check --media-listen")
	}
	g.Go(func() error { return serveHTTP(ctx, l, m.Handler()) })
	return m, nil
}

// serveFiles serves what iPXE loads, if this site has iPXE and is in the boot
// network; nil if not.
func (o *siteOptions) serveFiles(ctx context.Context, g *errgroup.Group, api ingotv1connect.SiteServiceClient) (*site.Files, error) {
	if o.ipxe == "" || len(o.bootPorts) == 0 {
		return nil, nil
	}
	files := site.NewFiles(site.FilesConfig{Partition: o.partition, API: api, URLs: site.BootAddresses("https", o.bootPorts, o.filesListen)})
	for _, port := range o.bootPorts {
		l, err := site.Listen(ctx, port, o.filesListen)
		if err != nil {
			return nil, err
		}
		g.Go(func() error { return serveHTTP(ctx, tls.NewListener(l, files.TLS()), files.Handler()) })
	}
	return files, nil
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ingot-cloud/ingot/api"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/loop"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/web"
)

// options are the flags of "ingotd serve".
type options struct {
	dir       string
	listen    string
	hosts     []string
	parts     []string
	keyFile   string
	endpoints []string
	provider  string
	consoles  string
	logLevel  slog.Level
	site      siteOptions
}

// controlParts are what a control plane is made of.
var controlParts = []string{"api", "loops", "web"}

func serveCommand() *cobra.Command {
	var o options
	var level string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: `Run the control plane. On an empty data directory it makes everything it needs:
a certificate authority (ca.crt), a key ring (keys), the database (etcd) and a
first token (admin.token), with which everything else can be made.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.logLevel.UnmarshalText([]byte(level)); err != nil {
				return err
			}
			return serve(c.Context(), o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.dir, "data-dir", "/var/lib/ingot", "directory of all state; made if it does not exist")
	f.StringVar(&o.listen, "listen", "[::]:8443", "host and port to serve the API on")
	f.StringSliceVar(&o.hosts, "host-name", nil, "name or address clients use, for the certificate; the first is the API's own (default: from --listen)")
	f.StringSliceVar(&o.parts, "parts", controlParts, "what this process is made of; bmc, boot and cache make it a partition's management server")
	f.StringVar(&o.keyFile, "key-file", "", "key ring that seals secrets (default: systemd's credential ingot-keys, or DIR/keys)")
	f.StringSliceVar(&o.endpoints, "etcd-endpoints", nil, "use this etcd cluster instead of an embedded member")
	f.StringVar(&o.consoles, "console-listen", "", "host and port to serve the consoles of machines over SSH on (default: they are not)")
	f.StringVar(&o.provider, "provider", "ingot", "login of the tenant that operates the cloud, when it is made")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	o.site.flags(f)
	return c
}

// serve runs until ctx ends or a part fails.
func serve(ctx context.Context, o options, out, errOut io.Writer) (err error) {
	known := append(slices.Clone(controlParts), siteParts...)
	for _, p := range o.parts {
		if !slices.Contains(known, p) {
			return fault.New(fault.Invalid, "part "+p, "not known", "known are "+strings.Join(known, ", "))
		}
	}
	if hasSite(o.parts) {
		if err := o.site.check(o.parts); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: o.logLevel}))
	host, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fault.Wrap(fault.Invalid, "--listen "+o.listen, "is not host:port", err)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fault.Wrap(fault.Precondition, "data directory "+o.dir, "cannot be made", err)
	}
	if !slices.ContainsFunc(o.parts, func(p string) bool { return slices.Contains(controlParts, p) }) {
		return runSite(ctx, o.site, o.parts, o.dir, log)
	}
	kv, err := store.OpenEtcd(ctx, store.EtcdConfig{Dir: o.dir, Endpoints: o.endpoints, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kv.Close()) }()
	// The store outlives ctx: calls under way want to finish.
	db, err := store.Open(context.WithoutCancel(ctx), kv, store.Options{Tables: records.Tables(), Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	ring, err := openRing(o, db)
	if err != nil {
		return err
	}

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fault.Wrap(fault.Precondition, "--listen "+o.listen, "cannot be listened on", err)
	}
	defer ln.Close()
	if port == "0" {
		_, port, _ = net.SplitHostPort(ln.Addr().String())
	}
	hosts := hostNames(o.hosts, host)
	url := "https://" + net.JoinHostPort(hosts[0], port)
	conf := api.Config{DB: db, Ring: ring, URL: url, Provider: o.provider, Version: buildVersion(), Log: log, Metrics: newMetrics(db)}
	if slices.Contains(o.parts, "web") {
		conf.Pages = web.Pages()
	}
	srv, err := api.New(ctx, conf)
	if err != nil {
		return err
	}
	first, err := keepFiles(ctx, o.dir, srv)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if o.consoles != "" {
		if err := serveConsoles(ctx, g, srv, o.consoles, hosts[0], out); err != nil {
			return err
		}
	}
	greet(out, o.dir, url, ln.Addr(), first)
	g.Go(func() error { return srv.Serve(ctx, ln, srv.TLS(hosts...)) })
	if slices.Contains(o.parts, "loops") {
		g.Go(func() error { return loop.Run(ctx, db, log, loops(db)...) })
	}
	if hasSite(o.parts) { // it reaches the API like any site
		g.Go(func() error { return runSite(ctx, o.site, o.parts, o.dir, log) })
	}
	return g.Wait()
}

// serveConsoles has g serve the consoles of machines over SSH.
func serveConsoles(ctx context.Context, g *errgroup.Group, srv *api.Server, listen, host string, out io.Writer) error {
	consoles, err := srv.NewSSH(ctx)
	if err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fault.Wrap(fault.Precondition, "--console-listen "+listen, "cannot be listened on", err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	fmt.Fprintf(out, "consoles of machines: ssh -p %s UUID@%s (host key %s)\n", port, host, consoles.Fingerprint())
	g.Go(func() error { return consoles.Serve(ctx, ln) })
	return nil
}

// loops are the promises of the control plane.
func loops(db *store.DB) []loop.Loop {
	return []loop.Loop{
		loop.Leaves(db),
		loop.Machines(db, func() string { return uuid.Must(uuid.NewV7()).String() }),
	}
}

// openRing opens the key ring. It makes one only if nothing in the store has
// been sealed yet: a new ring does not open old secrets.
func openRing(o options, db *store.DB) (*secret.Ring, error) {
	return secret.OpenRing(secret.Location{
		File: o.keyFile, Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), Dir: o.dir,
		Create: records.Keys.Count(db.Snapshot(), "", "") == 0,
	})
}

// hostNames returns the names and addresses of the server, the one that
// clients should use first.
func hostNames(given []string, listen string) []string {
	if len(given) > 0 {
		return given
	}
	if a := net.ParseIP(listen); listen != "" && (a == nil || !a.IsUnspecified()) {
		return []string{listen}
	}
	var names []string
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	names = append(names, "localhost")
	addrs, _ := net.InterfaceAddrs() // without them, the names remain
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			names = append(names, n.IP.String())
		}
	}
	return names
}

func newMetrics(db *store.DB) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), storeMetrics{db})
	return r
}

func greet(out io.Writer, dir, url string, addr net.Addr, first bool) {
	token := filepath.Join(dir, tokenFile)
	fmt.Fprintf(out, "ingotd %s serves the API on %s\n", or(buildVersion().GetVersion(), "unknown"), addr)
	fmt.Fprintf(out, "  clients use    %s\n", url)
	fmt.Fprintf(out, "  and trust      %s\n", filepath.Join(dir, caFile))
	if first {
		fmt.Fprintf(out, "  first token    %s (may do everything: keep it safe)\n", token)
	}
	fmt.Fprintf(out, "Next: ingot login --api-url %s --ca-file %s --token-file %s\n", url, filepath.Join(dir, caFile), token)
}

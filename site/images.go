package site

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/image"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Images keeps the wanted images in the partition's cache. It is the one that
// fetches what operators name: the control plane may not reach it, and must
// not be made to reach into the operator's network for others.
type Images struct {
	partition string
	api       ingotv1connect.SiteServiceClient
	cache     *image.Cache
	urls      func() []*url.URL
	log       *slog.Logger
	told      map[string]*ingotv1.ImageCached // by image, as reported last
	checked   map[string]time.Time            // by image
}

// ImagesConfig of Images.
type ImagesConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	Cache     *image.Cache
	// URLs returns where servers in the boot network reach the cache's
	// handler, one for each leaf it is connected to.
	URLs func() []*url.URL
	Log  *slog.Logger
}

// NewImages returns Images that have fetched nothing yet.
func NewImages(c ImagesConfig) *Images {
	return &Images{c.Partition, c.API, c.Cache, c.URLs, c.Log, map[string]*ingotv1.ImageCached{}, map[string]time.Time{}}
}

// Name implements Part.
func (i *Images) Name() string { return "cache" }

const (
	// recheck is how often an image that is in the cache is reported again,
	// and one without a digest is looked at again.
	recheck = 15 * time.Minute
	// retry is how soon one that could not be fetched is tried again.
	retry = 30 * time.Second
)

// Run implements Part.
func (i *Images) Run(ctx context.Context, wanted Wanted) {
	follow(ctx, i.log, i.Name(), wanted, i.Step)
}

// Step fetches what is missing and reports what changed.
func (i *Images) Step(ctx context.Context, w *ingotv1.SiteWanted) (time.Duration, error) {
	again := recheck
	var report []*ingotv1.ImageCached
	for _, want := range w.GetImages() {
		c := i.check(ctx, want)
		if c.GetCheck().GetError() != "" {
			again = retry
		}
		if !same(i.told[want.GetImage()], c) {
			report = append(report, c)
		}
	}
	if ctx.Err() != nil || len(report) == 0 {
		return again, ctx.Err()
	}
	if _, err := i.api.Cached(ctx, connect.NewRequest(&ingotv1.SiteServiceCachedRequest{Partition: i.partition, Images: report})); err != nil {
		return 0, unavailable("image cache", "cannot report", err)
	}
	for _, c := range report {
		i.told[c.GetImage()] = c
	}
	return again, nil
}

// check brings one image into the cache and says what it found.
func (i *Images) check(ctx context.Context, want *ingotv1.ImageWanted) *ingotv1.ImageCached {
	name := want.GetImage()
	out := &ingotv1.ImageCached{Image: name}
	src := image.SourceOf(want.GetSource(), want.GetUrl())
	if src.SHA256 == "" && src.SHA512 == "" {
		src.Unpinned = true // tell the operator what it is, so that he can pin it
		if told := i.told[name]; told != nil && told.GetCheck().GetError() == "" && time.Since(i.checked[name]) < recheck {
			return told
		}
	}
	i.checked[name] = time.Now()
	e, err := i.cache.Fetch(ctx, src)
	out.Check = &ingotv1.ImageCheck{Partition: i.partition, Time: timestamppb.Now()}
	if err != nil {
		out.Check.Error = err.Error()
		return out
	}
	out.Check.Size, out.Check.Sha256 = uint64(e.Size), e.SHA256
	for _, u := range i.urls() {
		out.Urls = append(out.Urls, u.JoinPath("sha256-"+e.SHA256).String())
	}
	return out
}

// same reports whether two reports differ in nothing but their time, and the
// first is recent.
func same(a, b *ingotv1.ImageCached) bool {
	if a == nil || b.GetCheck().GetTime().AsTime().Sub(a.GetCheck().GetTime().AsTime()) > recheck {
		return false
	}
	c := proto.Clone(b).(*ingotv1.ImageCached)
	c.Check.Time = a.GetCheck().GetTime()
	return proto.Equal(a, c)
}

// BootAddresses returns a function that lists where this host is reached in
// the boot network by a scheme: the global IPv6 addresses of the named ports.
func BootAddresses(scheme string, ports []string, port string) func() []*url.URL {
	return func() []*url.URL {
		var out []*url.URL
		for _, name := range ports {
			iface, err := net.InterfaceByName(name)
			if err != nil {
				continue
			}
			addrs, err := iface.Addrs()
			if err != nil {
				continue
			}
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast() {
					out = append(out, &url.URL{Scheme: scheme, Host: net.JoinHostPort(n.IP.String(), port)})
				}
			}
		}
		return out
	}
}

// PreparePorts takes router advertisements on the ports to the boot network and
// forwards nothing between them: the host has a port in the management network
// too, and must not join the two (MEP-20).
func PreparePorts(ports []string) error {
	for _, name := range ports {
		if strings.ContainsAny(name, "/.") {
			return fault.New(fault.Invalid, "port "+name, "is not the name of a port", "")
		}
		dir := "/proc/sys/net/ipv6/conf/" + name
		for file, value := range map[string]string{"forwarding": "0", "accept_ra": "1", "autoconf": "1", "addr_gen_mode": "0", "use_tempaddr": "0"} {
			if err := os.WriteFile(dir+"/"+file, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fault.Wrap(fault.Precondition, "port "+name, "cannot be set up", err).Do("check --boot-ports, and run with CAP_NET_ADMIN")
			}
		}
	}
	return nil
}

// Listen returns a listener on a TCP port of every address that one of the
// host's ports has or will get. It is reached through that port only, and
// answers through it: a host between two leaves has a default route to each,
// and a leaf drops what carries the address of another.
func Listen(ctx context.Context, name, port string) (net.Listener, error) {
	bind := func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), name) }); err != nil {
			return err
		}
		return failed
	}
	l, err := (&net.ListenConfig{Control: bind}).Listen(ctx, "tcp6", net.JoinHostPort("::", port))
	if err != nil {
		return nil, fault.Wrap(fault.Precondition, "port "+name, "cannot be listened on at TCP port "+port, err).Do("check --boot-ports and --cache-listen")
	}
	return l, nil
}

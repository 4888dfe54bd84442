package site

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/fault"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

// Media builds the partition's boot medium and serves it to the BMCs. What
// changes at the wanted urls is on the medium within a minute, and in effect
// at the next boot.
type Media struct {
	partition string
	api       ingotv1connect.SiteServiceClient
	dir       string
	base      *url.URL
	stub      string
	client    *http.Client
	log       *slog.Logger

	kernel, initrd download
	inputs         string // digest of what the current medium was built from

	mu     sync.Mutex
	medium *ingotv1.Medium
	remade chan struct{} // closed and replaced when there is another medium
}

// MediaConfig of Media.
type MediaConfig struct {
	Partition string
	API       ingotv1connect.SiteServiceClient
	// Dir is where media are kept; it is made if it does not exist.
	Dir string
	// URL is where BMCs reach Handler.
	URL *url.URL
	// Stub is systemd's EFI stub (package systemd-boot-efi in Debian).
	Stub string
	// Client fetches kernel and initrd.
	Client *http.Client
	Log    *slog.Logger
}

// NewMedia returns Media that have no medium yet.
func NewMedia(c MediaConfig) (*Media, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	return &Media{partition: c.Partition, api: c.API, dir: c.Dir, base: c.URL, stub: c.Stub, client: c.Client, log: c.Log, remade: make(chan struct{})}, nil
}

// Name implements Part.
func (m *Media) Name() string { return "boot" }

// Run implements Part.
func (m *Media) Run(ctx context.Context, wanted Wanted) { follow(ctx, m.log, m.Name(), wanted, m.Step) }

// Medium returns the medium that is served, nil if there is none yet, and a
// channel that is closed when there is another one.
func (m *Media) Medium() (*ingotv1.Medium, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.medium, m.remade
}

// refetch is how often the wanted urls are looked at for new content.
const refetch = time.Minute

// Step builds the medium anew if anything it is made from
// has changed, and reports it.
func (m *Media) Step(ctx context.Context, w *ingotv1.SiteWanted) (time.Duration, error) {
	medium, err := m.build(ctx, w)
	if err == nil && medium == nil {
		return refetch, nil // unchanged
	}
	report := medium
	if err != nil {
		report = &ingotv1.Medium{Error: err.Error()}
		if old, _ := m.Medium(); old != nil { // still served
			report.Url, report.Sha256, report.Size, report.Built = old.GetUrl(), old.GetSha256(), old.GetSize(), old.GetBuilt()
		}
	} else {
		m.mu.Lock()
		m.medium = medium
		close(m.remade)
		m.remade = make(chan struct{})
		m.mu.Unlock()
		m.log.Info("boot medium built", "sha256", medium.GetSha256(), "bytes", medium.GetSize())
	}
	_, told := m.api.Cached(ctx, connect.NewRequest(&ingotv1.SiteServiceCachedRequest{Partition: m.partition, Medium: report}))
	if err != nil {
		return 0, err
	}
	if told != nil {
		m.inputs = "" // report it again
		return 0, unavailable("boot medium", "cannot be reported", told)
	}
	return refetch, nil
}

// build returns a new medium, or nil if the current one is still right.
func (m *Media) build(ctx context.Context, w *ingotv1.SiteWanted) (*ingotv1.Medium, error) {
	if w.GetKernelUrl() == "" || w.GetInitrdUrl() == "" {
		return nil, fault.New(fault.Precondition, "partition "+m.partition, "has no boot configuration", "set kernel and image url of the partition")
	}
	if err := m.kernel.get(ctx, m.client, w.GetKernelUrl()); err != nil {
		return nil, err
	}
	if err := m.initrd.get(ctx, m.client, w.GetInitrdUrl()); err != nil {
		return nil, err
	}
	host := "[" + w.GetFabric().GetBootAddress() + "]"
	if domain := w.GetFabric().GetBootDomain(); domain != "" {
		host = "boot." + domain // the one name of metal-boot's zone
	}
	sum := sha256.New()
	for _, s := range []string{m.kernel.sha256, m.initrd.sha256, w.GetCommandLine(), host, w.GetCa()} {
		fmt.Fprintf(sum, "%d %s\n", len(s), s)
	}
	inputs := hex.EncodeToString(sum.Sum(nil))
	if inputs == m.inputs {
		return nil, nil
	}
	stub, err := os.ReadFile(m.stub)
	if err != nil {
		return nil, unavailable("boot medium", "the EFI stub cannot be read", err)
	}
	iso, err := boot.Medium{
		Partition: m.partition, Stub: stub, Kernel: m.kernel.data, Initrd: m.initrd.data,
		CommandLine: w.GetCommandLine(), Boot: &url.URL{Scheme: "https", Host: host}, CA: []byte(w.GetCa()),
	}.ISO()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(iso)
	name := hex.EncodeToString(digest[:]) + ".iso"
	if err := m.keep(name, iso); err != nil {
		return nil, err
	}
	m.inputs = inputs
	return &ingotv1.Medium{
		Url: m.base.JoinPath(name).String(), Sha256: hex.EncodeToString(digest[:]), Size: uint64(len(iso)),
		KernelSha256: m.kernel.sha256, InitrdSha256: m.initrd.sha256, Built: timestamppb.Now(),
	}, nil
}

// keep writes a medium so that it is there whole or not at all, and removes
// all but it and the one before: a BMC may be reading that one.
func (m *Media) keep(name string, iso []byte) error {
	tmp := filepath.Join(m.dir, "new")
	if err := os.WriteFile(tmp, iso, 0o644); err != nil {
		return unavailable("boot medium", "cannot be written", err)
	}
	if err := os.Rename(tmp, filepath.Join(m.dir, name)); err != nil {
		return unavailable("boot medium", "cannot be written", err)
	}
	served, _ := m.Medium()
	before := path.Base(served.GetUrl())
	found, err := filepath.Glob(filepath.Join(m.dir, "*.iso"))
	if err != nil {
		return err
	}
	for _, f := range found {
		if b := filepath.Base(f); b != name && b != before {
			if err := os.Remove(f); err != nil {
				m.log.Warn("an old boot medium stays", "file", b, "error", err)
			}
		}
	}
	return nil
}

// Handler serves the media by name. They hold no secret: whoever reaches the
// management network may read them.
func (m *Media) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		if r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.HasSuffix(name, ".iso") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.efi.iso")
		w.Header().Set("ETag", `"`+strings.TrimSuffix(name, ".iso")+`"`)
		http.ServeFile(w, r, filepath.Join(m.dir, name))
	})
}

// A download is the content of a url, fetched again only when the server says
// that it has changed (RFC 9110, section 13.1).
type download struct {
	url, etag, modified string
	data                []byte
	sha256              string
}

// most is the largest kernel or initrd; a BMC would take minutes to pass on
// more.
const most = 512 << 20

func (d *download) get(ctx context.Context, client *http.Client, from string) error {
	object := "boot file " + from
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return fault.New(fault.Invalid, object, "is not a url", "change the partition's boot configuration")
	}
	if d.url == from && d.data != nil {
		if d.etag != "" {
			req.Header.Set("If-None-Match", d.etag)
		}
		if d.modified != "" {
			req.Header.Set("If-Modified-Since", d.modified)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return unavailable(object, "cannot be fetched", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return nil
	case http.StatusOK:
	default:
		return fault.Newf(fault.Unavailable, object, "the server answers %s", resp.Status).Do("correct the url in the partition's boot configuration, or put the file there")
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return unavailable(object, "was not delivered whole", err)
	}
	if len(data) > most {
		return fault.Newf(fault.Invalid, object, "is larger than %d MiB", most>>20)
	}
	sum := sha256.Sum256(data)
	*d = download{from, resp.Header.Get("ETag"), resp.Header.Get("Last-Modified"), data, hex.EncodeToString(sum[:])}
	return nil
}

package site

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
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

// Media builds the partition's boot media, one of each kind that is wanted, and
// serves them to the BMCs. What changes at the wanted urls is on the medium
// within a minute, and in effect at the next boot.
type Media struct {
	cfg            MediaConfig
	kernel, initrd download

	mu     sync.Mutex
	served map[ingotv1.BootMedium]served
	remade chan struct{} // closed and replaced when there is another medium
}

// served is a medium and the digest of what it was built from.
type served struct {
	medium *ingotv1.Medium
	inputs string
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
	// IPXE is iPXE for UEFI, with HTTPS and ECDSA (package ipxe in Debian, from
	// version 2.0); needed only where a machine shall boot it.
	IPXE string
	// Files serves what iPXE loads; nil if this host is not in the boot
	// network.
	Files *Files
	// Client fetches kernel and initrd.
	Client *http.Client
	Log    *slog.Logger
}

// NewMedia returns Media that have no medium yet.
func NewMedia(c MediaConfig) (*Media, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	return &Media{cfg: c, served: map[ingotv1.BootMedium]served{}, remade: make(chan struct{})}, nil
}

// Name implements Part.
func (m *Media) Name() string { return "boot" }

// Run implements Part.
func (m *Media) Run(ctx context.Context, wanted Wanted) {
	follow(ctx, m.cfg.Log, m.Name(), wanted, m.Step)
}

// Medium returns the medium of a kind that is served, nil if there is none yet,
// and a channel that is closed when there is another one of any kind.
func (m *Media) Medium(kind ingotv1.BootMedium) (*ingotv1.Medium, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.served[kind].medium, m.remade
}

// refetch is how often the wanted urls are looked at for new content.
const refetch = time.Minute

// kinds are the media that are wanted: the partition's, and those of machines
// that boot another one.
func kinds(w *ingotv1.SiteWanted) []ingotv1.BootMedium {
	all := []ingotv1.BootMedium{ingotv1.BootMedium_BOOT_MEDIUM_UKI}
	if k := w.GetFabric().GetBootMedium(); k != ingotv1.BootMedium_BOOT_MEDIUM_UNSPECIFIED {
		all[0] = k
	}
	for _, b := range w.GetBmcs() {
		if k := b.GetBootMedium(); k != ingotv1.BootMedium_BOOT_MEDIUM_UNSPECIFIED && k != ingotv1.BootMedium_BOOT_MEDIUM_STICK && !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// Step builds the media anew of which anything has changed that they are made
// from, and reports them.
func (m *Media) Step(ctx context.Context, w *ingotv1.SiteWanted) (time.Duration, error) {
	missing := m.fetch(ctx, w)
	var failed error
	for _, kind := range kinds(w) {
		failed = errors.Join(failed, m.provide(ctx, w, kind, missing))
	}
	return refetch, failed
}

// fetch fetches kernel and initrd, if they have changed.
func (m *Media) fetch(ctx context.Context, w *ingotv1.SiteWanted) error {
	if w.GetKernelUrl() == "" || w.GetInitrdUrl() == "" {
		return fault.New(fault.Precondition, "partition "+m.cfg.Partition, "has no boot configuration", "set kernel and image url of the partition")
	}
	if err := m.kernel.get(ctx, m.cfg.Client, w.GetKernelUrl()); err != nil {
		return err
	}
	return m.initrd.get(ctx, m.cfg.Client, w.GetInitrdUrl())
}

// provide builds and reports one medium, unless nothing has changed; missing is
// why kernel or initrd are not there.
func (m *Media) provide(ctx context.Context, w *ingotv1.SiteWanted, kind ingotv1.BootMedium, missing error) error {
	var made served
	var files *ingotv1.BootFiles
	err := missing
	if err == nil {
		made, err = m.build(w, kind)
	}
	if err == nil && kind == ingotv1.BootMedium_BOOT_MEDIUM_IPXE {
		files, err = m.offer(ctx, w)
	}
	if err == nil && made.medium == nil && files == nil {
		return nil // unchanged
	}
	old, _ := m.Medium(kind)
	report := cmp.Or(made.medium, old)
	if err != nil {
		report = &ingotv1.Medium{Kind: kind, Error: err.Error()}
		if old != nil { // still served
			report.Url, report.Sha256, report.Size, report.Built = old.GetUrl(), old.GetSha256(), old.GetSize(), old.GetBuilt()
		}
	} else if made.medium != nil {
		m.mu.Lock()
		m.served[kind] = made
		close(m.remade)
		m.remade = make(chan struct{})
		m.mu.Unlock()
		m.cfg.Log.Info("boot medium built", "kind", kind, "sha256", made.medium.GetSha256(), "bytes", made.medium.GetSize())
	}
	_, told := m.cfg.API.Cached(ctx, connect.NewRequest(&ingotv1.SiteServiceCachedRequest{Partition: m.cfg.Partition, Medium: report, BootFiles: files}))
	if err != nil {
		return err
	}
	if told != nil { // report it again
		m.mu.Lock()
		m.served[kind] = served{medium: m.served[kind].medium}
		m.mu.Unlock()
		m.cfg.Files.untold()
		return unavailable("boot medium", "cannot be reported", told)
	}
	return nil
}

// build returns a new medium; none if the current one is still right.
func (m *Media) build(w *ingotv1.SiteWanted, kind ingotv1.BootMedium) (served, error) {
	metalBoot := boot.URL(w.GetFabric().GetBootDomain(), w.GetFabric().GetBootAddress())
	var program []byte // what the firmware starts
	var err error
	switch kind {
	case ingotv1.BootMedium_BOOT_MEDIUM_IPXE:
		if m.cfg.IPXE == "" {
			return served{}, fault.New(fault.Precondition, "boot medium", "this site has no iPXE", "name the file with --ipxe-file")
		}
		program, err = os.ReadFile(m.cfg.IPXE)
	default:
		program, err = os.ReadFile(m.cfg.Stub)
	}
	if err != nil {
		return served{}, unavailable("boot medium", "its EFI program cannot be read", err)
	}
	inputs := digest(kind.String(), string(program), metalBoot.String())
	if kind != ingotv1.BootMedium_BOOT_MEDIUM_IPXE {
		inputs = digest(inputs, m.kernel.sha256, m.initrd.sha256, w.GetCommandLine(), w.GetCa())
	}
	m.mu.Lock()
	same := inputs == m.served[kind].inputs
	m.mu.Unlock()
	if same {
		return served{}, nil
	}
	medium := &ingotv1.Medium{Kind: kind, Built: timestamppb.Now()}
	var iso []byte
	if kind == ingotv1.BootMedium_BOOT_MEDIUM_IPXE {
		iso, err = boot.IPXE{Partition: m.cfg.Partition, Program: program, Boot: metalBoot}.ISO()
	} else {
		medium.KernelSha256, medium.InitrdSha256 = m.kernel.sha256, m.initrd.sha256
		iso, err = boot.Medium{
			Partition: m.cfg.Partition, Stub: program, Kernel: m.kernel.data, Initrd: m.initrd.data,
			CommandLine: w.GetCommandLine(), Boot: metalBoot, CA: []byte(w.GetCa()),
		}.ISO()
	}
	if err != nil {
		return served{}, err
	}
	sum := sha256.Sum256(iso)
	medium.Sha256, medium.Size = hex.EncodeToString(sum[:]), uint64(len(iso))
	medium.Url = m.cfg.URL.JoinPath(medium.GetSha256() + ".iso").String()
	return served{medium, inputs}, m.keep(medium.GetSha256()+".iso", iso)
}

// offer makes kernel and initrd ready for iPXE; nil if they are so already.
func (m *Media) offer(ctx context.Context, w *ingotv1.SiteWanted) (*ingotv1.BootFiles, error) {
	if m.cfg.Files == nil {
		return nil, fault.New(fault.Precondition, "boot files", "this host is not in the boot network", "name the ports that lead to leaves with --boot-ports")
	}
	initrd, err := boot.WithTrust(m.initrd.data, []byte(w.GetCa()))
	if err != nil {
		return nil, err
	}
	return m.cfg.Files.Offer(ctx, offer{m.kernel.url, m.initrd.url, m.kernel.data, initrd})
}

// digest is one of several texts, each with its length.
func digest(texts ...string) string {
	sum := sha256.New()
	for _, s := range texts {
		fmt.Fprintf(sum, "%d %s\n", len(s), s)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// keep writes a medium so that it is there whole or not at all, and removes
// all but those that are served and the one before it: a BMC may be reading
// that one.
func (m *Media) keep(name string, iso []byte) error {
	tmp := filepath.Join(m.cfg.Dir, "new")
	if err := os.WriteFile(tmp, iso, 0o644); err != nil {
		return unavailable("boot medium", "cannot be written", err)
	}
	if err := os.Rename(tmp, filepath.Join(m.cfg.Dir, name)); err != nil {
		return unavailable("boot medium", "cannot be written", err)
	}
	stay := []string{name}
	m.mu.Lock()
	for _, s := range m.served {
		stay = append(stay, path.Base(s.medium.GetUrl()))
	}
	m.mu.Unlock()
	found, err := filepath.Glob(filepath.Join(m.cfg.Dir, "*.iso"))
	if err != nil {
		return err
	}
	for _, f := range found {
		if b := filepath.Base(f); !slices.Contains(stay, b) {
			if err := os.Remove(f); err != nil {
				m.cfg.Log.Warn("an old boot medium stays", "file", b, "error", err)
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
		http.ServeFile(w, r, filepath.Join(m.cfg.Dir, name))
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

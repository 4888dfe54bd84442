package agent

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/fault"
)

// mounts a fresh kernel needs, in order.
var kernelMounts = []struct{ kind, at, options string }{
	{"proc", "/proc", ""},
	{"sysfs", "/sys", ""},
	{"devtmpfs", "/dev", "mode=0755"},
	{"devpts", "/dev/pts", ""},
	{"tmpfs", "/run", "mode=0755"},
	{"tmpfs", "/tmp", "mode=1777"},
	{"tmpfs", "/mnt", "mode=0755"},
	{"securityfs", "/sys/kernel/security", ""},
	{"efivarfs", "/sys/firmware/efi/efivars", ""},
}

// searchPath is where the boot image keeps the tools it runs.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// required are modules that no device asks for.
var required = []string{"efivarfs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "ext4"}

// Prepare makes a process that the kernel started as /init feel at home: it
// mounts the kernel's file systems and loads the modules of the devices.
// Problems are logged; those that matter show in a later step.
func Prepare(log *slog.Logger) {
	if err := os.Setenv("PATH", searchPath); err != nil {
		log.Warn("no search path", "error", err)
	}
	for _, m := range kernelMounts {
		if m.kind == "efivarfs" { // its module needs /sys first
			LoadModules(log, required)
		}
		if err := os.MkdirAll(m.at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			continue // below a file system that is not there
		}
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NOEXEC, m.options); err != nil && err != unix.EBUSY {
			log.Debug("not mounted", "path", m.at, "error", err)
		}
	}
	// Stacked devices appear while drivers load: twice is enough for a disk
	// behind a controller behind a bus.
	for range 2 {
		LoadModules(log, wanted(log))
	}
}

// LoadModules loads modules with what they depend on. Those that the kernel
// has built in, or the image does not have, are passed over.
func LoadModules(log *slog.Logger, names []string) {
	for _, name := range names {
		if err := kmodule.Probe(name, ""); err != nil && !errors.Is(err, fs.ErrExist) {
			log.Debug("module not loaded", "module", name, "error", err)
		}
	}
}

// wanted returns the modules whose alias patterns match a device's modalias.
func wanted(log *slog.Logger) []string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]), "modules.alias"))
	if err != nil {
		log.Warn("no module aliases", "error", err)
		return nil
	}
	defer f.Close()
	var devices []string
	found, _ := filepath.Glob("/sys/bus/*/devices/*/modalias")
	for _, p := range found {
		if b, err := os.ReadFile(p); err == nil {
			devices = append(devices, strings.TrimSpace(string(b)))
		}
	}
	return matchAliases(bufio.NewScanner(f), devices)
}

// matchAliases reads lines "alias PATTERN MODULE" and returns the modules of
// the patterns that match a device, each once (modules.alias, depmod(8)).
func matchAliases(aliases *bufio.Scanner, devices []string) []string {
	var out []string
	seen := map[string]bool{}
	for aliases.Scan() {
		f := strings.Fields(aliases.Text())
		if len(f) != 3 || f[0] != "alias" || seen[f[2]] {
			continue
		}
		for _, d := range devices {
			if ok, err := filepath.Match(f[1], d); err == nil && ok {
				seen[f[2]] = true
				out = append(out, f[2])
				break
			}
		}
	}
	return out
}

// Medium is where the boot medium keeps what the agent must trust.
const Medium = "/etc/ingot"

// FromMedium returns the configuration that came with the boot medium: the
// partition's certificate authority inside the initrd, and metal-boot's url on
// the kernel command line.
func FromMedium(dir, commandLine string) (Config, error) {
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return Config{}, fault.Wrap(fault.Invalid, "boot medium", "has no certificate authority", err).Do("build the medium again")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return Config{}, fault.New(fault.Invalid, "boot medium", "has a certificate authority that is not PEM", "build the medium again")
	}
	for _, arg := range strings.Fields(commandLine) {
		if v, ok := strings.CutPrefix(arg, "ingot.boot="); ok {
			u, err := url.Parse(v)
			if err != nil || u.Scheme != "https" || u.Host == "" {
				return Config{}, fault.New(fault.Invalid, "boot medium", fmt.Sprintf("names %q, which is no https url, as metal-boot", v), "build the medium again")
			}
			return Config{Boot: u, CA: pool}, nil
		}
	}
	return Config{}, fault.New(fault.Invalid, "boot medium", "does not say where metal-boot is", "add ingot.boot=https://... to the kernel command line")
}

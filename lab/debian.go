package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// A debianRoot names the Debian packages an unpacked tree is made of. They are
// fetched with everything they depend on and never configured: no package
// script runs, so an ordinary user can do it.
type debianRoot struct {
	suite    string
	packages []string
	// pins are SHA-256 sums of .deb files by file name, for the few packages
	// whose exact version matters. A file of that name must have that sum.
	pins map[string]string
}

// guestRoot is what the lab's guests are made of. Debian 12 is what Ingot's
// boot image and switch agent are tested against.
var guestRoot = debianRoot{
	suite: "bookworm",
	packages: []string{
		"linux-image-cloud-amd64", "systemd-boot-efi", "busybox-static",
		"frr", "iproute2", "nftables", "dropbear-bin", "e2fsprogs", "dosfstools", "util-linux",
	},
}

// firmwareRoot holds the UEFI firmware. Debian 12's own takes 2.7 s to its
// boot selection in software emulation, this one 0.5 s.
var firmwareRoot = debianRoot{
	suite:    "trixie",
	packages: []string{"ovmf"},
	pins: map[string]string{
		"ovmf_2025.02-8+deb13u1_all.deb": "78e0d54df11fc77406cb7a0bc9a39e5bca6d1cbe06556b91d9a73491c52decdf",
	},
}

// ipxeRoot holds iPXE. Those of Debian 12 and 13 do not know the kind of
// certificates that Ingot's authority makes (ECDSA).
var ipxeRoot = debianRoot{
	suite:    "forky",
	packages: []string{"ipxe"},
	pins: map[string]string{
		"ipxe_2.0.0+dfsg-5_all.deb": "f0f2b3df949f3207e2ca5c1324d23d0ad94a968c3d53e18ed8ea57b12f24a4bb",
	},
}

// unpack returns the folder of the unpacked tree of r: the tree is below
// "root", the list of its packages with their sums in "manifest".
func (c *Cache) unpack(ctx context.Context, r debianRoot) (string, error) {
	name := "debian-" + r.suite
	inputs := append([]string{"1", r.suite}, r.packages...)
	return c.build(ctx, name, inputs, func(dir string) error {
		a, err := newApt(ctx, r.suite)
		if err != nil {
			return err
		}
		defer os.RemoveAll(a.dir)
		c.say("%s: fetching %s", name, strings.Join(r.packages, " "))
		debs, err := a.fetch(ctx, r.packages)
		if err != nil {
			return err
		}
		root := filepath.Join(dir, "root")
		var manifest strings.Builder
		for _, deb := range debs {
			sum, err := hashFile(deb)
			if err != nil {
				return err
			}
			// apt escapes the colon of an epoch in file names.
			file := strings.ReplaceAll(filepath.Base(deb), "%3a", ":")
			if want, pinned := r.pins[file]; pinned && want != sum {
				return fmt.Errorf("%s: has sha256 %s, want %s", file, sum, want)
			}
			fmt.Fprintf(&manifest, "%s %s\n", sum, file)
			if err := run(ctx, "dpkg-deb", "-x", deb, root); err != nil {
				return err
			}
		}
		c.warnUnpinned(r, manifest.String())
		return os.WriteFile(filepath.Join(dir, "manifest"), []byte(manifest.String()), 0o644)
	})
}

// packageVersion returns the version of a package in an unpacked tree.
func packageVersion(dir, name string) (string, error) {
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(manifest)) {
		_, file, _ := strings.Cut(line, " ")
		if rest, ok := strings.CutPrefix(file, name+"_"); ok {
			version, _, _ := strings.Cut(rest, "_")
			return version, nil
		}
	}
	return "", fmt.Errorf("%s: has no package %s", dir, name)
}

// warnUnpinned says which pinned packages the mirror has replaced by newer
// ones. apt has checked the signature of those, but nobody tried them here.
func (c *Cache) warnUnpinned(r debianRoot, manifest string) {
	for file := range r.pins {
		if !strings.Contains(manifest, " "+file+"\n") {
			c.say("debian-%s: the mirror no longer has %s; its successor, signed by the archive, is used untried", r.suite, file)
		}
	}
}

// apt is a private apt: own lists, own cache, own (empty) idea of what is
// installed. It shares with the machine's apt only the address of the mirror
// and the archive's keys, and needs no privilege.
type apt struct {
	dir     string
	options []string
}

// archiveKeys is where every Debian machine keeps the archive's public keys.
const archiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

func newApt(ctx context.Context, suite string) (*apt, error) {
	uri, err := mirror(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ingot-apt-")
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n", uri, suite)
	if _, err := os.Stat(archiveKeys); err == nil {
		source += "Signed-By: " + archiveKeys + "\n"
	}
	for _, d := range []string{"lists/partial", "archives/partial", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for file, content := range map[string]string{"apt.sources": source, "status": ""} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	a := &apt{dir: dir}
	for _, o := range []string{
		"Dir::State=" + dir + "/state", "Dir::State::Lists=" + dir + "/lists", "Dir::State::status=" + dir + "/status",
		"Dir::Cache=" + dir, "Dir::Cache::archives=" + dir + "/archives", "Dir::Log=" + dir,
		"Dir::Etc::SourceList=" + dir + "/apt.sources", "Dir::Etc::SourceParts=/dev/null",
		"Dir::Etc::Preferences=/dev/null", "Dir::Etc::PreferencesParts=/dev/null",
		"APT::Architecture=amd64", "APT::Install-Recommends=false", "APT::Sandbox::User=",
		"Acquire::Languages=none", "Acquire::Retries=3", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	} {
		a.options = append(a.options, "-o", o)
	}
	return a, nil
}

// fetch downloads the packages with all they depend on and returns the files.
func (a *apt) fetch(ctx context.Context, packages []string) ([]string, error) {
	if err := run(ctx, "apt-get", append([]string{"-q"}, append(a.options, "update")...)...); err != nil {
		return nil, err
	}
	args := append([]string{"-q", "-y", "--download-only"}, a.options...)
	if err := run(ctx, "apt-get", append(append(args, "install"), packages...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "archives", "*.deb"))
	sort.Strings(debs)
	return debs, err
}

// mirror returns the address of the Debian mirror that the machine's own apt
// uses for its own release.
func mirror(ctx context.Context) (string, error) {
	release, err := osRelease("/etc/os-release")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		suite, uri, _ := strings.Cut(strings.TrimSpace(line), " ")
		if suite != "" && suite == release["VERSION_CODENAME"] {
			return uri, nil
		}
	}
	return "", fmt.Errorf("apt: no source for this machine's release %q; the lab takes its guests from a Debian mirror", release["VERSION_CODENAME"])
}

// osRelease reads an os-release(5) file.
func osRelease(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), "="); ok {
			m[k] = strings.Trim(v, `"'`)
		}
	}
	return m, s.Err()
}

// run runs a program to its end. Its output is shown only when it fails.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(out, 2000))
	}
	return nil
}

// tail returns the last n bytes of b.
func tail(b []byte, n int) []byte {
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return b
}

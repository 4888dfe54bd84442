package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/ingot-cloud/ingot/fault"
)

// A config is the file that keeps contexts.
type config struct {
	Current  string              `yaml:"current,omitempty"`
	Contexts map[string]*profile `yaml:"contexts,omitempty"`

	path string
}

// A profile is one context: a server and how to speak to it.
type profile struct {
	APIURL    string `yaml:"api-url"`
	CAFile    string `yaml:"ca-file,omitempty"`
	Token     string `yaml:"token,omitempty"`
	Project   string `yaml:"project,omitempty"`
	Partition string `yaml:"partition,omitempty"`
	Admin     bool   `yaml:"admin,omitempty"`
}

// configPath follows the XDG base directory specification.
func configPath(env func(string) string) (string, error) {
	dir := env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // "must be absolute", otherwise ignored
		home := env("HOME")
		if home == "" {
			return "", fault.New(fault.Precondition, "config", "neither XDG_CONFIG_HOME nor HOME is set", "set one of them")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "ingot", "config.yaml"), nil
}

// loadConfig reads the file. One that does not exist is empty; one that others
// can read is refused, because it holds tokens.
func loadConfig(env func(string) string) (*config, error) {
	path, err := configPath(env)
	if err != nil {
		return nil, err
	}
	c := &config{path: path, Contexts: map[string]*profile{}}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Precondition, path, fmt.Sprintf("mode %#o lets others read your tokens", info.Mode().Perm()), "run: chmod 600 "+path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(b, c); err != nil {
		return nil, fault.Wrap(fault.Invalid, path, "not a configuration of ingot", err)
	}
	for name, p := range c.Contexts {
		if p == nil {
			delete(c.Contexts, name)
		}
	}
	if c.Contexts == nil {
		c.Contexts = map[string]*profile{}
	}
	return c, nil
}

// save replaces the file in one step.
func (c *config) save() error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	dir := filepath.Dir(c.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".config-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.path)
}

// get returns a context by name.
func (c *config) get(name string) (*profile, error) {
	p := c.Contexts[name]
	if p == nil {
		return nil, fault.New(fault.NotFound, "context "+name, "not found", "see 'ingot context list'")
	}
	return p, nil
}

// effective returns the profile in use: the context that flags, environment or
// file select, and on top of it the environment's and the flags' values.
func (c *config) effective(env func(string) string, flags profile, context string) (profile, error) {
	var out profile
	name := first(context, env("INGOT_CONTEXT"), c.Current)
	if name != "" {
		p, err := c.get(name)
		if err != nil {
			return out, err
		}
		out = *p
	}
	out.APIURL = first(flags.APIURL, env("INGOT_API_URL"), out.APIURL)
	out.CAFile = first(flags.CAFile, env("INGOT_CA_FILE"), out.CAFile)
	out.Token = first(flags.Token, env("INGOT_TOKEN"), out.Token)
	out.Project = first(flags.Project, env("INGOT_PROJECT"), out.Project)
	out.Admin = flags.Admin || out.Admin
	return out, nil
}

// scope returns the profile's value for a scope that a method requires.
func (p profile) scope(name string) string {
	switch name {
	case "project":
		return p.Project
	case "partition":
		return p.Partition
	}
	return ""
}

// server checks that there is somebody to speak to.
func (p profile) server() error {
	if p.APIURL == "" {
		return fault.New(fault.Precondition, "server", "none is known", "run 'ingot login --api-url URL --ca-file FILE --token-file FILE', or set INGOT_API_URL")
	}
	u, err := url.Parse(p.APIURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return fault.Newf(fault.Invalid, "server", "%q is not a url such as https://api.example.org:8443", p.APIURL)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fault.New(fault.Invalid, "server", p.APIURL+" would carry your token in clear", "use https")
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

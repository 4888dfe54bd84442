package api_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A frontDesk is an SSH server for consoles, and OpenSSH's client.
type frontDesk struct {
	*world
	dir, host, port string
	known           string // file with the host's key
}

func (w *world) frontDesk(t *testing.T, idle time.Duration) *frontDesk {
	t.Helper()
	d, err := w.srv.NewSSH(t.Context())
	check(t, err)
	d.Idle = idle
	again, err := w.srv.NewSSH(t.Context())
	check(t, err)
	if d.Fingerprint() != again.Fingerprint() {
		t.Error("the host's key is made each time")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- d.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); check(t, <-ended) })
	f := &frontDesk{world: w, dir: t.TempDir()}
	f.host, f.port, err = net.SplitHostPort(l.Addr().String())
	check(t, err)
	f.known = filepath.Join(f.dir, "known_hosts")
	c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if ssh.FingerprintSHA256(key) != d.Fingerprint() {
			t.Error("the host shows another key")
		}
		return os.WriteFile(f.known, fmt.Appendf(nil, "[%s]:%s %s", f.host, f.port, ssh.MarshalAuthorizedKey(key)), 0o600)
	}})
	if err == nil {
		c.Close()
		t.Error("logged in without a key")
	}
	return f
}

// key makes a key and returns its file and its public line.
func (f *frontDesk) key(t *testing.T, name string) (file, public string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(private, name)
	check(t, err)
	file = filepath.Join(f.dir, name)
	check(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	signer, err := ssh.NewSignerFromKey(private)
	check(t, err)
	return file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + name
}

// sets has an allocation have these keys.
func (f *frontDesk) sets(t *testing.T, machine string, keys ...string) {
	t.Helper()
	check(t, f.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := records.Allocations.Change(tx, machine, func(a *privatev1.Allocation) error {
			a.Allocation.SshPublicKeys = keys
			return nil
		})
		return err
	}))
}

// A sshClient is OpenSSH's, at work.
type sshClient struct {
	t   *testing.T
	in  io.WriteCloser
	cmd *exec.Cmd

	mu   sync.Mutex
	seen bytes.Buffer
}

func (c *sshClient) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.Write(p)
}

// ssh starts OpenSSH's client with a terminal.
func (f *frontDesk) ssh(t *testing.T, key, user string, more ...string) *sshClient {
	t.Helper()
	c := &sshClient{t: t}
	args := []string{
		"-F", "none", "-tt", "-p", f.port, "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + f.known, "-o", "GlobalKnownHostsFile=none",
	}
	c.cmd = exec.CommandContext(t.Context(), "ssh", append(append(args, more...), user+"@"+f.host)...)
	c.cmd.Stdout, c.cmd.Stderr = c, c
	var err error
	c.in, err = c.cmd.StdinPipe()
	check(t, err)
	check(t, c.cmd.Start())
	t.Cleanup(func() { _ = c.in.Close(); _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	return c
}

func (c *sshClient) types(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *sshClient) shows(want string) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		seen := c.seen.String()
		c.mu.Unlock()
		if strings.Contains(seen, want) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("ssh never shows %q, but %q", want, seen)
		}
	}
}

// ends waits until the client has ended and returns its exit code and what it
// showed.
func (c *sshClient) ends() (int, string) {
	c.t.Helper()
	t := time.AfterFunc(20*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer t.Stop()
	_ = c.cmd.Wait() // the exit code says it
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.ProcessState.ExitCode(), c.seen.String()
}

// OpenSSH's client gets to a console with a key of the allocation, and to
// nothing else.
func TestSSH(t *testing.T) {
	w := newWorld(t)
	f := w.frontDesk(t, time.Hour)
	p := w.project(w.tenant("t1"))
	m, a := w.machineWithBMC("p1", p)
	alice, alicePublic := f.key(t, "alice")
	bob, bobPublic := f.key(t, "bob")
	mallory, _ := f.key(t, "mallory")
	f.sets(t, m, "not a key", alicePublic, bobPublic)
	s := w.consoleSite(t, "p1")
	reader := w.operatorReads(t, m, 1000, true)
	r := s.reading(m)
	y := s.typewriter(m, r)
	check(t, s.send(s.open(m, r, 0, "of the last tenant ", "")))
	check(t, s.send(s.open(m, r, 19, "\x1b]0;title\x07web1 login: ", a)))
	reader.sees("of the last tenant \x1b]0;title\x07web1 login: ")

	one := f.ssh(t, alice, m)
	one.shows("web1 login: ")
	one.types("root\rs3cret-word\r")
	until(t, "what is typed", func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		return y.paper.String() == "root\rs3cret-word\r"
	})
	two := f.ssh(t, bob, m)
	two.shows("the holder of ssh key SHA256:")
	two.shows("web1 login: ")
	two.types("nobody hears this")
	taker := f.ssh(t, bob, m+"+take")
	one.shows("writes now; you still read")
	taker.types("taken\r")
	until(t, "what is typed", func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		return strings.HasSuffix(y.paper.String(), "word\rtaken\r")
	})
	check(t, s.send(s.open(m, r, 41, "# ", a)))
	for _, c := range []*sshClient{one, two, taker} {
		c.shows("# ")
	}
	y.answers(func(*ingotv1.ConsoleServiceKeysResponse) ingotv1.ConsoleKeys {
		return ingotv1.ConsoleKeys_CONSOLE_KEYS_CLOSED
	})
	taker.types("x")
	taker.shows("nothing was typed: its console is not open; try again")
	readOnly := f.ssh(t, alice, m+"+read")
	readOnly.shows("# ")
	readOnly.types("nobody hears this")
	two.types("\r~.") // a matter of ssh's own
	if code, seen := two.ends(); code != 255 || strings.Contains(seen, "last tenant") || strings.Contains(seen, "title") {
		t.Errorf("left with %d: %q", code, seen)
	}

	for _, c := range []struct{ what, key, user, want string }{
		{"a stranger", mallory, m, "Permission denied"},
		{"another machine", alice, "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f01", "Permission denied"},
		{"no machine", alice, "root", "Permission denied"},
		{"a wish", alice, m + "+sudo", "Permission denied"},
	} {
		if code, seen := f.ssh(t, c.key, c.user).ends(); code != 255 || !strings.Contains(seen, c.want) {
			t.Errorf("%s: exit code %d, %q", c.what, code, seen)
		}
	}

	// A key that is taken from the allocation ends its sessions; so does the end
	// of the allocation.
	f.sets(t, m, alicePublic)
	if code, seen := taker.ends(); code != 1 || !strings.Contains(seen, "no longer allocated with this ssh key") {
		t.Errorf("without a key: exit code %d, %q", code, seen)
	}
	w.allocate(m, "")
	for _, c := range []*sshClient{one, readOnly} {
		if code, seen := c.ends(); code != 1 || !strings.Contains(seen, "no longer allocated") {
			t.Errorf("without an allocation: exit code %d, %q", code, seen)
		}
	}
	s.isWritten(m, false)
	if code, seen := f.ssh(t, alice, m).ends(); code != 255 || !strings.Contains(seen, "Permission denied") {
		t.Errorf("after the allocation: exit code %d, %q", code, seen)
	}
	y.typed("root\rs3cret-word\rtaken\r")
}

// There is a console, and nothing else.
func TestSSHServesNothingElse(t *testing.T) {
	w := newWorld(t)
	f := w.frontDesk(t, time.Hour)
	m, _ := w.machineWithBMC("p1", w.project(w.tenant("t1")))
	key, public := f.key(t, "alice")
	f.sets(t, m, public)
	text, err := os.ReadFile(key)
	check(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	check(t, err)
	dial := func() *ssh.Client {
		c, err := ssh.Dial("tcp", net.JoinHostPort(f.host, f.port), &ssh.ClientConfig{
			User: m, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
		})
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial()
	if conn, err := c.Dial("tcp", "127.0.0.1:22"); err == nil {
		conn.Close()
		t.Error("forwards to other hosts")
	}
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("forwards from other hosts")
	}
	for what, ask := range map[string]func(*ssh.Session) error{
		"a command":                func(s *ssh.Session) error { return s.Start("id") },
		"a subsystem":              func(s *ssh.Session) error { return s.RequestSubsystem("sftp") },
		"a shell without terminal": func(s *ssh.Session) error { return s.Shell() },
	} {
		s, err := dial().NewSession()
		check(t, err)
		if err := ask(s); err == nil {
			t.Errorf("%s is served", what)
		}
	}
	s, err := c.NewSession()
	check(t, err)
	for _, what := range []string{"env", "x11-req", "auth-agent-req@openssh.com"} {
		if ok, err := s.SendRequest(what, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", what, ok, err)
		}
	}
	check(t, s.RequestPty("xterm", 24, 80, nil))
	check(t, s.Shell())
	if more, err := c.NewSession(); err == nil {
		more.Close()
		t.Error("there is a second session")
	}

	// Who opens many connections is let wait.
	var open []net.Conn
	refused := false
	for range 40 {
		conn, err := net.Dial("tcp", net.JoinHostPort(f.host, f.port))
		check(t, err)
		open = append(open, conn)
		check(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			refused = true
			break
		}
	}
	for _, conn := range open {
		conn.Close()
	}
	if !refused {
		t.Errorf("%d connections from one address are served", len(open))
	}
}

// The host's key is sealed in the store.
func TestSSHHostKey(t *testing.T) {
	w := newWorld(t)
	_, err := w.srv.NewSSH(t.Context())
	check(t, err)
	n := 0
	for k := range records.Keys.Prefix(w.db.Snapshot(), records.Key("ssh", "")) {
		n++
		if _, err := x509.ParsePKCS8PrivateKey(k.GetPrivate().GetValue()); err == nil || len(k.GetPrivate().GetValue()) == 0 {
			t.Errorf("the private key is stored in clear: %v", k)
		}
		if _, err := x509.ParsePKIXPublicKey(k.GetPublic()); err != nil {
			t.Error(err)
		}
		if w.clock.Now().AddDate(10, 0, 0).After(k.GetExpires().AsTime()) {
			t.Errorf("the key expires at %s", k.GetExpires().AsTime())
		}
	}
	if n != 1 {
		t.Errorf("%d keys", n)
	}
}

// A session in which nobody types ends, and its pen is free.
func TestSSHIdle(t *testing.T) {
	w := newWorld(t)
	f := w.frontDesk(t, 500*time.Millisecond)
	m, a := w.machineWithBMC("p1", w.project(w.tenant("t1")))
	key, public := f.key(t, "alice")
	f.sets(t, m, public)
	s := w.consoleSite(t, "p1")
	w.operatorReads(t, m, 1000, true)
	check(t, s.send(s.open(m, s.reading(m), 0, "x", a)))
	if code, seen := f.ssh(t, key, m).ends(); code != 1 || !strings.Contains(seen, "nothing has been typed for 500ms") {
		t.Errorf("exit code %d, %q", code, seen)
	}
	s.isWritten(m, false)
}

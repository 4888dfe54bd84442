package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ingot-cloud/ingot/client"
)

// A control is the lab's control plane: ingotd in a process of its own, and
// the command line to speak to it. Nothing of it knows that it is in a lab.
type control struct {
	bin, dir string // folders of the programs, of the state
	addr     string // where the API listens, on the loopback
	consoles string // where consoles are served over SSH
	cmd      *exec.Cmd
	ended    chan struct{}
	err      error
}

// hostSeen is this machine's loopback as guests on a User network see it.
const hostSeen = "10.0.2.2"

// startControl starts ingotd on an empty directory and waits until it serves.
func startControl(ctx context.Context, bin, dir string) (*control, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	consoles, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	c := &control{bin: bin, dir: dir, addr: addr, consoles: consoles}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, c.login(ctx)
}

// start starts the process, at first or again, and waits until it serves.
func (c *control) start(ctx context.Context) error {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "ingotd"), "serve", //nolint:noctx // it outlives ctx, which bounds the start; Close ends it
		"--data-dir", filepath.Join(c.dir, "data"), "--listen", c.addr, "--console-listen", c.consoles, "--host-name", "127.0.0.1,"+hostSeen)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("ingotd: %w", err)
	}
	ended := make(chan struct{})
	c.cmd, c.ended = cmd, ended
	go func() { // ends with the process
		c.err = cmd.Wait()
		close(ended)
	}()
	if err := c.ready(ctx); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// kill ends the process as a power loss would, and waits until it is gone.
func (c *control) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.ended
	return nil
}

// ready waits until the control plane has answered once.
func (c *control) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if roots, err := rootsFrom(c.caFile()); err == nil {
			client := http.Client{Transport: &http.Transport{TLSClientConfig: roots, DisableKeepAlives: true}}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.addr+"/readyz", nil)
			if err != nil {
				return err
			}
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return nil
				}
			}
		}
		select {
		case <-c.ended:
			log, _ := os.ReadFile(c.logFile()) // what can be said without it is said
			return fmt.Errorf("ingotd ended at its start: %w; the end of its log:\n%s", c.err, tail(log, 1000))
		case <-ctx.Done():
			return fmt.Errorf("ingotd does not get ready; see %s", c.logFile())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *control) caFile() string { return filepath.Join(c.dir, "data", "ca.crt") }

func (c *control) logFile() string { return filepath.Join(c.dir, "ingotd.log") }

// api says how the operator reaches the API.
func (c *control) api() client.Config {
	return client.Config{URL: "https://" + c.addr, CAFile: c.caFile(), TokenFile: filepath.Join(c.dir, "data", "admin.token")}
}

// configDir is where the command line keeps the lab's context.
func (c *control) configDir() string { return filepath.Join(c.dir, "config") }

func (c *control) login(ctx context.Context) error {
	api := c.api()
	_, err := c.ingot(ctx, "", "login", "--api-url", api.URL, "--ca-file", api.CAFile, "--token-file", api.TokenFile)
	return err
}

// ingot runs the command line and returns what it prints.
func (c *control) ingot(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "ingot"), args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+c.configDir())
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ingot %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()+out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Close ends ingotd the way an operator would, and kills it if it stays.
func (c *control) Close() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("ingotd did not end in 20 s"), c.cmd.Process.Kill())
	}
}

// freeAddress returns an address on the loopback that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

package leaf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// FRR's daemons each have a socket for vtysh. Ingot speaks to them itself:
// that costs a millisecond, while vtysh takes a hundred times as long to start,
// and the switch is compared with what it shall be every few seconds.
const (
	frrSockets = "/var/run/frr"
	vtyTimeout = 20 * time.Second
	// vtyMost bounds an answer, in bytes.
	vtyMost = 64 << 20
)

// The daemons Ingot needs. Interfaces and VRFs are zebra's, everything else is
// bgpd's.
const (
	zebra = "zebra"
	bgpd  = "bgpd"
)

// A vty is a session with one daemon. The protocol is vtysh's: a command ends
// with a zero byte, an answer with three zero bytes and a status.
type vty struct {
	net.Conn
	daemon string
	stop   func() bool
}

// dial opens a session that ends with ctx at the latest.
func (l *Linux) dial(ctx context.Context, daemon string) (*vty, error) {
	dir := l.Sockets
	if dir == "" {
		dir = frrSockets
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, daemon+".vty"))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "frr", daemon+" does not answer", err).Do("start it; see /etc/frr/daemons")
	}
	v := &vty{Conn: c, daemon: daemon}
	v.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if _, err := v.do("enable"); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// Close ends the session.
func (v *vty) Close() {
	v.stop()
	_ = v.Conn.Close()
}

// do runs a command and returns what it printed. A command that the daemon
// refuses is a fault of kind Precondition.
func (v *vty) do(command string) (string, error) {
	unavailable := func(err error) error {
		return fault.Wrap(fault.Unavailable, "frr", v.daemon+" does not answer", err)
	}
	if _, err := v.Write(append([]byte(command), 0)); err != nil {
		return "", unavailable(err)
	}
	var got []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := v.Read(buf)
		got = append(got, buf[:n]...)
		if i := len(got) - 4; i >= 0 && bytes.Equal(got[i:i+3], []byte{0, 0, 0}) {
			if status := got[i+3]; status != 0 {
				return "", fault.New(fault.Precondition, "frr", fmt.Sprintf("%s refuses %q: %.200s", v.daemon, strings.TrimSpace(command), bytes.TrimSpace(got[:i])), "")
			}
			return string(got[:i]), nil
		}
		if err == nil && len(got) > vtyMost {
			err = errors.New("its answer does not end")
		}
		if err != nil {
			return "", unavailable(err)
		}
	}
}

// ask runs one command in a daemon.
func (l *Linux) ask(ctx context.Context, daemon, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, vtyTimeout)
	defer cancel()
	v, err := l.dial(ctx, daemon)
	if err != nil {
		return "", err
	}
	defer v.Close()
	return v.do(command)
}

// running is FRR's running configuration. What several daemons print counts
// once.
func (l *Linux) running(ctx context.Context) (string, error) {
	var all strings.Builder
	for _, d := range []string{zebra, bgpd} {
		running, err := l.ask(ctx, d, "show running-config")
		if err != nil {
			return "", err
		}
		all.WriteString(running)
	}
	return all.String(), nil
}

// responsible are the daemons that a top-level line of configuration, or its
// negation, is for.
func responsible(line string) []string {
	switch first, _, _ := strings.Cut(strings.TrimPrefix(line, "no "), " "); first {
	case "frr":
		return []string{zebra, bgpd}
	case "interface", "vrf":
		return []string{zebra}
	}
	return []string{bgpd}
}

// configure runs configuration commands, each in the daemons it is for. It
// goes on after a refusal and returns them all.
func (l *Linux) configure(ctx context.Context, commands string) error {
	ctx, cancel := context.WithTimeout(ctx, vtyTimeout)
	defer cancel()
	sessions := map[string]*vty{}
	for _, d := range []string{zebra, bgpd} {
		v, err := l.dial(ctx, d)
		if err != nil {
			return err
		}
		defer v.Close()
		if _, err := v.do("configure terminal"); err != nil {
			return err
		}
		sessions[d] = v
	}
	var refused []error
	var to []string
	for line := range strings.Lines(commands) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "exit") {
			to = responsible(line)
		}
		for _, d := range to {
			_, err := sessions[d].do(line)
			if err != nil && !errors.Is(err, fault.Precondition) {
				return err
			}
			refused = append(refused, err)
		}
	}
	return errors.Join(refused...)
}

const (
	// routeTries is how often what is left of a difference is loaded again:
	// daemons tell each other about a VRF's VNI, and refuse what depends on it
	// until they have heard.
	routeTries = 20
	routePause = 50 * time.Millisecond
)

// route loads one half of what FRR's running configuration differs by, until
// nothing is left of it.
func (l *Linux) route(ctx context.Context, f Files, half func(Delta) string) error {
	var refused error
	for range routeTries {
		running, err := l.running(ctx)
		if err != nil {
			return err
		}
		commands := half(diffFRR(running, f.FRR))
		if commands == "" {
			return nil
		}
		if refused != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(routePause):
			}
		}
		if refused = l.configure(ctx, commands); refused != nil && !errors.Is(refused, fault.Precondition) {
			return refused
		}
		if refused == nil {
			refused = fault.New(fault.Precondition, "frr", "accepts and does not run: "+first(commands), "")
		}
	}
	return fault.Wrap(fault.Precondition, "frr", "does not become what it shall be", refused).Do("look into FRR's log")
}

// first shows the first lines of commands on one line.
func first(commands string) string {
	lines := slices.Collect(strings.Lines(strings.TrimSpace(commands)))
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines[:min(len(lines), 3)], ", ")
}

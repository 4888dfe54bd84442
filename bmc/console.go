package bmc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/fault"
)

// A Talker tells where its server's serial console is.
type Talker interface {
	// Console looks up where the serial console is served over SSH. It returns
	// fault.Unimplemented if the BMC does not serve it, and fault.Precondition
	// if it is switched off.
	Console(ctx context.Context) (Console, error)
}

// A Console is where a BMC serves its server's serial console over SSH (DMTF
// ComputerSystem 1.13, SerialConsole).
type Console struct {
	// UUID is that of the server, as in its inventory.
	UUID string
	// Port is where the BMC's host serves it.
	Port uint16
	// Command is what has to be typed to get from the BMC's own command line
	// to the console; empty if one is there at once.
	Command string
	// Shared is whether who gets out of the console gets to the BMC's own
	// command line, with the BMC's account. Then only those may type who may
	// do everything with the BMC.
	Shared bool
}

// A HostKey is the key that an SSH server showed first. Any other is refused
// from then on. The zero value has seen none.
type HostKey struct {
	mu  sync.Mutex
	key []byte
}

// errHostKey says that an SSH server has another key than it had.
var errHostKey = errors.New("its SSH key is not the one that it showed first")

func (k *HostKey) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		k.key = key.Marshal()
	}
	if !bytes.Equal(k.key, key.Marshal()) {
		return errHostKey
	}
	return nil
}

// Console implements Talker.
func (r *Redfish) Console(ctx context.Context) (Console, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	system, err := r.pass(ctx, unlimited).system()
	if err != nil {
		return Console{}, err
	}
	at := system.SerialConsole.SSH
	switch {
	case !at.ServiceEnabled && at.Port == nil && at.ConsoleEntryCommand == "":
		return Console{}, fault.New(fault.Unimplemented, r.object, "offers no serial console over SSH (Redfish ComputerSystem, SerialConsole)",
			"use the console of the BMC's own web page; newer firmware of the BMC may offer it")
	case !at.ServiceEnabled:
		return Console{}, fault.New(fault.Precondition, r.object, "has its serial console over SSH switched off",
			"switch it on in the BMC (Redfish ComputerSystem, SerialConsole.SSH.ServiceEnabled)")
	}
	c := Console{UUID: trim(system.UUID), Port: 22, Command: at.ConsoleEntryCommand, Shared: at.SharedWithManagerCLI || at.ConsoleEntryCommand != ""}
	if at.Port != nil {
		if *at.Port == 0 || *at.Port > 65535 {
			return Console{}, fault.Newf(fault.Unavailable, r.object, "says that its serial console is at port %d", *at.Port)
		}
		c.Port = uint16(*at.Port)
	}
	return c, nil
}

const (
	// consoleTimeout bounds everything before the console is open. BMCs have
	// slow processors.
	consoleTimeout = 45 * time.Second
	// width and height are those of the terminal that the BMC is told of.
	// width and height are those of the terminal that the BMC is told of.
	width, height = 80, 24
)

// Open logs in to the console of the BMC at e, with the BMC's account, and
// returns it: what is read is shown from now on, what is written is typed. The
// host's key must be the one of the first time. Reading fails when ctx ends or
// the BMC is gone; it ends with io.EOF when the BMC closes the console. Writing
// waits until the BMC takes it. It must be closed, which ends both.
func (c Console) Open(ctx context.Context, e Endpoint, key *HostKey) (io.ReadWriteCloser, error) {
	base, _, err := e.parse()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(u.Hostname(), strconv.Itoa(int(c.Port)))
	object := "bmc " + u.Host + ": console at " + addr
	until := time.Now().Add(consoleTimeout)
	// A BMC that disappears without a word is noticed after a minute.
	d := net.Dialer{Deadline: until, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, explain(object, "connect", err)
	}
	o := &openConsole{conn: conn}
	o.forget = context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = errors.Join(conn.SetDeadline(until), o.login(addr, e, key, c.Command), conn.SetDeadline(time.Time{}))
	if err != nil {
		_ = o.Close()
		if ctx.Err() != nil {
			return nil, fault.Wrap(fault.Unavailable, object, "open", ctx.Err())
		}
		return nil, explainSSH(object, err)
	}
	return o, nil
}

// openConsole is a session with a console.
type openConsole struct {
	conn   net.Conn
	forget func() bool // no longer closes conn with the context
	shown  io.Reader
	typed  io.WriteCloser // never closed by itself: its end would be that of the session
}

// Read implements io.Reader.
func (o *openConsole) Read(b []byte) (int, error) { return o.shown.Read(b) }

// Write implements io.Writer.
func (o *openConsole) Write(b []byte) (int, error) { return o.typed.Write(b) }

// Close ends the session; the BMC notices by the connection.
func (o *openConsole) Close() error {
	o.forget()
	if err := o.conn.Close(); !errors.Is(err, net.ErrClosed) { // the BMC's end of it closes it, too
		return err
	}
	return nil
}

// login makes o.conn a session with the console.
func (o *openConsole) login(addr string, e Endpoint, key *HostKey, command string) error {
	conn, channels, requests, err := ssh.NewClientConn(o.conn, addr, &ssh.ClientConfig{
		User: e.User, HostKeyCallback: key.check,
		Auth: []ssh.AuthMethod{
			ssh.PasswordCallback(func() (string, error) { return e.Password.Reveal(), nil }),
			ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range questions {
					if echos[i] {
						return nil, errors.New("asks for more than a password")
					}
					answers[i] = e.Password.Reveal()
				}
				return answers, nil
			}),
		},
	})
	if err != nil {
		return err
	}
	s, err := ssh.NewClient(conn, channels, requests).NewSession()
	if err != nil {
		return err
	}
	if o.shown, err = s.StdoutPipe(); err != nil {
		return err
	}
	if o.typed, err = s.StdinPipe(); err != nil {
		return err
	}
	// Some BMCs open the console only for a terminal.
	if err := s.RequestPty("vt100", height, width, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		return err
	}
	if err := s.Shell(); err != nil {
		return err
	}
	if command != "" {
		_, err = fmt.Fprintf(o.typed, "%s\r", command)
	}
	return err
}

// explainSSH is explain for what the SSH library says.
func explainSSH(object string, err error) error {
	var algorithms *ssh.AlgorithmNegotiationError
	var refused *ssh.OpenChannelError
	switch {
	case errors.Is(err, errHostKey):
		return fault.New(fault.Denied, object, errHostKey.Error(), "if the BMC was replaced or reset, restart the management server's ingotd; otherwise somebody is between it and the BMC")
	case errors.As(err, &algorithms):
		return fault.Wrap(fault.Unavailable, object, "offers only ways to encrypt that are no longer safe", errors.New(shorten(err.Error()))).Do("update the BMC's firmware")
	case errors.As(err, &refused):
		return fault.Newf(fault.Unavailable, object, "refuses another session: %s", shorten(refused.Message)).Do("close other sessions with the BMC's console")
	case strings.Contains(err.Error(), "unable to authenticate"): // the library has no type for it
		return fault.New(fault.Unauthenticated, object, "log in: refused", "check that the BMC's user may use SSH and the serial console")
	}
	return explain(object, "open", err)
}

package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/fault"
)

// maxConsoles is how many may look at a server's serial console at a time.
const maxConsoles = 8

// A uart is the serial console of a server as its BMC serves it over SSH: what
// the server prints from now on, and what is typed.
type uart struct {
	file   string // that has everything the server prints
	keys   keyboard
	config *ssh.ServerConfig
	free   chan struct{} // one for each that may look

	mu   sync.Mutex
	port int // where it is served; 0 when it is not
}

func newUART(file string, dial func(context.Context) (net.Conn, error), known func(user, password string) bool) (*uart, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	u := &uart{file: file, keys: keyboard{dial: dial}, free: make(chan struct{}, maxConsoles)}
	u.config = &ssh.ServerConfig{
		MaxAuthTries: 3,
		PasswordCallback: func(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if !known(c.User(), string(password)) {
				return nil, fault.New(fault.Unauthenticated, "console", "wrong user or password", "")
			}
			return nil, nil //nolint:nilnil // there are no permissions beyond
		},
	}
	u.config.AddHostKey(signer)
	return u, nil
}

// document is the SerialConsole of a system.
func (u *uart) document(shared bool) object {
	u.mu.Lock()
	defer u.mu.Unlock()
	return object{"MaxConcurrentSessions": maxConsoles, "SSH": object{
		"ServiceEnabled": u.port != 0, "Port": u.port, "SharedWithManagerCLI": shared, "ConsoleEntryCommand": "", "HotKeySequenceDisplay": "~.",
	}}
}

// listen opens a port beside another address, and announces it.
func (u *uart) listen(ctx context.Context, beside net.Addr) (net.Listener, error) {
	host, _, err := net.SplitHostPort(beside.String())
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.port, err = strconv.Atoi(port)
	return l, err
}

// serve serves the console on l until ctx is done, and closes l.
func (u *uart) serve(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer u.keys.close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		all.Go(func() { // ends with the connection, or with ctx
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			u.attend(conn)
		})
	}
}

// attend serves one client.
func (u *uart) attend(conn net.Conn) {
	if conn.SetDeadline(time.Now().Add(30*time.Second)) != nil {
		return
	}
	c, channels, requests, err := ssh.NewServerConn(conn, u.config)
	if err != nil || conn.SetDeadline(time.Time{}) != nil {
		return // clients that do not know the password are not our business
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { ssh.DiscardRequests(requests) })
	for asked := range channels {
		if asked.ChannelType() != "session" {
			_ = asked.Reject(ssh.UnknownChannelType, "there are sessions only")
			continue
		}
		select {
		case u.free <- struct{}{}:
		default:
			_ = asked.Reject(ssh.ResourceShortage, "too many look at the console")
			continue
		}
		all.Go(func() {
			defer func() { <-u.free }()
			if ch, requests, err := asked.Accept(); err == nil {
				u.session(ch, requests)
			}
		})
	}
	_ = c.Close()
}

// session shows the console once a shell is asked for. A terminal may be had.
func (u *uart) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	var all sync.WaitGroup
	gone := make(chan struct{})
	shows := false
	for r := range requests {
		ok := false
		switch r.Type {
		case "pty-req", "window-change", "env":
			ok = true
		case "shell":
			if ok = !shows; ok {
				shows = true
				all.Go(func() { _, _ = io.Copy(&u.keys, ch) })
				at := u.end() // before the client is told that it sees the console
				all.Go(func() {
					u.show(ch, at, gone)
					_ = ch.Close()
				})
			}
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
	close(gone)
	_ = ch.Close()
	all.Wait()
}

// end is how much the server has printed.
func (u *uart) end() int64 {
	if info, err := os.Stat(u.file); err == nil {
		return info.Size()
	}
	return 0
}

// show writes what the server prints from an offset on, until the client is
// gone.
func (u *uart) show(to io.Writer, at int64, gone <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := u.copyFrom(to, at)
		if at += n; err != nil {
			return
		}
		select {
		case <-gone:
			return
		case <-tick.C:
		}
	}
}

// copyFrom writes what the file has from an offset on. There is no file before
// the server has had power.
func (u *uart) copyFrom(to io.Writer, at int64) (int64, error) {
	f, err := os.Open(u.file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(to, f)
}

// A keyboard types on the serial port of a server. A server without power
// hears nothing.
type keyboard struct {
	dial func(context.Context) (net.Conn, error) // nil if there is none

	mu    sync.Mutex
	conn  net.Conn // nil until something is typed
	all   sync.WaitGroup
	ended bool
}

// Write implements io.Writer.
func (k *keyboard) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dial == nil || k.ended {
		return len(p), nil
	}
	for range 2 { // what is there may be of a power cycle ago
		if k.conn == nil {
			conn, err := k.dial(context.Background())
			if err != nil {
				return len(p), nil
			}
			k.conn = conn
			k.all.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // the file has it; ends with conn
		}
		if _, err := k.conn.Write(p); err == nil {
			break
		}
		_ = k.conn.Close()
		k.conn = nil
	}
	return len(p), nil
}

func (k *keyboard) close() {
	k.mu.Lock()
	if k.ended = true; k.conn != nil {
		_ = k.conn.Close()
	}
	k.mu.Unlock()
	k.all.Wait()
}

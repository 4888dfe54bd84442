package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// hostKeyLife is how long the key of the SSH server lives: clients remember it.
const hostKeyLife = 20 * 365 * 24 * time.Hour

// hostKey returns the key of the SSH server, and makes it the first time.
func (s *Server) hostKey(ctx context.Context) (ssh.Signer, error) {
	key, ok := storedHostKey(s.db.Snapshot())
	if !ok {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		made, err := s.sealKey("ssh", newID(), private)
		if err != nil {
			return nil, err
		}
		if made.Public, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
			return nil, err
		}
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			tx.Guard("key/ssh/")
			if key, ok = storedHostKey(tx); ok { // another replica's
				return nil
			}
			key = made
			key.Created, key.Expires = timestamppb.New(tx.Now()), timestamppb.New(tx.Now().Add(hostKeyLife))
			return records.Keys.Insert(tx, key)
		}); err != nil {
			return nil, err
		}
	}
	private, err := s.openKey(key)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

func storedHostKey(r store.Reader) (*privatev1.Key, bool) {
	for k := range records.Keys.Prefix(r, records.Key("ssh", "")) {
		return k, true
	}
	return nil, false
}

// An SSH serves the consoles of machines over SSH, to who has a key that the
// machine was allocated with. The user is the machine's uuid. It has no shell,
// runs nothing and forwards nothing.
type SSH struct {
	*Server
	// Idle is how long nobody may type until a session ends, since it may hold
	// a pen; an hour. It is set before Serve.
	Idle time.Duration

	key    ssh.Signer
	config *ssh.ServerConfig
	guests guests
}

// NewSSH returns an SSH server, which serves nobody yet. It makes the host's
// key if there is none.
func (s *Server) NewSSH(ctx context.Context) (*SSH, error) {
	key, err := s.hostKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("ssh: host key: %w", err)
	}
	d := &SSH{Server: s, Idle: time.Hour, key: key, guests: guests{from: map[string]*guest{}}}
	d.config = &ssh.ServerConfig{ServerVersion: "SSH-2.0-Ingot", MaxAuthTries: 6, PublicKeyCallback: d.authenticate}
	d.config.AddHostKey(key)
	return d, nil
}

// Fingerprint returns that of the host's key, as ssh shows it.
func (d *SSH) Fingerprint() string { return ssh.FingerprintSHA256(d.key.PublicKey()) }

// A visit is what the user name of a connection asks for.
type visit struct {
	machine        string
	readOnly, take bool
}

// parseVisit reads a user name: the uuid of a machine, and how to use its
// console if not as it comes: "+read" types nothing, "+take" takes the pen.
func parseVisit(user string) (visit, bool) {
	id, how, _ := strings.Cut(user, "+")
	v := visit{machine: id, readOnly: how == "read", take: how == "take"}
	u, err := uuid.Parse(id)
	return v, err == nil && u.String() == id && (user == id || v.readOnly || v.take)
}

// errStranger is all that a client is told whose key does not count.
var errStranger = errors.New("not permitted")

// Where a connection's permissions say what it was let in for.
const (
	ofAllocation = "allocation"
	ofKey        = "key"
)

// authenticate lets a key in that is one of the machine's allocation.
func (d *SSH) authenticate(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	v, ok := parseVisit(c.User())
	if !ok || d.db.Fresh() != nil {
		return nil, errStranger
	}
	snap := d.db.Snapshot()
	a, _ := records.Allocations.Peek(snap, v.machine)
	if !allocationHas(snap, v.machine, a.GetAllocation().GetUuid(), string(key.Marshal())) {
		return nil, errStranger
	}
	return &ssh.Permissions{Extensions: map[string]string{ofAllocation: a.GetAllocation().GetUuid(), ofKey: string(key.Marshal())}}, nil
}

// allocationHas reports whether a machine has an allocation, and the
// allocation an ssh key, in its wire format.
func allocationHas(r store.Reader, machine, allocation, key string) bool {
	a, ok := records.Allocations.Peek(r, machine)
	return ok && allocation != "" && a.GetAllocation().GetUuid() == allocation && slices.ContainsFunc(a.GetAllocation().GetSshPublicKeys(), func(line string) bool {
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		return err == nil && string(k.Marshal()) == key
	})
}

// Serve serves on l until ctx ends, and closes l. Connections end with ctx.
func (d *SSH) Serve(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of files, or the client went away
			d.log.Warn("ssh: accept", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		leave, ok := d.guests.enter(conn.RemoteAddr(), time.Now())
		if !ok {
			_ = conn.Close()
			continue
		}
		all.Go(func() { // ends with the connection, or with ctx
			defer leave()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			d.attend(ctx, conn)
		})
	}
}

const (
	// handshake is how long a client may take until it is in.
	handshake = 30 * time.Second
	// farewell is how long it may take to leave when its session is over.
	farewell = 2 * time.Second
)

// attend serves one connection, which has one session at most.
func (d *SSH) attend(ctx context.Context, conn net.Conn) {
	if conn.SetDeadline(time.Now().Add(handshake)) != nil {
		return
	}
	c, channels, requests, err := ssh.NewServerConn(conn, d.config)
	if err != nil {
		d.log.Debug("ssh: refused", "peer", conn.RemoteAddr().String(), "error", err)
		return
	}
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer c.Close()
	all.Go(func() { ssh.DiscardRequests(requests) }) // nothing is forwarded
	late := time.AfterFunc(handshake, func() { _ = c.Close() })
	defer late.Stop()
	for asked := range channels {
		if asked.ChannelType() != "session" {
			_ = asked.Reject(ssh.Prohibited, "there is a console here, and nothing else")
			continue
		}
		ch, requests, err := asked.Accept()
		if err != nil {
			return
		}
		if !awaitShell(ch, requests, late) {
			return
		}
		all.Go(func() {
			for r := range requests { // the size of the window is not the console's
				if r.WantReply {
					_ = r.Reply(false, nil)
				}
			}
			cancel()
		})
		gone := make(chan struct{})
		all.Go(func() {
			defer close(gone)
			for more := range channels {
				_ = more.Reject(ssh.ResourceShortage, "one session is enough")
			}
		})
		d.session(ctx, c, ch, &all)
		select { // the client leaves by itself when it has read everything
		case <-gone:
		case <-time.After(farewell):
		}
		return
	}
}

// awaitShell answers the requests of a session until a shell is asked for on a
// terminal. It reports whether it was.
func awaitShell(ch ssh.Channel, requests <-chan *ssh.Request, late *time.Timer) bool {
	terminal := false
	for r := range requests {
		shell := r.Type == "shell" && terminal
		terminal = terminal || r.Type == "pty-req"
		if r.WantReply {
			_ = r.Reply(shell || r.Type == "pty-req", nil)
		}
		switch {
		case shell:
			return late.Stop()
		case r.Type == "shell" || r.Type == "exec" || r.Type == "subsystem":
			_, _ = fmt.Fprint(ch.Stderr(), "ingot: this is a machine's console: it needs a terminal, and runs no command\r\n")
			_ = ch.Close()
			return false
		}
	}
	return false
}

// guestName is how other writers get to know somebody who came over SSH.
func guestName(key string) string {
	k, err := ssh.ParsePublicKey([]byte(key))
	if err != nil { // it was one a moment ago
		return "somebody with an ssh key"
	}
	return "the holder of ssh key " + ssh.FingerprintSHA256(k)
}

// stillIn returns why a connection must end: the machine, or the key, is no
// longer the allocation's.
func (d *SSH) stillIn(machine, allocation, key string) error {
	if !allocationHas(d.db.Snapshot(), machine, allocation, key) {
		return fault.New(fault.NotFound, "machine "+machine, "is no longer allocated with this ssh key", "")
	}
	return nil
}

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/console"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
)

// A sshSession is a console in use over SSH.
type sshSession struct {
	*SSH
	visit
	ch   ssh.Channel
	pen  *pen // nil to read only
	stay *time.Timer

	mu     sync.Mutex // guards the terminal
	screen *console.Cleaner
}

// session shows the console to a client and types what it types, until either
// ends. What it starts in all ends with the connection.
func (d *SSH) session(ctx context.Context, c *ssh.ServerConn, ch ssh.Channel, all *sync.WaitGroup) {
	ctx, end := context.WithCancelCause(ctx)
	defer ch.Close()
	defer end(nil)
	began := time.Now()
	v, _ := parseVisit(c.User())
	allocation, key := c.Permissions.Extensions[ofAllocation], c.Permissions.Extensions[ofKey]
	s := &sshSession{SSH: d, visit: v, ch: ch, screen: console.ForTerminal(ch)}
	s.stay = time.AfterFunc(d.Idle, func() {
		end(fault.Newf(fault.Unavailable, "console", "nothing has been typed for %s", d.Idle))
		time.AfterFunc(farewell, func() { _ = c.Close() }) // also if the client takes nothing
	})
	defer s.stay.Stop()
	if !v.readOnly {
		s.pen = newPen(guestName(key), &allocation)
	}
	all.Go(func() {
		s.listen(ctx)
		end(nil)
	})
	err := s.look(ctx, key, allocation)
	if cause := context.Cause(ctx); cause != nil && fault.KindOf(cause) != fault.Internal {
		err = cause
	}
	status := uint32(0)
	if err != nil && !errors.Is(err, context.Canceled) {
		status = 1
		s.say(wire(err).Message())
	}
	s.mu.Lock()
	_ = s.screen.Close() // who is gone is not told
	s.mu.Unlock()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	d.log.Info("ssh: console", "machine", v.machine, "peer", c.RemoteAddr().String(), "key", guestName(key), "took", time.Since(began), "error", err)
}

// look shows the console until it may no longer, with the pen if it can be had.
func (s *sshSession) look(ctx context.Context, key, allocation string) error {
	m, err := records.Machines.Get(s.db.Snapshot(), s.machine)
	if err != nil {
		return err
	}
	l := look{
		tail: 16 << 10, follow: true, allocation: allocation, pen: s.pen, take: s.take,
		sees:  func(owner string) bool { return owner == allocation },
		still: func() error { return s.stillIn(s.machine, allocation, key) },
		tell:  s.tell,
	}
	s.say("console of machine " + s.machine + "; ~. ends")
	if err = s.read(ctx, m, l); l.pen == nil || !errors.Is(err, fault.Conflict) {
		return err
	}
	var busy *fault.Error
	if errors.As(err, &busy) {
		s.say(fmt.Sprintf("%s; you read only, and take over as %s+take@...", busy.Fact, s.machine))
	}
	l.pen = nil
	return s.read(ctx, m, l)
}

// tell shows what the console shows and what is to be said about it.
func (s *sshSession) tell(t told) error {
	if t.lost > 0 {
		s.say(fmt.Sprintf("%d bytes are missing here: they came too fast", t.lost))
	}
	if t.notice != "" {
		s.say(t.notice)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.screen.Write(t.data)
	return err
}

func (s *sshSession) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.ch.Write([]byte("\r\ningot: " + text + "\r\n")) // who is gone needs no telling
}

// listen types what comes, while this session has the pen.
func (s *sshSession) listen(ctx context.Context) {
	buf := make([]byte, 4096)
	for {
		n, err := s.ch.Read(buf)
		if err != nil {
			return
		}
		s.stay.Reset(s.Idle)
		if s.pen == nil {
			continue
		}
		r, p, err := s.readings.shown(s.machine, s.pen.id, s.pen.user, false)
		if err != nil { // it was said when the pen was not given, or lost
			continue
		}
		if err := s.write(ctx, r, p, bytes.Clone(buf[:n])); err != nil && ctx.Err() == nil {
			s.say(wire(err).Message())
		}
	}
}

const (
	// maxGuests bounds the connections at a time, maxFrom those from one
	// address, and perMinute how many one address may open in the long run.
	maxGuests, maxFrom, perMinute = 512, 16, 60
)

// guests are the connections there are, by where they come from.
type guests struct {
	mu   sync.Mutex
	open int
	from map[string]*guest
}

// A guest is an address that connections come from.
type guest struct {
	open int
	left float64 // connections that it may open now
	at   time.Time
}

// enter counts a connection, unless there are too many of its kind; then it
// must go. Who was let in calls leave.
func (g *guests) enter(addr net.Addr, now time.Time) (leave func(), ok bool) {
	id := origin(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.from[id]
	if one == nil {
		if len(g.from) >= 16*maxGuests { // many have come once
			g.forget(now)
		}
		if len(g.from) >= 16*maxGuests {
			return nil, false
		}
		one = &guest{left: maxFrom, at: now}
		g.from[id] = one
	}
	one.refill(now)
	if g.open >= maxGuests || one.open >= maxFrom || one.left < 1 {
		return nil, false
	}
	g.open++
	one.open++
	one.left--
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
		one.open--
	}, true
}

// refill adds what an address may open since it was last seen.
func (o *guest) refill(now time.Time) {
	o.left = min(maxFrom, o.left+now.Sub(o.at).Minutes()*perMinute)
	o.at = now
}

// forget drops the addresses that may do what unknown ones may. g.mu is held.
func (g *guests) forget(now time.Time) {
	for id, one := range g.from {
		if one.refill(now); one.open == 0 && one.left == maxFrom {
			delete(g.from, id)
		}
	}
}

// origin is what one client has of addresses: one of IPv4, a /64 of IPv6.
func origin(addr net.Addr) string {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	a := ap.Addr().Unmap()
	if p, err := a.Prefix(64); err == nil && a.Is6() {
		return p.String()
	}
	return a.String()
}

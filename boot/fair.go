package boot

import (
	"net"
	"net/netip"
	"sync"
)

// connectionsPerPort is how many connections one port of the switch, known by
// its /64, may have open with one listener. A server needs a handful.
const connectionsPerPort = 64

// A fair listener refuses connections above the limit of their port, so that
// one server cannot keep the others out.
type fair struct {
	net.Listener
	mu   sync.Mutex
	open map[netip.Prefix]int
}

func newFair(l net.Listener) *fair { return &fair{Listener: l, open: map[netip.Prefix]int{}} }

// Accept returns the next connection of a port that is below its limit.
func (f *fair) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := portOf(c.RemoteAddr().String())
		f.mu.Lock()
		ok := f.open[from] < connectionsPerPort
		if ok {
			f.open[from]++
		}
		f.mu.Unlock()
		if !ok {
			_ = c.Close()
			continue
		}
		return &counted{Conn: c, done: sync.OnceFunc(func() { f.closed(from) })}, nil
	}
}

func (f *fair) closed(from netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[from]--; f.open[from] <= 0 {
		delete(f.open, from)
	}
}

type counted struct {
	net.Conn
	done func()
}

// Close closes the connection and gives its place free.
func (c *counted) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// portOf is the /64 an address with a port is in.
func portOf(hostport string) netip.Prefix {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Prefix{}
	}
	p, _ := a.Addr().WithZone("").Prefix(64)
	return p
}

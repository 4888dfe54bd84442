package leaf

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
)

// Neighbors speaks LLDP on the ports and remembers who is behind them for as
// long as they asked to be remembered.
type Neighbors struct {
	// Self is what is told to the neighbours; port and lifetime are filled in.
	Self lldp.Frame
	// Changed is called when somebody new is seen. It must not block.
	Changed func()

	mu    sync.Mutex
	ports map[string]bool
	seen  map[string]sighting
}

type sighting struct {
	frame   lldp.Frame
	at      time.Time
	expires time.Time
}

const (
	// sayEvery is how often a port tells who the switch is; a server that has
	// just started needs to know it for its report.
	sayEvery = 5 * time.Second
	// sayFor is how long a neighbour shall remember it.
	sayFor = 4 * sayEvery
)

// Watch says which ports there are. Run opens the new ones.
func (n *Neighbors) Watch(ports []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports = map[string]bool{}
	for _, p := range ports {
		n.ports[p] = true
	}
}

// On returns the neighbour on a port, nil if none is known at that time.
func (n *Neighbors) On(port string, now time.Time) *ingotv1.Neighbor {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.seen[port]
	if !ok || !now.Before(s.expires) {
		return nil
	}
	f := s.frame
	return &ingotv1.Neighbor{
		ChassisId: f.ChassisID, PortId: f.PortID, SystemName: f.SystemName, SystemDescription: f.SystemDescription,
		Seen: timestamppb.New(s.at),
	}
}

// learn remembers what a frame said and reports whether it is news.
func (n *Neighbors) learn(port string, f lldp.Frame, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen = map[string]sighting{}
	}
	old, known := n.seen[port]
	known = known && now.Before(old.expires)
	n.seen[port] = sighting{f, now, now.Add(f.TTL)}
	if f.TTL == 0 {
		return known // it says that it leaves
	}
	f.TTL, old.frame.TTL = 0, 0
	return !known || f != old.frame
}

// Run speaks on the watched ports until ctx ends. One goroutine per port
// listens; it ends with ctx or with its port.
func (n *Neighbors) Run(ctx context.Context) error {
	var listeners sync.WaitGroup
	defer listeners.Wait()
	open := map[string]*lldp.Conn{}
	var mu sync.Mutex // guards open
	forget := func(port string) {
		mu.Lock()
		defer mu.Unlock()
		if c := open[port]; c != nil {
			_ = c.Close()
			delete(open, port)
		}
	}
	defer func() {
		mu.Lock()
		ports := slices.Collect(maps.Keys(open))
		mu.Unlock()
		for _, port := range ports {
			forget(port)
		}
	}()
	soon, say := time.NewTicker(time.Second), time.NewTicker(sayEvery)
	defer soon.Stop()
	defer say.Stop()
	for {
		for _, port := range n.unopened(&mu, open) {
			iface, err := net.InterfaceByName(port)
			if err != nil {
				continue // unplugged; the next Watch will not name it
			}
			c, err := lldp.Open(*iface)
			if err != nil {
				continue // tried again within a second
			}
			mu.Lock()
			open[port] = c
			mu.Unlock()
			n.say(port, c)
			listeners.Go(func() {
				n.listen(ctx, port, c)
				forget(port)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-soon.C:
		case <-say.C:
			mu.Lock()
			for port, c := range open {
				n.say(port, c)
			}
			mu.Unlock()
		}
	}
}

func (n *Neighbors) unopened(mu *sync.Mutex, open map[string]*lldp.Conn) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	mu.Lock()
	defer mu.Unlock()
	var ports []string
	for p := range n.ports {
		if open[p] == nil {
			ports = append(ports, p)
		}
	}
	return ports
}

// say tells the neighbour on a port who we are. A port without carrier drops
// it, which is as good.
func (n *Neighbors) say(port string, c *lldp.Conn) {
	f := n.Self
	f.PortID, f.TTL = port, sayFor
	_ = c.Send(f)
}

// listen remembers what comes in on a port. Who is new there is greeted at
// once, so that nobody has to wait for the next round.
func (n *Neighbors) listen(ctx context.Context, port string, c *lldp.Conn) {
	for {
		f, err := c.Receive(ctx)
		if err != nil {
			return
		}
		if n.learn(port, f, time.Now()) {
			n.say(port, c)
			if n.Changed != nil {
				n.Changed()
			}
		}
	}
}

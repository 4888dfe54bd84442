// Command guest is what the lab's tests of a leaf run inside the guests: a
// remote shell for the test, and probes.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/beevik/ntp"
	"github.com/mdlayher/ndp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/ingot-cloud/ingot/leaf"
	"github.com/ingot-cloud/ingot/lldp"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/proto/ingot/v1/ingotv1connect"
)

func main() {
	commands := map[string]func(...string) error{
		"serve": serve, "get": get, "begin": begin, "tcp": tcp, "router": router, "lldp": neighbour, "apply": apply, "time": clock,
	}
	if err := commands[os.Args[1]](os.Args[2:]...); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// serve runs what is posted to it as shell scripts.
func serve(...string) error {
	return http.ListenAndServe(":9000", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		script, _ := io.ReadAll(r.Body)
		// busybox's own ip would come first, and knows half.
		cmd := exec.CommandContext(r.Context(), "/bin/sh", "-c", "ip() { /bin/ip \"$@\"; }\n"+string(script))
		cmd.Env = append(os.Environ(), "PATH=/bin:/sbin:/usr/bin:/usr/sbin")
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			out = append(out, err.Error()...)
		}
		_, _ = w.Write(out)
	}))
}

func client(ca string) *http.Client {
	pool := x509.NewCertPool()
	pem, _ := os.ReadFile(ca)
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// get CA URL prints what is there.
func get(args ...string) error {
	r, err := client(args[0]).Get(args[1])
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

// begin CA URL UUID begins a boot and prints its id.
func begin(args ...string) error {
	c := ingotv1connect.NewBootServiceClient(client(args[0]), args[1])
	a, err := c.Begin(context.Background(), connect.NewRequest(&ingotv1.BootServiceBeginRequest{Uuid: args[2]}))
	if err != nil {
		return err
	}
	fmt.Println(a.Msg.GetBootId())
	return nil
}

// tcp SOURCE ADDRESS connects, from SOURCE unless that is "any".
func tcp(args ...string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	if args[0] != "any" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(args[0])}
	}
	c, err := d.Dial("tcp", args[1])
	if err != nil {
		return err
	}
	return c.Close()
}

// clock SERVER prints by how much our clock differs.
func clock(args ...string) error {
	r, err := ntp.Query(args[0])
	if err == nil {
		err = r.Validate()
	}
	if err == nil {
		fmt.Println("offset", r.ClockOffset)
	}
	return err
}

// router IFACE asks for a router and prints what it says.
func router(args ...string) error {
	iface, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	c, _, err := ndp.Listen(iface, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.WriteTo(&ndp.RouterSolicitation{}, nil, netip.IPv6LinkLocalAllRouters()); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	for {
		m, _, _, err := c.ReadFrom()
		if err != nil {
			return err
		}
		ra, ok := m.(*ndp.RouterAdvertisement)
		if !ok {
			continue
		}
		facts := []string{fmt.Sprintf("router %v managed %v other %v", ra.RouterLifetime, ra.ManagedConfiguration, ra.OtherConfiguration)}
		for _, o := range ra.Options {
			switch o := o.(type) {
			case *ndp.PrefixInformation:
				facts = append(facts, fmt.Sprintf("prefix %s/%d autonomous %v onlink %v", o.Prefix, o.PrefixLength, o.AutonomousAddressConfiguration, o.OnLink))
			case *ndp.RecursiveDNSServer:
				facts = append(facts, fmt.Sprintf("rdnss %v %v", o.Servers, o.Lifetime))
			case *ndp.DNSSearchList:
				facts = append(facts, fmt.Sprintf("dnssl %v %v", o.DomainNames, o.Lifetime))
			}
		}
		sort.Strings(facts)
		fmt.Println(strings.Join(facts, "\n"))
		return nil
	}
}

// neighbour IFACE NAME tells the neighbour our name for ever, and prints its.
func neighbour(args ...string) error {
	n := &leaf.Neighbors{Self: lldp.Frame{ChassisID: args[1], SystemName: args[1]}}
	n.Watch(args[:1])
	n.Changed = func() { fmt.Println("lldp:", n.On(args[0], time.Now())) }
	return n.Run(context.Background())
}

// apply DIR applies the golden configurations in DIR: each after each other
// one, so that every move between them is made.
func apply(args ...string) error {
	files, err := filepath.Glob(filepath.Join(args[0], "*.txt"))
	if err != nil {
		return err
	}
	l := &leaf.Linux{Dir: os.TempDir()}
	ctx := context.Background()
	version, err := l.FRRVersion(ctx)
	if err != nil {
		return err
	}
	names, rendered := []string{}, map[string]leaf.Files{}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			return err
		}
		j, err := yaml.YAMLToJSON(a.Files[0].Data)
		if err != nil {
			return err
		}
		c := &ingotv1.LeafConfiguration{}
		if err := protojson.Unmarshal(j, c); err != nil {
			return err
		}
		if f, err := leaf.Render(c, version); err == nil {
			name := strings.TrimSuffix(filepath.Base(file), ".txt")
			names, rendered[name] = append(names, name), f
		}
	}
	try := func(from, to string) error {
		start := time.Now()
		f := rendered[to]
		if err := l.Check(ctx, f); err != nil {
			return fmt.Errorf("%s to %s: %w", from, to, err)
		}
		checked := time.Now()
		if err := l.Apply(ctx, f); err != nil {
			return fmt.Errorf("%s to %s: %w", from, to, err)
		}
		applied := time.Now()
		if err := l.Apply(ctx, f); err != nil {
			return fmt.Errorf("%s again: %w", to, err)
		}
		fmt.Printf("moved from %s to %s: check %d ms, apply %d ms, again %d ms\n", from, to,
			checked.Sub(start).Milliseconds(), applied.Sub(checked).Milliseconds(), time.Since(applied).Milliseconds())
		return nil
	}
	// From each to each later one and back.
	walk := []string{}
	for i, from := range names {
		walk = append(walk, from)
		for _, to := range names[i+1:] {
			walk = append(walk, to, from)
		}
	}
	at := "nothing"
	for _, next := range walk {
		if err := try(at, next); err != nil {
			return err
		}
		at = next
	}
	fmt.Println("applied all:", strings.Join(names, " "))
	return nil
}

package site_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/site"
)

// alsoAt makes a BMC answer at another address, on the port it has.
func (s server) alsoAt(t *testing.T, host string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.want.GetAddress())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.bmc.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return l.Addr().String()
}

// A BMC is found by its lease while a switch beside it says that it is none,
// and a third address says nothing; what is known is left alone, and what has
// moved is found again.
func TestDiscovery(t *testing.T) {
	const every = 20 * time.Millisecond
	c, api := newControl(t)
	s := newServerOn(t, "b1", "")
	_, port, _ := net.SplitHostPort(s.want.GetAddress())
	var asked atomic.Int64
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", port))
	if err != nil {
		t.Fatal(err)
	}
	other := &httptest.Server{Listener: l, Config: &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.NotFound(w, r)
	})}}
	other.StartTLS()
	defer other.Close()

	file := filepath.Join(t.TempDir(), "leases")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const others = "0 02:00:00:00:00:0b 127.0.0.2 switch *\n0 02:00:00:00:00:0c 127.0.0.3 * *\n"
	var portNumber uint16
	if _, err := fmt.Sscan(port, &portNumber); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.away = 1
	c.want(func(*ingotv1.SiteWanted) {})
	start(t, api, site.NewDiscovery(site.DiscoveryConfig{
		Partition: partition, API: api, Files: []string{file}, Port: portNumber, Every: every, Log: quiet,
	}))
	write("0 02:00:00:00:00:0a 127.0.0.1 bad\x1bname *\n" + others)
	c.eventually(t, "the BMC is found", func() bool { return len(c.found) > 0 })
	c.mu.Lock()
	d := c.found[0]
	c.mu.Unlock()
	if d.GetMac() != "02:00:00:00:00:0a" || d.GetAddress() != s.want.GetAddress() || d.GetVendor() != "Ingot" || d.GetProduct() != "Lab BMC" ||
		d.GetCertificate() != string(s.bmc.CA()) || d.GetHostname() != "" {
		t.Errorf("found %v", d)
	}

	// Known, it is not asked any more.
	c.want(func(w *ingotv1.SiteWanted) {
		w.Known = []*ingotv1.BMCKnown{{Mac: d.GetMac(), Address: d.GetAddress(), Others: []string{"02:00:00:00:00:ee"}}}
	})
	for deadline, n := time.Now().Add(30*time.Second), -1; s.bmc.Requests() != n; {
		if time.Now().After(deadline) {
			t.Fatal("requests go on")
		}
		n = s.bmc.Requests()
		time.Sleep(200 * time.Millisecond) // ten times its interval
	}

	// Half a file changes nothing; the whole one moves it, on its own port.
	write("0 02:00:00:00:00:0a 127.0")
	at := s.alsoAt(t, "127.0.0.4")
	write("0 02:00:00:00:00:0a 127.0.0.4 b1.example *\n0 02:00:00:00:00:ee 127.0.0.1 its-other-card *\n" + others)
	c.eventually(t, "it is found where it is now", func() bool { return c.found[len(c.found)-1].GetAddress() == at })
	c.mu.Lock()
	for _, f := range c.found {
		if f.GetMac() != d.GetMac() {
			t.Errorf("also found %v", f)
		}
	}
	if got := c.found[len(c.found)-1].GetHostname(); got != "b1.example" {
		t.Errorf("hostname %q", got)
	}
	c.mu.Unlock()
	// The times between asking the switch double.
	if n, most := asked.Load(), int64(math.Log2(float64(time.Since(began)/every)+1))+2+int64(time.Since(began)/(every<<6)); n == 0 || n > most {
		t.Errorf("the switch was asked %d times, at most %d were due", n, most)
	}
}

// The errors of a lease file say which and what, and are no reason to forget
// what was read before.
func TestUnreadableLeaseFile(t *testing.T) {
	_, api := newControl(t)
	file := filepath.Join(t.TempDir(), "leases")
	d := site.NewDiscovery(site.DiscoveryConfig{Partition: partition, API: api, Files: []string{file}, Log: quiet})
	for _, x := range []struct{ text, want string }{
		{"", "cannot be opened"},
		{"0 02:00:00:00:00:0a\n", "line 1: has 2 words"},
		{"0 02:00:00:00:00:0a 127.0.0.1 * *\n", ""},
	} {
		if x.text != "" {
			if err := os.WriteFile(file, []byte(x.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := d.Step(t.Context(), &ingotv1.SiteWanted{Known: []*ingotv1.BMCKnown{{Mac: "02:00:00:00:00:0a", Address: "127.0.0.1:443"}}})
		if (err == nil) != (x.want == "") || err != nil && (!strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%q: %v, want %s", x.text, err, x.want)
		}
	}
}

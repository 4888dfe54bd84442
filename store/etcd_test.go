package store_test

import (
	"flag"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

func openEtcd(t testing.TB, dir string) *store.Etcd {
	t.Helper()
	e, err := store.OpenEtcd(t.Context(), store.EtcdConfig{Dir: dir, NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEtcd(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, t.TempDir())
	defer e.Close()
	storetest.Run(t, func(*testing.T) store.KV { return e })
}

// An external cluster is reached by the network and holds others' keys, too.
func TestEtcdExternal(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := url.URL{Scheme: "http", Host: l.Addr().String()}
	l.Close() // etcd wants to listen itself
	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync = t.TempDir(), true
	cfg.TickMs, cfg.ElectionMs = 20, 100
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls = []url.URL{at}, []url.URL{at}, nil
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	<-server.Server.ReadyNotify()
	e, err := store.OpenEtcd(t.Context(), store.EtcdConfig{Endpoints: []string{at.String()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	storetest.Run(t, func(t *testing.T) store.KV {
		if _, _, err := e.Commit(t.Context(), nil, []store.Write{{Key: "somebody else's", Value: []byte(t.Name())}}); err != nil {
			t.Fatal(err)
		}
		return e
	})
}

// A single member has nobody to talk to but its own process.
func TestEtcdOpensNoListener(t *testing.T) {
	before := sockets(t)
	e := openEtcd(t, t.TempDir())
	defer e.Close()
	if n := sockets(t); n != before {
		t.Errorf("%d sockets before, %d after", before, n)
	}
}

func sockets(t *testing.T) (n int) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func TestEtcdModel(t *testing.T) {
	e := openEtcd(t, t.TempDir())
	defer e.Close()
	// Each check costs a tenth of a second: etcd's pace for watches that start.
	checks := flag.Lookup("rapid.checks").Value
	defer func(n string) { _ = checks.Set(n) }(checks.String())
	_ = checks.Set("15")
	storetest.Model(t, func(*testing.T) store.KV { return e })
}

func TestEtcdDirectory(t *testing.T) {
	dir := t.TempDir()
	e := openEtcd(t, dir)
	_, err := store.OpenEtcd(t.Context(), store.EtcdConfig{Dir: dir})
	if fault.KindOf(err) != fault.Precondition {
		t.Errorf("a directory in use: %v", err)
	}
	if _, _, err := e.Commit(t.Context(), nil, []store.Write{{Key: "k", Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEtcd(t, dir)
	defer e.Close()
	got, _, err := e.Range(t.Context(), "k")
	if err != nil || len(got) != 1 || string(got[0].Value) != "v" {
		t.Errorf("after a restart: %v %v", got, err)
	}
}

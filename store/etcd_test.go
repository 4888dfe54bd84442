package store_test

import (
	"flag"
	"log/slog"
	"testing"

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
	e := openEtcd(t, t.TempDir())
	defer e.Close()
	storetest.Run(t, func(*testing.T) store.KV { return e })
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

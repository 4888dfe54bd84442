package cli_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/api"
	"github.com/ingot-cloud/ingot/cli"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store/storetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ingot": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			code := cli.Main(ctx, cli.Options{Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv, Version: "v0.0.0-test"})
			stop()
			os.Exit(code)
		},
	})
}

// TestScripts runs the scripts of testdata, each against an API server of its
// own, from its bootstrap token on. "exit N COMMAND" checks the exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			admin, ca, url, err := serve(e.T().(testing.TB))
			if err != nil {
				return err
			}
			e.Setenv("SERVER", url)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
			if err != nil {
				return err
			}
			e.Defer(func() { silent.Close() })
			e.Setenv("SILENT", "https://"+silent.Addr().String())
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ca.crt"), ca, 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "admin.token"), []byte(admin), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": exit, "setenv": setenv},
	})
}

// serve starts an API server on an empty store and returns its first token,
// its certificate authority and its url.
func serve(t testing.TB) (admin string, ca []byte, url string, err error) {
	clock := storetest.NewClock()
	clock.Set(time.Now().Truncate(time.Second))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, "", err
	}
	url = "https://" + ln.Addr().String()
	srv, err := api.New(t.Context(), api.Config{
		DB: storetest.OpenAt(t, clock, records.Tables()...), Ring: secret.NewRing(), URL: url, Now: clock.Now,
		Log: slog.New(slog.DiscardHandler), Version: &apiv2.Version{Version: "v0.0.0-test"},
	})
	if err != nil {
		return "", nil, "", err
	}
	if _, err := srv.Bootstrap(t.Context(), func(token string) error { admin = token; return nil }); err != nil {
		return "", nil, "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(t.Context(), ln, srv.TLS("127.0.0.1")) }()
	t.Cleanup(func() { // t's context has ended by now
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return admin, srv.CA(), url, nil
}

// TestWatchServer follows the tenants while another run of ingot changes them.
func TestWatchServer(t *testing.T) {
	admin, ca, url, err := serve(t)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HOME": dir, "INGOT_API_URL": url, "INGOT_CA_FILE": filepath.Join(dir, "ca.crt"), "INGOT_TOKEN": admin}
	run := func(ctx context.Context, out io.Writer, args ...string) int {
		return cli.Main(ctx, cli.Options{
			Args: args, In: strings.NewReader(""), Out: out, Err: t.Output(), Env: func(k string) string { return env[k] },
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() { code <- run(ctx, w, "tenant", "list", "--admin", "--watch", "-o", "name"); w.Close() }()
	lines := bufio.NewScanner(r)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("%q, want %q", lines.Text(), want)
		}
	}
	next("ingot")
	for _, args := range [][]string{{"tenant", "create", "--admin", "--name", "acme", "--email", "a@acme.example"}, {"tenant", "delete", "acme", "--yes"}} {
		if c := run(t.Context(), io.Discard, args...); c != 0 {
			t.Fatalf("%v: exit code %d", args, c)
		}
	}
	next("acme")
	next("gone  acme")
	cancel()
	if c := <-code; c != 130 {
		t.Errorf("exit code %d, want 130", c)
	}
}

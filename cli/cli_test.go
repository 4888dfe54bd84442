package cli_test

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ingot-cloud/ingot/cli"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
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

// TestScripts runs the scripts of testdata, each against a server of its own.
// "exit N ingot ..." checks the exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			w := &world{images: map[string]*apiv2.Image{}, ips: map[string]*apiv2.IP{}}
			s := httptest.NewUnstartedServer(w.handler())
			s.EnableHTTP2 = true
			s.StartTLS()
			e.Defer(s.Close)
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
			e.Setenv("SERVER", s.URL)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			if err := os.WriteFile(filepath.Join(e.WorkDir, "ca.crt"), ca, 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "token"), []byte(token+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": exit},
	})
}

package cli_test

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/api"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/secret"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// TestServer runs the scripts of testdata/server against the API server, from
// its bootstrap token on.
func TestServer(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/server",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			admin, ca, url, err := serve(e.T().(testing.TB))
			if err != nil {
				return err
			}
			e.Setenv("SERVER", url)
			e.Setenv("HOME", e.WorkDir)
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

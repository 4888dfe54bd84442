package bmc_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/bmc"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/secret"
)

func TestConsole(t *testing.T) {
	b := newBoard(t)
	c, err := b.open(t).Console(t.Context())
	if err != nil || c.UUID != lists.UUID || c.Command != "" {
		t.Fatalf("%+v, %v", c, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var key bmc.HostKey
	shown, err := c.Open(ctx, b.endpoint, &key)
	if err != nil {
		t.Fatal(err)
	}
	defer shown.Close()
	if err := os.WriteFile(b.serial, []byte("\x1b[2Jfirmware\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(shown)
	if line, err := r.ReadString('\n'); line != "\x1b[2Jfirmware\r\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	cancel()
	if _, err := r.ReadString('\n'); err == nil {
		t.Error("reading goes on after the context's end")
	}
	guess := b.endpoint
	guess.Password = secret.New("guess-word")
	if _, err := c.Open(t.Context(), guess, &key); !errors.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), "guess-word") {
		t.Errorf("with a wrong password: %v", err)
	}
	if _, err := c.Open(t.Context(), bmc.Endpoint{Address: "https://u:p@host"}, &key); !errors.Is(err, fault.Invalid) {
		t.Errorf("with a wrong address: %v", err)
	}
}

// TestConsoleOffers looks a console up at BMCs that offer none, or strange ones.
func TestConsoleOffers(t *testing.T) {
	for _, c := range []struct {
		serial string
		want   bmc.Console
		kind   fault.Kind
	}{
		{``, bmc.Console{}, fault.Unimplemented},
		{`"SerialConsole":{"IPMI":{"ServiceEnabled":true,"Port":623}},`, bmc.Console{}, fault.Unimplemented},
		{`"SerialConsole":{"SSH":{"ServiceEnabled":false,"Port":2200}},`, bmc.Console{}, fault.Precondition},
		{`"SerialConsole":{"SSH":{"ServiceEnabled":true,"Port":70000}},`, bmc.Console{}, fault.Unavailable},
		{`"SerialConsole":{"SSH":{"ServiceEnabled":true,"Port":2200,"HotKeySequenceDisplay":"~."}},`, bmc.Console{UUID: "U", Port: 2200}, 0},
		{`"SerialConsole":{"SSH":{"ServiceEnabled":true,"Port":22,"SharedWithManagerCLI":true}},`, bmc.Console{UUID: "U", Port: 22, Shared: true}, 0},
		{`"SerialConsole":{"SSH":{"ServiceEnabled":true,"ConsoleEntryCommand":"console com2"}},`, bmc.Console{UUID: "U", Port: 22, Command: "console com2", Shared: true}, 0},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch strings.Trim(r.URL.Path, "/") {
			case "redfish/v1":
				fmt.Fprint(w, `{"@odata.id":"/redfish/v1/","Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}`)
			case "redfish/v1/SessionService/Sessions":
				w.Header().Set("X-Auth-Token", "t")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{}`)
			case "redfish/v1/Systems":
				fmt.Fprint(w, `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`)
			default:
				fmt.Fprint(w, `{"@odata.id":"/redfish/v1/Systems/1",`+c.serial+`"UUID":"U"}`)
			}
		}))
		r, err := bmc.Open(t.Context(), bmc.Endpoint{Address: s.URL, User: "u", Password: secret.New("p")})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Console(t.Context())
		if got != c.want || fault.KindOf(err) != c.kind && err != nil || (err == nil) != (c.kind == 0) {
			t.Errorf("%s: %+v, %v", c.serial, got, err)
		}
		r.Close(context.WithoutCancel(t.Context()))
		s.Close()
	}
}

// cli is a BMC whose console is entered from its command line, and that asks
// for the password in its own words.
type cli struct {
	port uint16
	mu   sync.Mutex
	key  ssh.Signer // changes when the BMC is replaced
}

func (b *cli) replace(t *testing.T) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	b := &cli{}
	b.replace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.port = uint16(l.Addr().(*net.TCPAddr).Port)
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.attend(conn) })
		}
	})
	return b
}

// attend serves one connection with one session.
func (b *cli) attend(conn net.Conn) {
	defer conn.Close()
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		answers, err := ask("", "", []string{"Password: "}, []bool{false})
		if err != nil || answers[0] != "s3cret-word" {
			return nil, errors.New("no")
		}
		return nil, nil //nolint:nilnil // there are no permissions beyond
	}}
	b.mu.Lock()
	config.AddHostKey(b.key)
	b.mu.Unlock()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	asked, ok := <-channels
	if !ok {
		return
	}
	ch, sessionRequests, err := asked.Accept()
	if err != nil {
		return
	}
	for r := range sessionRequests {
		_ = r.Reply(r.Type == "pty-req" || r.Type == "shell", nil)
		if r.Type == "shell" {
			break
		}
	}
	go ssh.DiscardRequests(sessionRequests)
	if command, err := bufio.NewReader(ch).ReadString('\r'); err != nil || command != "console com2\r" {
		fmt.Fprintf(ch, "unknown command %q\r\n", command)
	} else {
		fmt.Fprint(ch, "the console\r\n")
	}
	_ = ch.Close()
}

func TestConsoleBehindCommandLine(t *testing.T) {
	b := newCLI(t)
	e := bmc.Endpoint{Address: "https://127.0.0.1:1", User: "root", Password: secret.New("s3cret-word")}
	c := bmc.Console{Port: b.port, Command: "console com2"}
	var key bmc.HostKey
	for range 2 {
		shown, err := c.Open(t.Context(), e, &key)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(shown); string(all) != "the console\r\n" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		if err := shown.Close(); err != nil {
			t.Error(err)
		}
	}
	b.replace(t)
	if _, err := c.Open(t.Context(), e, &key); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("with another host key: %v", err)
	}
	e.Password = secret.New("guess-word")
	if _, err := c.Open(t.Context(), e, &bmc.HostKey{}); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestConsoleHangs opens consoles at things that are none.
func TestConsoleHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := bmc.Endpoint{Address: "https://" + l.Addr().String(), User: "root", Password: secret.New("s3cret-word")}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (bmc.Console{Port: uint16(n)}).Open(ctx, e, &bmc.HostKey{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that says nothing: %v", err)
	}
	l.Close()
	if _, err := (bmc.Console{Port: uint16(n)}).Open(t.Context(), e, &bmc.HostKey{}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

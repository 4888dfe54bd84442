package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/cli"
)

// A terminal is a pseudo-terminal with somebody in front of it.
type terminal struct {
	t      *testing.T
	hands  *os.File // the side of the person
	inside *os.File // the side of the program

	mu   sync.Mutex
	seen bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	hands := open("/dev/ptmx")
	if err := unix.IoctlSetPointerInt(int(hands.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(hands.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	y := &terminal{t: t, hands: hands, inside: open(fmt.Sprintf("/dev/pts/%d", n))}
	go func() { // ends when nobody has the other side open any more
		for buf := make([]byte, 4096); ; {
			n, err := hands.Read(buf)
			y.mu.Lock()
			y.seen.Write(buf[:n])
			y.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { y.inside.Close() })
	return y
}

func (y *terminal) types(text string) {
	y.t.Helper()
	if _, err := y.hands.WriteString(text); err != nil {
		y.t.Fatal(err)
	}
}

// shows waits until the terminal shows something.
func (y *terminal) shows(want string) {
	y.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		y.mu.Lock()
		seen := y.seen.String()
		y.mu.Unlock()
		if strings.Contains(seen, want) {
			return
		}
		if time.Now().After(deadline) {
			y.t.Fatalf("the terminal never shows %q, but %q", want, seen)
		}
	}
}

func (y *terminal) settings() unix.Termios {
	y.t.Helper()
	s, err := unix.IoctlGetTermios(int(y.inside.Fd()), unix.TCGETS)
	if err != nil {
		y.t.Fatal(err)
	}
	return *s
}

// use runs ingot machine console on the terminal and returns its exit code.
func (y *terminal) use(env func(string) string, args ...string) <-chan int {
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(y.t.Context(), cli.Options{
			Args: append([]string{"machine", "console", m, "--admin"}, args...), In: y.inside, Out: y.inside, Err: y.inside, Env: env,
		})
	}()
	return code
}

// typed collects what arrives until it is what is wanted.
func (h hall) typed(t *testing.T, want string) {
	t.Helper()
	got := ""
	for deadline := time.After(30 * time.Second); got != want; {
		select {
		case k := <-h.keys:
			got += k
		case <-deadline:
			t.Fatalf("typed %q, want %q", got, want)
		}
	}
}

func TestConsoleOnTerminal(t *testing.T) {
	h, env := newHall(t)
	y := newTerminal(t)
	before := y.settings()
	file := filepath.Join(t.TempDir(), "boot.cast")
	code := y.use(env, "--record", file, "--debug")
	y.shows("loading\r\npa")
	y.shows("~. ends")
	y.types("root\r")
	h.typed(t, "root\r")
	y.types("\x03~.\x1b[A\r") // everything but an escape is the machine's
	h.typed(t, "\x03~.\x1b[A\r")
	y.types(strings.Repeat("paste", 2000))
	h.typed(t, strings.Repeat("paste", 2000))
	y.types("jam")
	y.shows("\r\ningot: the BMC does not take it\r\n")
	y.types("\r~?")
	y.shows("~~ types one ~")
	h.typed(t, "\r")
	close(h.taken)
	y.shows("ingot: user bob writes now\r\n")
	y.types("nobody hears this\r~.")
	if c := <-code; c != 0 {
		t.Errorf("exit code %d", c)
	}
	if len(h.keys) > 0 {
		t.Errorf("typed %q without the pen", <-h.keys)
	}
	if after := y.settings(); after != before {
		t.Errorf("the terminal is left as %+v, was %+v", after, before)
	}
	y.mu.Lock()
	seen := y.seen.String()
	y.mu.Unlock()
	if !strings.Contains(seen, "ConsoleService/WriteAny") || strings.Contains(seen, "p3n") || strings.Contains(seen, "cGFzdGU") {
		t.Errorf("--debug prints %q", seen)
	}
	recorded, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(recorded, []byte(`{"height":24,`)) || !bytes.Contains(recorded, []byte(`loading\r\n`)) || bytes.Contains(recorded, []byte("root")) {
		t.Errorf("recorded %s, %v", recorded, err)
	}
	if c := <-y.use(env, "--read-only"); c != 0 {
		t.Errorf("only reading: exit code %d", c)
	}
	if c := <-y.use(env, "--record", file); c != 5 {
		t.Errorf("onto an old recording: exit code %d", c)
	}
	if c := <-y.use(env, "--take", "--read-only"); c != 2 {
		t.Errorf("taking the pen to read only: exit code %d", c)
	}
}

// TestConsoleFromPipe types what a program says, as it is.
func TestConsoleFromPipe(t *testing.T) {
	h, env := newHall(t)
	var out, errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(t.Context(), cli.Options{
			Args: []string{"machine", "console", m, "--admin", "--write"}, In: strings.NewReader("~.root\r~?\r"), Out: &out, Err: &errs, Env: env,
		})
	}()
	h.typed(t, "~.root\r~?\r")
	h.stop()
	if c := <-code; c == 0 || strings.Contains(errs.String(), "~?") {
		t.Errorf("exit code %d, %q", c, errs.String())
	}
	if !strings.Contains(out.String(), "panic\n") {
		t.Errorf("shows %q", out.String())
	}
}

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// consoleOf starts a BMC and returns the file its server prints to and where
// its console is.
func consoleOf(t *testing.T) (file, addr string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "serial.log")
	shell := &Shell{}
	b, err := NewBMC(BMCConfig{
		Board: Board{Serial: "SN1"}, Power: shell, Order: shell, Media: shell, User: "admin", Password: "secret", Dir: t.TempDir(), Serial: file,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := b.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if at := b.system()["SerialConsole"].(object)["SSH"].(object); at["ServiceEnabled"] == true {
			return file, fmt.Sprint("127.0.0.1:", at["Port"])
		}
		if time.Now().After(deadline) {
			t.Fatal("the console is not announced")
		}
	}
}

func login(addr, password string) (*ssh.Client, error) {
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "admin", Auth: []ssh.AuthMethod{ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
}

// look opens a session and returns what it shows.
func look(t *testing.T, c *ssh.Client) (*bufio.Reader, error) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
		return nil, err
	}
	if err := s.Shell(); err != nil {
		return nil, err
	}
	_, err = io.WriteString(in, "typed for nothing\r")
	return bufio.NewReader(out), err
}

func show(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestConsole(t *testing.T) {
	file, addr := consoleOf(t)
	if _, err := login(addr, "guess"); err == nil {
		t.Fatal("logged in with a wrong password")
	}
	show(t, file, "printed before anybody looked\r\n")
	first, err := login(addr, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	a, err := look(t, first)
	if err != nil {
		t.Fatal(err)
	}
	show(t, file, "firmware\r\n")
	if line, err := a.ReadString('\n'); line != "firmware\r\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	second, err := login(addr, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	b, err := look(t, second)
	if err != nil {
		t.Fatal(err)
	}
	b2, err := look(t, second)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 300_000)
	show(t, file, "kernel\r\n"+long+"\n")
	for _, r := range []*bufio.Reader{a, b, b2} {
		for _, want := range []string{"kernel\r\n", long + "\n"} {
			if line, err := r.ReadString('\n'); line != want || err != nil {
				t.Fatalf("%.20q of %d bytes, %v; want %.20q", line, len(line), err, want)
			}
		}
	}
	for i := 3; ; i++ {
		_, err := look(t, first)
		if i < maxConsoles && err != nil || i == maxConsoles && err == nil {
			t.Fatalf("session %d: %v", i+1, err)
		}
		if err != nil {
			break
		}
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	// Those that left make room.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := look(t, first); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

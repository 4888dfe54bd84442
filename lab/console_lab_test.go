//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
)

// A seat is a program that shows a console and types on it.
type seat struct {
	t    *testing.T
	cmd  *exec.Cmd
	keys io.WriteCloser

	mu   sync.Mutex
	seen bytes.Buffer
}

func (s *seat) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.Write(p)
}

func sit(t *testing.T, cmd *exec.Cmd) *seat {
	t.Helper()
	s := &seat{t: t, cmd: cmd}
	cmd.Stdout, cmd.Stderr = s, s
	var err error
	if s.keys, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return s
}

func (s *seat) types(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.keys, keys); err != nil {
		s.t.Fatal(err)
	}
}

// shows waits until the seat shows something n times.
func (s *seat) shows(what string, n int) bool {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		got := bytes.Count(s.seen.Bytes(), []byte(what))
		s.mu.Unlock()
		if got >= n {
			return true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Errorf("never shows %q %d times, but %q", what, n, s.seen.String())
	return false
}

// checkConsole uses the serial console of an installed server with the busybox
// image: over SSH as its owner, with the key it was allocated with, and with
// the command line as the operator, who takes over.
func checkConsole(ctx context.Context, t *testing.T, d *lab.DataCenter, bin string, n int) {
	owner := sit(t, d.Entrance.Console(ctx, n))
	if !owner.shows("console of machine "+lab.UUID(n), 1) {
		return
	}
	owner.types("\r")
	if !owner.shows("/ # ", 1) {
		return
	}
	owner.types("echo typed=$((6*7)) on $(hostname)\r")
	if !owner.shows(fmt.Sprintf("typed=42 on m%d", n), 1) {
		return
	}
	var took []time.Duration
	for i := 1; i <= 20; i++ { // from a key to its echo: both ways through BMC, management server and control plane
		began := time.Now()
		owner.types("@")
		if !owner.shows("@", i) {
			return
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a key's echo takes %s, at most %s", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))

	cmd := exec.CommandContext(ctx, filepath.Join(bin, "ingot"), "machine", "console", lab.UUID(n), "--admin", "--write", "--take")
	cmd.Env = append(cmd.Environ(), d.Environment())
	operator := sit(t, cmd)
	if !owner.shows("an operator writes now", 1) {
		return
	}
	operator.types("\x15echo taken=$((7*6))\r")
	for _, s := range []*seat{operator, owner} { // both read
		s.shows("taken=42", 1)
	}
	owner.types("echo nobody hears this\r")
	operator.types("echo last=$((5*5))\r")
	operator.shows("last=25", 1)
	operator.mu.Lock()
	defer operator.mu.Unlock()
	if strings.Contains(operator.seen.String(), "nobody hears") {
		t.Error("who lost the pen goes on writing")
	}
}

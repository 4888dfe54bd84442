package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A qmp is a connection to the monitor of one QEMU process (QEMU Machine
// Protocol). One goroutine reads from it; it ends with the connection.
type qmp struct {
	conn    net.Conn
	onEvent func(name string, data json.RawMessage)

	mu   sync.Mutex    // held by the command that is under way
	in   chan qmpReply // replies, for the command that is under way
	stop context.CancelFunc
	ctx  context.Context // done when the connection is given up
	done chan struct{}   // closed when the reader has ended
}

// errQMPClosed says that QEMU has gone.
var errQMPClosed = errors.New("qemu monitor: closed")

// qmpTimeout bounds every command. QEMU answers within milliseconds, or is
// stuck and of no use any more.
const qmpTimeout = 20 * time.Second

type qmpReply struct {
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

// qmpPair returns the two ends of a fresh monitor connection: ours and the one
// for the QEMU process to inherit. No name in the file system is involved.
func qmpPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("qemu monitor: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "qmp")
	f := os.NewFile(uintptr(fds[0]), "qmp")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("qemu monitor: %w", err), theirs.Close())
	}
	return ours, theirs, nil
}

// newQMP negotiates on a connection and starts reading. onEvent is called from
// the reader for every event: it must not run commands itself.
func newQMP(conn net.Conn, onEvent func(string, json.RawMessage)) (*qmp, error) {
	q := &qmp{conn: conn, onEvent: onEvent, in: make(chan qmpReply), done: make(chan struct{})}
	q.ctx, q.stop = context.WithCancel(context.Background())
	go q.read()
	// QEMU greets first; a greeting looks like an empty reply.
	if _, err := q.reply(); err != nil {
		return nil, fmt.Errorf("qemu monitor: no greeting: %w", err)
	}
	if err := q.do("qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) read() {
	defer close(q.done)
	defer q.conn.Close()
	for dec := json.NewDecoder(q.conn); ; {
		var m qmpReply
		if err := dec.Decode(&m); err != nil {
			return
		}
		if m.Event != "" {
			q.onEvent(m.Event, m.Data)
			continue
		}
		select {
		case q.in <- m:
		case <-q.ctx.Done():
			return
		}
	}
}

// do runs a command. result, if not nil, receives what it returns.
func (q *qmp) do(command string, args map[string]any, result any) error {
	b, err := json.Marshal(struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return fmt.Errorf("qemu monitor: %s: %w", command, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return errQMPClosed
	}
	m, err := q.reply()
	switch {
	case err != nil:
		return fmt.Errorf("qemu monitor: %s: %w", command, err)
	case m.Error != nil:
		return fmt.Errorf("qemu monitor: %s: %w", command, m.Error)
	case result != nil:
		return json.Unmarshal(m.Return, result)
	}
	return nil
}

// reply waits for what QEMU says next. A QEMU that says nothing is given up:
// a late answer must not be taken for that of the next command.
func (q *qmp) reply() (qmpReply, error) {
	select {
	case m := <-q.in:
		return m, nil
	case <-q.done:
		return qmpReply{}, errQMPClosed
	case <-time.After(qmpTimeout):
		q.close()
		return qmpReply{}, errors.New("no answer")
	}
}

// close ends the connection and waits for the reader.
func (q *qmp) close() {
	q.stop()
	_ = q.conn.Close()
	<-q.done
}

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/ingot-cloud/ingot/fault"
)

// socketFile is where a data centre listens for scripts, in its folder.
const socketFile = "lab.sock"

// inFolder calls do with a short name of a folder. A socket's name may have 107
// bytes, a folder's more: the short one goes by the folder's descriptor.
func inFolder(dir string, do func(short string) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// dialSocket connects to a socket in a folder.
func dialSocket(ctx context.Context, dir, name string) (c net.Conn, err error) {
	err = inFolder(dir, func(short string) (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(short, name))
		return err
	})
	return c, err
}

// maxScript is the greatest script that is taken, in bytes.
const maxScript = 1 << 20

// A line is one thing that a data centre says while it plays a script. The
// last one has Done, or what went wrong.
type line struct {
	Say   string `json:"say,omitempty"`
	Error string `json:"error,omitempty"`
	Done  bool   `json:"done,omitempty"`
}

// listen takes scripts on a socket of the file system until run ends. Who may
// write to the data centre's folder may break it.
func (d *DataCenter) listen(ctx, run context.Context) error {
	var l net.Listener
	if err := inFolder(d.plan.Dir, func(short string) (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(short, socketFile))
		return err
	}); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(d.plan.Dir, socketFile), 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(d.playFor), BaseContext: func(net.Listener) context.Context { return run }}
	d.goes(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	d.goes(func() error { // the requests end with run
		<-run.Done()
		return errors.Join(s.Shutdown(context.WithoutCancel(run)), os.Remove(filepath.Join(d.plan.Dir, socketFile)))
	})
	return nil
}

// playFor plays a script that somebody has sent, for as long as they listen.
func (d *DataCenter) playFor(w http.ResponseWriter, r *http.Request) {
	flow := http.NewResponseController(w)
	tell := func(l line) {
		_ = json.NewEncoder(w).Encode(l) // who has left hears no more, and the request's context ends
		_ = flow.Flush()
	}
	script, err := ParseScript(http.MaxBytesReader(w, r.Body, maxScript))
	if err == nil {
		err = d.Play(r.Context(), script, func(format string, args ...any) { tell(line{Say: fmt.Sprintf(format, args...)}) })
	}
	if err != nil {
		tell(line{Error: err.Error()})
		return
	}
	tell(line{Done: true})
}

// Play hands a script to the running data centre and passes on what it says.
func (e *Entrance) Play(ctx context.Context, script []byte, say func(string)) error {
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialSocket(ctx, e.Dir, socketFile)
	}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/", bytes.NewReader(script))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		var dial *url.Error
		if errors.As(err, &dial) {
			err = dial.Err
		}
		return fault.Wrap(fault.Unavailable, "data centre "+e.Dir, "does not answer", err).Do("start one with 'ingot-lab up'")
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("data centre: %w", err)
		}
		switch {
		case l.Error != "":
			return errors.New(l.Error)
		case l.Done:
			return nil
		default:
			say(l.Say)
		}
	}
	return fault.Wrap(fault.Unavailable, "data centre "+e.Dir, "ended before the script did", lines.Err())
}

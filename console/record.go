package console

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// A Recording writes what a console shows, with the time it was shown at, into
// a file that players of asciicasts understand (asciicast v2). It has what is
// shown, not what is typed: a password that the system does not echo is not in
// it. It takes whole characters in UTF-8, as a Cleaner hands them on.
type Recording struct {
	to    io.Writer
	now   func() time.Time
	began time.Time
}

// width and height are those of the terminal that BMCs are told of.
const width, height = 80, 24

// NewRecording begins a recording. now is the clock.
func NewRecording(to io.Writer, title string, now func() time.Time) (*Recording, error) {
	r := &Recording{to: to, now: now, began: now()}
	return r, r.line(map[string]any{"version": 2, "width": width, "height": height, "timestamp": r.began.Unix(), "title": title})
}

// Write implements io.Writer.
func (r *Recording) Write(p []byte) (int, error) {
	at := json.Number(fmt.Sprintf("%.6f", r.now().Sub(r.began).Seconds()))
	if err := r.line([]any{at, "o", string(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r *Recording) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = r.to.Write(append(b, '\n'))
	return err
}

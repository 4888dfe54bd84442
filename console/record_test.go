package console_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/console"
)

func TestRecording(t *testing.T) {
	var file bytes.Buffer
	now := time.Unix(1700000000, 0)
	r, err := console.NewRecording(&file, `machine "m"`, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	c := console.ForTerminal(r)
	for _, piece := range []string{"login: ", "\xc3", "\xa4\r\n\x1b]0;title\x07", "\x1b[1m"} {
		now = now.Add(1500 * time.Millisecond)
		if _, err := c.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"height":24,"timestamp":1700000000,"title":"machine \"m\"","version":2,"width":80}
[1.500000,"o","login: "]
[4.500000,"o","ä\r\n"]
[6.000000,"o","\u001b[1m"]
`
	if file.String() != want {
		t.Errorf("recorded %s\nwant %s", file.String(), want)
	}
}

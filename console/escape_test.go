package console_test

import (
	"bytes"
	"testing"

	"github.com/ingot-cloud/ingot/console"
)

func TestEscapes(t *testing.T) {
	for _, c := range []struct{ in, typed, asked string }{
		{"ls -l ~\r", "ls -l ~\r", ""},
		{"a~.\r", "a~.\r", ""},
		{"~.never", "", "."},
		{"ls\r~.", "ls\r", "."},
		{"ls\n~?ls\r", "ls\nls\r", "?"},
		{"~?~?~.", "", "??."},
		{"~~.\r", "~.\r", ""},
		{"~/bin\r", "~/bin\r", ""},
		{"~\r~.", "~\r", "."},
		{"~", "", ""},
	} {
		var e console.Escapes
		typed, asked := e.Take([]byte(c.in))
		if string(typed) != c.typed || string(asked) != c.asked {
			t.Errorf("%q: types %q and asks for %q, want %q and %q", c.in, typed, string(asked), c.typed, c.asked)
		}
	}
}

// FuzzEscapes checks that what is typed does not depend on how it comes in
// pieces, and that everything can be typed by doubling tildes.
func FuzzEscapes(f *testing.F) {
	f.Add([]byte("ls\r~?~~a\n~."), 4)
	f.Add([]byte("~"), 0)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		cut = max(0, min(cut, len(in)))
		var whole, pieces, quoted console.Escapes
		typed, asked := whole.Take(in)
		first, firstAsked := pieces.Take(in[:cut])
		if len(firstAsked) == 0 || firstAsked[len(firstAsked)-1] != console.AskEnd {
			second, secondAsked := pieces.Take(in[cut:])
			first, firstAsked = append(first, second...), append(firstAsked, secondAsked...)
		}
		if !bytes.Equal(typed, first) || string(asked) != string(firstAsked) {
			t.Errorf("%q cut at %d: types %q and asks for %q, whole %q and %q", in, cut, first, string(firstAsked), typed, string(asked))
		}
		var quote []byte
		for i, c := range in {
			if quote = append(quote, c); c == '~' && (i == 0 || in[i-1] == '\r' || in[i-1] == '\n') {
				quote = append(quote, '~')
			}
		}
		if typed, asked := quoted.Take(quote); !bytes.Equal(typed, in) || len(asked) > 0 {
			t.Errorf("%q doubled: types %q and asks for %q", in, typed, string(asked))
		}
	})
}

package console_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ingot-cloud/ingot/console"
)

func all(string) bool { return true }

// read returns everything from a position on, and what was missed.
func read(t *console.Tail, at uint64, sees func(string) bool) (string, uint64) {
	var b strings.Builder
	lost := uint64(0)
	for {
		p, _ := t.Next(at, 1000)
		lost += p.Offset - at
		if len(p.Data) == 0 {
			return b.String(), lost
		}
		if sees(p.Owner) {
			b.Write(p.Data)
		}
		at = p.End()
	}
}

func TestTail(t *testing.T) {
	tail := console.NewTail(1)
	tail.Append("", []byte("firmware "))
	tail.Append("a", []byte("first "))
	tail.Append("b", []byte("second "))
	tail.Append("a", []byte("third"))
	only := func(owner string) func(string) bool { return func(o string) bool { return o == owner } }
	for _, c := range []struct {
		last int
		sees func(string) bool
		want string
	}{
		{0, all, ""},
		{5, all, "third"},
		{7, all, "d third"},
		{1000, all, "firmware first second third"},
		{6, only("a"), " third"},
		{1000, only("a"), "first third"},
		{3, only("b"), "nd "},
		{1000, only("c"), ""},
	} {
		at := tail.Back(c.last, c.sees)
		if got, _ := read(tail, at, c.sees); got != c.want {
			t.Errorf("the last %d: %q, want %q", c.last, got, c.want)
		}
	}
}

// TestTailModel compares a tail with a string of everything it was given.
func TestTailModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 10_000
		tail := console.NewTail(limit)
		var shown, owners []byte
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			owner := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "owner")
			data := bytes.Repeat([]byte{byte(rapid.IntRange('0', '9').Draw(t, "digit"))}, rapid.IntRange(0, 6000).Draw(t, "n"))
			if again := rapid.IntRange(0, 3).Draw(t, "again"); again == 0 {
				tail.Append(owner, data)
			} else { // a repetition of the end, as when an answer was lost
				from := max(0, len(shown)-again*1000)
				tail.Put(console.Piece{Offset: uint64(from), Owner: owner, Data: append(bytes.Clone(shown[from:]), data...)})
			}
			shown = append(shown, data...)
			owners = append(owners, bytes.Repeat([]byte(owner), len(data))...)
		}
		if tail.End() != uint64(len(shown)) {
			t.Fatalf("end %d of %d", tail.End(), len(shown))
		}
		kept := limit - 4096 // what is dropped is dropped by the piece
		at := rapid.IntRange(0, len(shown)).Draw(t, "at")
		got, lost := read(tail, uint64(at), all)
		if len(got) > limit || at+int(lost)+len(got) != len(shown) || got != string(shown[at+int(lost):]) || lost > 0 && len(got) < kept {
			t.Fatalf("from %d of %d: %d bytes after %d lost", at, len(shown), len(got), lost)
		}
		onlyA := func(o string) bool { return o == "a" }
		mine, _ := read(tail, tail.Back(100, onlyA), onlyA)
		var want []byte
		for i := len(shown) - 1; i >= 0 && len(want) < 100; i-- {
			if owners[i] == 'a' {
				want = append([]byte{shown[i]}, want...)
			}
		}
		if len(mine) < min(len(want), 100) && len(shown) < kept || !bytes.HasSuffix(want, []byte(mine)) {
			t.Fatalf("the last of a: %q, want %q", mine, want)
		}
	})
}

// TestTailGap lets a tail that was filled by position jump.
func TestTailGap(t *testing.T) {
	tail := console.NewTail(1)
	tail.Put(console.Piece{Offset: 10, Data: []byte("ab")})
	tail.Put(console.Piece{Offset: 20, Data: []byte("cd")})
	tail.Put(console.Piece{Offset: 19, Data: []byte("x")})
	if got, lost := read(tail, 0, all); got != "abcd" || lost != 18 {
		t.Errorf("%q after %d lost", got, lost)
	}
}

// TestTailReaders lets some read while one writes.
func TestTailReaders(t *testing.T) {
	tail := console.NewTail(1 << 20)
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var got strings.Builder
			for at := uint64(0); got.Len() < want.Len(); {
				p, more := tail.Next(at, 100)
				if len(p.Data) == 0 {
					<-more
				}
				got.Write(p.Data)
				at = p.End()
			}
			if got.String() != want.String() {
				t.Error("a reader got something else")
			}
		})
	}
	for line := range strings.Lines(want.String()) {
		tail.Append("", []byte(line))
	}
	readers.Wait()
}

func clean(make func(*bytes.Buffer) *console.Cleaner, pieces ...string) string {
	var b bytes.Buffer
	c := make(&b)
	for _, p := range pieces {
		if n, err := c.Write([]byte(p)); n != len(p) || err != nil {
			panic(fmt.Sprint(n, err))
		}
	}
	return b.String()
}

func terminal(b *bytes.Buffer) *console.Cleaner { return console.ForTerminal(b) }
func text(b *bytes.Buffer) *console.Cleaner     { return console.ForText(b) }

func TestClean(t *testing.T) {
	for _, c := range []struct{ what, in, terminal, text string }{
		{"lines", "a\tb\r\nc\r\r\nd\n\n", "a\tb\r\nc\r\r\nd\n\n", "a\tb\nc\nd\n\n"},
		{"progress", "10 %\r20 %\r\n", "10 %\r20 %\r\n", "10 %\n20 %\n"},
		{"characters", "ä€🙂\xff\xc3", "ä€🙂\uFFFD", "ä€🙂\uFFFD"},
		{"colours", "\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m", "red"},
		{"firmware", "a\x1b[2J\x1b[01;01H\x1b[=3h\x1b[?25lb\x1b[2;1Hc", "a\x1b[2J\x1b[01;01H\x1b[?25lb\x1b[2;1Hc", "a\nb\nc"},
		{"line drawing", "\x1b(0\x0eq\x0f\x1b(B", "\x1b(0\x0eq\x0f\x1b(B", "q"},
		{"title and clipboard", "\x1b]0;t\x07a\x1b]52;c;aGk=\x1b\\b\u009d0;t\u009cc", "abc", "abc"},
		{"device control", "\x1bP$qm\x1b\\a\x1b_x\x1b\\b\x1b^x\x1b\\c\x1bXx\x1b\\d", "abcd", "abcd"},
		{"questions", "\x1b[6n\x1b[c\x1b[>c\x1b[?u\x1b[18t\x1b[?1$p\x1bZ\x05\u009b5n", "", ""},
		{"keyboard and mouse", "\x1b[2h\x1b[20h\x1b[?1h\x1b[?1000h\x1b[?2004h\x1b=\x1b[1;2;3;4;5T", "", ""},
		{"out of UTF-8", "\x1b%@", "", ""},
		{"a string that never ends", "\x1b]0;noise\r\nline", "\r\nline", "\nline"},
		{"a string that ends in a sequence", "\x1b]0;t\x1b[1ma", "\x1b[1ma", "a"},
		{"a long sequence", "\x1b[" + strings.Repeat("1;", 500) + "mtext", "text", "text"},
		{"cancelled", "\x1b[1\x18m\x1b]0;\x1am", "mm", "mm"},
		{"a character in a sequence", "\x1b[1äm\x1bö", "äm" + "ö", "äm" + "ö"},
		{"a control character in a sequence", "\x1b[\n1ma", "\n\x1b[1ma", "\na"},
		{"in one character", "\u009b1ma", "\x1b[1ma", "a"},
	} {
		if got := clean(terminal, c.in); got != c.terminal {
			t.Errorf("%s, for a terminal: %q, want %q", c.what, got, c.terminal)
		}
		if got := clean(text, c.in); got != c.text {
			t.Errorf("%s, for a text: %q, want %q", c.what, got, c.text)
		}
	}
}

func TestCleanClose(t *testing.T) {
	var b bytes.Buffer
	c := console.ForText(&b)
	_, _ = c.Write([]byte("login: "))
	if err := c.Close(); err != nil || b.String() != "login: \n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	c = console.ForTerminal(&b)
	_, _ = c.Write([]byte("\x1b[31m\x1b[?25l"))
	if err := c.Close(); err != nil || !strings.HasSuffix(b.String(), "\x1b[0m\x1b[?25h") {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// FuzzClean checks that what passes is clean however it is cut, and that a
// terminal is asked nothing.
func FuzzClean(f *testing.F) {
	f.Add([]byte("a\r\nb\x1b[2J\x1b[1;1Hc\x1b]0;t\x07d\xe2\x82\xac\x1b[6n"), 7)
	f.Add([]byte("\x1b\x1b[[\x1bP\x1b\x1b\\\xc2\x9b5n\x9b6n\x1b(\x1b]\r"), 2)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		cut = max(0, min(cut, len(in)))
		for name, to := range map[string]func(*bytes.Buffer) *console.Cleaner{"terminal": terminal, "text": text} {
			whole := clean(to, string(in))
			if cutUp := clean(to, string(in[:cut]), string(in[cut:])); cutUp != whole {
				t.Errorf("%s: cut at %d %q, whole %q", name, cut, cutUp, whole)
			}
			if !utf8.ValidString(whole) {
				t.Errorf("%s: %q is not UTF-8", name, whole)
			}
			for _, r := range whole {
				if r >= 0x80 && r < 0xa0 || r == 0x05 || name == "text" && r < 0x20 && r != '\n' && r != '\t' {
					t.Errorf("%s: passes %q: %q", name, r, whole)
				}
			}
			if again := clean(to, whole); again != whole {
				t.Errorf("%s: %q becomes %q", name, whole, again)
			}
		}
	})
}

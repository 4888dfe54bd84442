package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A needle is one form of a secret, or, without one, the magic number of a
// format.
type needle struct {
	secret, form string
	text         []byte
}

// A matcher finds many needles at once: by their first four bytes, which a
// small table tells to be none in almost all cases.
type matcher struct {
	maybe   [1 << 10]uint64 // a bit for each hash of four bytes
	begin   map[uint32][]*needle
	longest int
}

func hash(k uint32) uint32 { return k * 0x9e3779b1 >> 16 }

func (m *matcher) add(n *needle) {
	k := binary.LittleEndian.Uint32(n.text)
	for _, old := range m.begin[k] {
		if bytes.Equal(old.text, n.text) {
			return // a form that looks like another one
		}
	}
	m.maybe[hash(k)>>6] |= 1 << (hash(k) & 63)
	m.begin[k] = append(m.begin[k], n)
	m.longest = max(m.longest, len(n.text))
}

// scan calls hit for each needle in b.
func (m *matcher) scan(b []byte, hit func(at int, n *needle)) {
	for i := 0; i+4 <= len(b); i++ {
		k := binary.LittleEndian.Uint32(b[i:])
		if h := hash(k); m.maybe[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		for _, n := range m.begin[k] {
			if bytes.HasPrefix(b[i:], n.text) {
				hit(i, n)
			}
		}
	}
}

// newMatcher returns a matcher for all forms of secrets and all formats.
func newMatcher(secrets []Secret) (*matcher, error) {
	m := &matcher{begin: map[uint32][]*needle{}}
	if len(secrets) == 0 {
		return nil, errors.New("leak: there are no secrets to search for")
	}
	for _, s := range secrets {
		if len(s.Value) < shortest {
			return nil, fmt.Errorf("leak: %s has %d bytes: too short to be told from chance", s.Name, len(s.Value))
		}
		for _, f := range forms(s.Value) {
			f.secret = s.Name
			m.add(f)
		}
	}
	for format, magics := range formats {
		for _, magic := range magics {
			m.add(&needle{form: format, text: []byte(magic)})
		}
	}
	return m, nil
}

// forms are the ways in which a secret may be written.
func forms(secret []byte) []*needle {
	all := []*needle{
		{form: "clear", text: secret},
		{form: "hex", text: []byte(hex.EncodeToString(secret))},
		{form: "hex", text: []byte(strings.ToUpper(hex.EncodeToString(secret)))},
	}
	for shift := range 3 {
		for form, e := range map[string]*base64.Encoding{"base64": base64.StdEncoding, "base64url": base64.URLEncoding} {
			all = append(all, &needle{form: form, text: shifted(e, secret, shift)})
		}
	}
	text := string(secret)
	quoted := strconv.Quote(text)
	all = append(all, &needle{form: "quotes", text: []byte(quoted[1 : len(quoted)-1])})
	if !utf8.Valid(secret) {
		return all
	}
	for _, escapeHTML := range []bool{true, false} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(escapeHTML)
		if err := e.Encode(text); err != nil {
			panic(err) // a string can always be encoded
		}
		line := bytes.TrimSpace(b.Bytes())
		all = append(all, &needle{form: "JSON", text: line[1 : len(line)-1]})
	}
	var wide []byte
	for _, u := range utf16.Encode([]rune(text)) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	return append(all, &needle{form: "UTF-16", text: wide})
}

// shifted is what does not depend on the bytes around a secret when those and
// it are encoded together, with shift bytes in front of it.
func shifted(e *base64.Encoding, secret []byte, shift int) []byte {
	b := []byte(e.EncodeToString(append(make([]byte, shift), secret...)))
	first, last := (8*shift+5)/6, 8*(shift+len(secret))/6
	return b[first:last]
}

// wraps reports whether a form is also found over several lines.
func wraps(form string) bool { return form == "hex" || strings.HasPrefix(form, "base64") }

// A stream searches what is written to it, once as it is and once without
// line breaks, for forms that are wrapped.
type stream struct {
	matcher *matcher
	hit     func(at int64, n *needle)
	members []member

	plain, joined window
	at            int64 // of what was read
	escape        bool  // the last byte was a backslash
}

// A window is the end of what has been searched, so that what begins there is
// found when the rest comes.
type window struct {
	b    []byte
	done int // bytes of b that were searched before
}

func newStream(m *matcher, hit func(int64, *needle)) *stream { return &stream{matcher: m, hit: hit} }

const chunk = 256 << 10

// readAll searches all of r and returns how long that is. Long zeros, which
// disks and logs are full of, are passed over.
func (s *stream) readAll(r io.Reader) (int64, error) {
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, buf)
		if b := buf[:n]; bytes.Equal(b, zeros[:n]) {
			s.plain, s.joined, s.escape = window{}, window{}, false
			s.at += int64(n)
		} else {
			s.search(b)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.at, nil
		}
		if err != nil {
			return s.at, err
		}
	}
}

// search searches the next bytes.
func (s *stream) search(b []byte) {
	s.slide(&s.plain, b, func(end int64, n *needle) {
		if n.secret == "" {
			s.members = append(s.members, member{n.form, s.at + end - int64(len(n.text))})
			return
		}
		s.hit(s.at+end, n)
	})
	s.slide(&s.joined, s.join(b), func(end int64, n *needle) {
		if n.secret != "" && wraps(n.form) {
			s.hit(s.at+min(end, int64(len(b))), n)
		}
	})
	s.at += int64(len(b))
}

// slide adds b to a window and finds what ends in it; end counts from the
// beginning of b.
func (s *stream) slide(w *window, b []byte, hit func(end int64, n *needle)) {
	w.b = append(w.b, b...)
	s.matcher.scan(w.b, func(at int, n *needle) {
		if end := at + len(n.text); end > w.done {
			hit(int64(end-w.done), n)
		}
	})
	keep := min(len(w.b), s.matcher.longest-1)
	w.b = append(w.b[:0], w.b[len(w.b)-keep:]...)
	w.done = keep
}

// join returns b without white space and without escaped line breaks.
func (s *stream) join(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		escaped := s.escape
		s.escape = false
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		case escaped && (c == 'n' || c == 'r' || c == 't'):
		case c == '\\':
			s.escape = true
		default:
			out = append(out, c)
		}
	}
	return out
}

package console

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// A Cleaner passes on what a console shows without what must not get where it
// goes: the system behind it may be hostile. Bytes that are not UTF-8 become
// U+FFFD. Control sequences are those of ECMA-48, in 7 and 8 bits.
type Cleaner struct {
	to   io.Writer
	text bool

	out     bytes.Buffer
	partial []byte // the beginning of a character
	seq     []byte // a control sequence so far, its introducer included
	where   place
	cr      bool // a carriage return whose meaning the next character tells
	inLine  bool // there is text since the last end of line
}

// place is where in a control sequence the next character is.
type place int

const (
	ground  place = iota
	escape        // after ESC
	control       // in a sequence after ESC [
	str           // in a string that is dropped: OSC, DCS, SOS, PM, APC
	strEsc        // after ESC in a string
)

// maxSequence is more than any control sequence for a screen needs.
const maxSequence = 64

// ForTerminal returns a writer for a terminal. Sequences that draw on the
// screen pass. What makes a terminal answer, as if somebody typed, or act
// beyond its screen (title, clipboard, printer, keyboard, mouse), does not.
func ForTerminal(w io.Writer) *Cleaner { return &Cleaner{to: w} }

// ForText returns a writer for a file or another program: text, tabs and ends
// of lines pass, and nothing else. A carriage return begins a new line.
func ForText(w io.Writer) *Cleaner { return &Cleaner{to: w, text: true} }

// Write implements io.Writer.
func (c *Cleaner) Write(p []byte) (int, error) {
	n := len(p)
	if len(c.partial) > 0 {
		p = append(c.partial, p...)
		c.partial = nil
	}
	for len(p) > 0 {
		if p[0] < utf8.RuneSelf {
			c.char(rune(p[0]))
			p = p[1:]
			continue
		}
		if !utf8.FullRune(p) {
			c.partial = bytes.Clone(p)
			break
		}
		r, size := utf8.DecodeRune(p)
		c.char(r)
		p = p[size:]
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return n, nil
}

// normal undoes what ForTerminal lets pass: origin, scrolling region (which
// moves the cursor), character set, wrapping, insertion, colours, cursor.
const normal = "\x1b7\x1b[?6l\x1b[r\x1b8\x1b(B\x0f\x1b[?7h\x1b[4l\x1b[0m\x1b[?25h"

// Close ends what is open: an unfinished line, and on a terminal all that
// changes how it draws. It does not close the writer behind.
func (c *Cleaner) Close() error {
	if c.inLine {
		c.out.WriteByte('\n')
	}
	if !c.text {
		c.out.WriteString(normal)
	}
	return c.flush()
}

func (c *Cleaner) flush() error {
	if c.out.Len() == 0 {
		return nil
	}
	_, err := c.to.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// put passes a character of text. In a text, a carriage return before it was
// an end of line.
func (c *Cleaner) put(r rune) {
	if c.text && c.cr && c.inLine {
		c.out.WriteByte('\n')
	}
	c.cr, c.inLine = false, true
	c.out.WriteRune(r)
}

// char takes one character.
func (c *Cleaner) char(r rune) {
	switch {
	case r == 0x18 || r == 0x1a: // CAN and SUB end every sequence
		c.where = ground
	case c.where == str || c.where == strEsc:
		c.inString(r)
	case r == 0x1b:
		c.where, c.seq = escape, append(c.seq[:0], 0x1b)
	case r >= 0x80 && r < 0xa0: // C1: the same in one character
		c.where, c.seq = escape, append(c.seq[:0], 0x1b)
		c.inEscape(r - 0x40)
	case r < 0x20 || r == 0x7f:
		c.controlChar(r) // also within a sequence, as terminals do it
	case c.where == escape:
		c.inEscape(r)
	case c.where == control:
		c.inControl(r)
	default:
		c.put(r)
	}
}

// controlChar passes on the control characters that move the cursor.
func (c *Cleaner) controlChar(r rune) {
	switch {
	case r == '\n':
		c.cr, c.inLine = false, false
		c.out.WriteByte('\n')
	case c.text && r == '\t':
		c.put(r)
	case c.text:
		c.cr = c.cr || r == '\r'
	case r >= '\a' && r <= 0x0f:
		c.out.WriteRune(r)
	}
}

// inString looks for the end of a string: BEL, ST, or ESC \.
func (c *Cleaner) inString(r rune) {
	switch {
	case r == '\a' || r == 0x9c:
		c.where = ground
	case r == '\r' || r == '\n': // noise on the line, not a string
		c.where = ground
		c.controlChar(r)
	case r == 0x1b:
		c.where = strEsc
	case c.where == strEsc && r == '\\':
		c.where = ground
	case c.where == strEsc: // ESC ends the string and begins something else
		c.where, c.seq = escape, append(c.seq[:0], 0x1b)
		c.char(r)
	}
}

// inEscape takes the characters after ESC.
func (c *Cleaner) inEscape(r rune) {
	switch {
	case r == '[' && len(c.seq) == 1:
		c.where, c.seq = control, append(c.seq, '[')
	case bytes.ContainsRune([]byte("]PX^_k"), r) && len(c.seq) == 1: // k: a title, in screen's way
		c.where = str
	case r >= 0x20 && r <= 0x2f && len(c.seq) < maxSequence: // intermediate
		c.seq = append(c.seq, byte(r))
	case r >= 0x80:
		c.where = ground // no sequence after all
		c.put(r)
	default:
		c.where = ground
		c.pass(escapeDraws(c.seq[1:], byte(r)), byte(r))
	}
}

// escapeDraws reports whether a sequence without parameters is one of those:
// saved cursor, index, tabs, reset, character sets, alignment. The way out of
// UTF-8 (ESC %) is not: behind it other bytes are control characters.
func escapeDraws(between []byte, final byte) bool {
	switch len(between) {
	case 0:
		return bytes.IndexByte([]byte("78DEHMNOc"), final) >= 0
	case 1:
		return bytes.IndexByte([]byte("()*+-./#"), between[0]) >= 0
	}
	return false
}

// inControl takes the characters after ESC [.
func (c *Cleaner) inControl(r rune) {
	switch {
	case r >= 0x20 && r <= 0x3f:
		if len(c.seq) == maxSequence {
			c.seq = append(c.seq[:2], '!') // too long: nothing with this passes
		}
		c.seq = append(c.seq, byte(r))
	case r >= 0x80:
		c.where = ground
		c.put(r)
	default:
		c.where = ground
		if c.text && (r == 'H' || r == 'f') { // goes somewhere else on the screen
			c.cr = true
		}
		c.pass(controlDraws(c.seq[2:], byte(r)), byte(r))
	}
}

// controlDraws reports whether a sequence with parameters draws. What is not
// known to does not pass: c, n, t and x are questions to the terminal, i
// prints, q is for lamps.
func controlDraws(params []byte, final byte) bool {
	switch {
	case final == 'h' || final == 'l':
		return modeDraws(params)
	case final == 'T' && bytes.IndexByte(params, ';') >= 0:
		return false // follows the mouse
	case bytes.IndexByte([]byte("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu"), final) < 0:
		return false
	}
	for _, p := range params {
		if p < '0' || p > ';' {
			return false
		}
	}
	return true
}

// modeDraws reports whether a mode that is set or reset is one of those that
// Close puts right: insertion, origin, wrapping, cursor.
func modeDraws(params []byte) bool {
	switch string(params) {
	case "4", "?6", "?7", "?25":
		return true
	}
	return false
}

// pass writes the sequence and its last character if it may.
func (c *Cleaner) pass(ok bool, final byte) {
	if ok && !c.text {
		c.out.Write(c.seq)
		c.out.WriteByte(final)
	}
}

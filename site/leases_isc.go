package site

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// isc reads declarations. Only those of leases say something; the others (of
// hosts, failover, classes, DHCPv6) are skipped, whatever they hold. The file
// is a log: a lease is declared again whenever it changes.
func (p *leaseParser) isc(text []byte) error {
	t := tokens{p: p, text: string(text), line: 1}
	for {
		s, err := t.statement()
		if err != nil {
			return err
		}
		switch {
		case s.end == 0:
			return nil
		case s.end == '}':
			return p.wrong(s.line, "a brace is closed that was not opened")
		case s.end == ';':
		case len(s.words) == 2 && s.words[0] == "lease":
			if err := t.lease(s); err != nil {
				return err
			}
		default:
			if err := t.skip(s.line); err != nil {
				return err
			}
		}
	}
}

// iscStatements are what files of ISC dhcpd begin with.
var iscStatements = map[string]bool{
	"lease": true, "host": true, "group": true, "class": true, "subclass": true, "failover": true, "authoring-byte-order": true, "server-duid": true,
	"ia-na": true, "ia-ta": true, "ia-pd": true,
}

// A statement is its words up to what ends it: ';', '{' or '}'; 0 is the end
// of the file.
type statement struct {
	words []string
	end   byte
	line  int // of its first word
}

// lease reads the body of a declaration.
func (t *tokens) lease(head statement) error {
	address, err := netip.ParseAddr(head.words[1])
	if err != nil {
		return t.p.wrong(head.line, "%q is not an address", head.words[1])
	}
	l := Lease{Address: address.Unmap()}
	active, ends := true, false
	for {
		s, err := t.statement()
		if err != nil {
			return err
		}
		switch w := s.words; {
		case s.end == 0:
			return t.p.wrong(head.line, "the lease of %s does not end", address)
		case s.end == '{': // on expiry { ... }
			if err := t.skip(s.line); err != nil {
				return err
			}
		case s.end == '}':
			t.p.state(l, active && ends)
			return nil
		case len(w) == 0:
		case w[0] == "ends":
			if l.Expires, err = t.date(s); err != nil {
				return err
			}
			ends = true
		case w[0] == "abandoned":
			active = false
		case len(w) == 3 && w[0] == "binding" && w[1] == "state":
			active = w[2] == "active" || w[2] == "bootp"
		case len(w) == 3 && w[0] == "hardware" && w[1] == "ethernet":
			mac, ok := ethernet(w[2])
			if !ok {
				return t.p.wrong(s.line, "%q is not an Ethernet address", w[2])
			}
			l.MAC = mac
		case len(w) == 2 && w[0] == "client-hostname":
			l.Hostname = w[1]
		}
	}
}

// date reads "ends never", "ends epoch SECONDS" or "ends WEEKDAY DATE TIME",
// in UTC. Never is zero.
func (t *tokens) date(s statement) (time.Time, error) {
	switch w := s.words[1:]; {
	case len(w) == 1 && w[0] == "never":
		return time.Time{}, nil
	case len(w) == 2 && w[0] == "epoch":
		if n, err := strconv.ParseInt(w[1], 10, 64); err == nil {
			return time.Unix(n, 0).UTC(), nil
		}
	case len(w) == 3:
		if d, err := time.Parse("2006/01/02 15:04:05", w[1]+" "+w[2]); err == nil {
			return d, nil
		}
	}
	return time.Time{}, t.p.wrong(s.line, "%q is not a time", strings.Join(s.words[1:], " "))
}

// skip goes behind the brace that closes the one that was opened on a line.
func (t *tokens) skip(opened int) error {
	for depth := 1; depth > 0; {
		s, err := t.statement()
		switch {
		case err != nil:
			return err
		case s.end == 0:
			return t.p.wrong(opened, "the brace is not closed")
		case s.end == '{':
			depth++
		case s.end == '}':
			depth--
		}
	}
	return nil
}

// tokens splits a file of ISC dhcpd into statements.
type tokens struct {
	p    *leaseParser
	text string // what is left
	line int
}

// statement returns the next one. Quotes are taken off strings and what they
// escape.
func (t *tokens) statement() (statement, error) {
	s := statement{line: t.line}
	for t.text != "" {
		switch c := t.text[0]; c {
		case ' ', '\t', '\r', '\n':
			if c == '\n' {
				t.line++
			}
			t.text = t.text[1:]
			if len(s.words) == 0 {
				s.line = t.line
			}
		case '#':
			_, after, _ := strings.Cut(t.text, "\n")
			t.text = t.text[len(t.text)-len(after):]
			t.line++
			if len(s.words) == 0 {
				s.line = t.line
			}
		case ';', '{', '}':
			t.text = t.text[1:]
			s.end = c
			return s, nil
		case '"':
			word, err := t.quoted()
			if err != nil {
				return s, err
			}
			s.words = append(s.words, word)
		default:
			end := strings.IndexAny(t.text, " \t\r\n#;{}\"")
			if end < 0 {
				end = len(t.text)
			}
			s.words = append(s.words, t.text[:end])
			t.text = t.text[end:]
		}
	}
	if len(s.words) > 0 {
		return s, t.p.wrong(s.line, "the statement %q does not end", s.words[0])
	}
	return s, nil
}

// quoted reads a string: a backslash is followed by three octal digits or by
// the character itself.
func (t *tokens) quoted() (string, error) {
	var b strings.Builder
	for i := 1; i < len(t.text); i++ {
		switch c := t.text[i]; {
		case c == '"':
			t.text = t.text[i+1:]
			return b.String(), nil
		case c == '\n':
			return "", t.p.wrong(t.line, "a string does not end")
		case c == '\\' && i+1 < len(t.text):
			if i+4 <= len(t.text) {
				if n, err := strconv.ParseUint(t.text[i+1:i+4], 8, 8); err == nil {
					b.WriteByte(byte(n))
					i += 3
					continue
				}
			}
			i++
			b.WriteByte(t.text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", t.p.wrong(t.line, "a string does not end")
}

package console

// Escapes finds in what a person types what is meant for the client and not
// for the console: a tilde at the beginning of a line and what follows it, as
// ssh has it. "~~" types one tilde, and a tilde before anything else stays what
// it is. The zero value is at the beginning of a line.
type Escapes struct {
	within bool // a line has begun
	tilde  bool // it has begun with a tilde, which is held back
}

// What may be asked for after a tilde.
const (
	AskEnd  = '.' // to end
	AskHelp = '?' // to be told what can be asked for
)

// Take returns what is to be typed of p, and what was asked for, in order.
// Nothing behind AskEnd is taken.
func (e *Escapes) Take(p []byte) (typed []byte, asked []rune) {
	for _, c := range p {
		if e.tilde {
			e.tilde = false
			switch c {
			case AskEnd:
				return typed, append(asked, AskEnd)
			case AskHelp:
				asked = append(asked, AskHelp)
				continue
			}
			typed = append(typed, '~')
			if e.within = true; c == '~' {
				continue
			}
		}
		if c == '~' && !e.within {
			e.tilde = true
			continue
		}
		e.within = c != '\r' && c != '\n'
		typed = append(typed, c)
	}
	return typed, asked
}

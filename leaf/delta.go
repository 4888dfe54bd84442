package leaf

import (
	"slices"
	"strings"
)

// A section is a line of FRR's configuration and the lines in its context.
type section struct {
	line     string
	children []*section
}

// parseFRR reads a configuration as `show running-config` prints it: contexts
// are indented by one column, comments and ends of contexts mean nothing. What
// comes twice, since two daemons have it, counts once.
func parseFRR(text string) *section {
	root := &section{}
	path := []*section{root}
	for raw := range strings.Lines(text) {
		line := strings.TrimSpace(raw)
		if line == "" || line[0] == '!' || line == "end" || line == "exit" || strings.HasPrefix(line, "exit-") {
			continue
		}
		depth := len(raw) - len(strings.TrimLeft(raw, " "))
		if depth >= len(path) {
			depth = len(path) - 1 // a jump, which FRR never prints
		}
		parent := path[depth]
		s := parent.child(line)
		if s == nil {
			s = &section{line: line}
			parent.children = append(parent.children, s)
		}
		path = append(path[:depth+1], s)
	}
	return root
}

// child returns the section of that line.
func (s *section) child(line string) *section {
	for _, c := range s.children {
		if c.line == line {
			return c
		}
	}
	return nil
}

// missing returns the children of s that other lacks.
func (s *section) missing(other *section) []*section {
	return slices.DeleteFunc(slices.Clone(s.children), func(c *section) bool { return other != nil && other.child(c.line) != nil })
}

// owned returns what of s is Ingot's business; everything else in FRR is the
// operator's and never looked at. Router advertisements are ours on every
// interface: one on a port nobody asked for would catch its server.
func (s *section) owned() *section {
	root := &section{}
	for _, c := range s.children {
		switch first, _, _ := strings.Cut(c.line, " "); {
		case strings.HasPrefix(c.line, "frr defaults "), strings.HasPrefix(c.line, "router bgp "):
		case strings.HasPrefix(c.line, "ip prefix-list "+policy), strings.HasPrefix(c.line, "ipv6 prefix-list "+policy),
			strings.HasPrefix(c.line, "route-map "+policy):
		case first == "interface":
			c = c.only("ipv6 nd ", "no ipv6 nd ")
		case first == "vrf":
			c = c.only("vni ")
		default:
			continue
		}
		if (strings.HasPrefix(c.line, "interface ") || strings.HasPrefix(c.line, "vrf ")) && len(c.children) == 0 {
			continue // FRR keeps empty contexts as long as it likes
		}
		root.children = append(root.children, c)
	}
	return root
}

func (s *section) only(prefixes ...string) *section {
	out := &section{line: s.line}
	for _, c := range s.children {
		for _, p := range prefixes {
			if strings.HasPrefix(c.line, p) {
				out.children = append(out.children, c)
			}
		}
	}
	return out
}

// A Delta turns what FRR runs into what it shall run, in commands for vtysh.
// Withdraw has to be loaded before the kernel changes (a VRF cannot go while
// BGP is in it, and a server has to hear that its router leaves), Announce
// after (BGP needs the VRF).
type Delta struct{ Withdraw, Announce string }

// Empty reports whether FRR runs what it shall.
func (d Delta) Empty() bool { return d.Withdraw == "" && d.Announce == "" }

// diffFRR compares the owned parts of two configurations.
func diffFRR(running, wanted string) Delta {
	have, want := parseFRR(running).owned(), parseFRR(wanted).owned()
	return Delta{Withdraw: withdraw(have, want), Announce: announce(have, want)}
}

// rank orders top-level lines so that nothing is used before it exists:
// prefix lists, route maps that match them, VRFs, the default instance, which
// the others hang on, the VRFs' instances, interfaces.
func rank(line string) int {
	for i, p := range []string{"frr defaults ", "ip prefix-list ", "ipv6 prefix-list ", "route-map ", "vrf ", "router bgp ", "interface "} {
		if !strings.HasPrefix(line, p) {
			continue
		}
		if p == "router bgp " && strings.Contains(line, " vrf ") {
			return 2*i + 1
		}
		return 2 * i
	}
	return -1
}

func byRank(all []*section) []*section {
	return slices.SortedStableFunc(slices.Values(all), func(a, b *section) int { return rank(a.line) - rank(b.line) })
}

func withdraw(have, want *section) string {
	var t text
	sections := byRank(have.children)
	slices.Reverse(sections)
	// A VRF's VNI goes before its instance: FRR refuses the other order.
	slices.SortStableFunc(sections, func(a, b *section) int { return unbinds(b) - unbinds(a) })
	for _, h := range sections {
		w := want.child(h.line)
		switch {
		case strings.HasPrefix(h.line, "frr defaults "):
		case w == nil && !strings.HasPrefix(h.line, "interface ") && !strings.HasPrefix(h.line, "vrf "):
			t.line("no %s", h.line)
		default:
			negate(&t, h, w, 0)
		}
	}
	return t.String()
}

func unbinds(s *section) int {
	if strings.HasPrefix(s.line, "vrf ") {
		return 1
	}
	return 0
}

// negate takes back the children of have that want lacks, the deepest first:
// a neighbour's address families go before the neighbour. It writes the
// context only if there is something to take back.
func negate(t *text, have, want *section, depth int) {
	if want == nil {
		want = &section{}
	}
	var body text
	for _, c := range have.children {
		if len(c.children) > 0 || strings.HasPrefix(c.line, "address-family ") {
			negate(&body, c, want.child(c.line), depth+1)
		}
	}
	gone := have.missing(want)
	slices.Reverse(gone) // members before their group
	for _, c := range gone {
		if strings.HasPrefix(c.line, "address-family ") {
			continue // it goes with its lines
		}
		body.line("%s%s", strings.Repeat(" ", depth+1), negated(c.line, want))
	}
	enclose(t, have.line, &body, depth)
}

// negated is the command that takes a line back. Where the wanted context has
// another value of the same parameter, that is set instead: the default in
// between would be advertised.
func negated(line string, want *section) string {
	for _, parameter := range []string{"ipv6 nd ra-interval ", "ipv6 nd ra-lifetime "} {
		if !strings.HasPrefix(line, parameter) {
			continue
		}
		for _, w := range want.children {
			if strings.HasPrefix(w.line, parameter) {
				return w.line
			}
		}
	}
	if rest, no := strings.CutPrefix(line, "no "); no {
		return rest
	}
	return "no " + line
}

func announce(have, want *section) string {
	var t text
	for _, w := range byRank(want.children) {
		assert(&t, have.child(w.line), w, 0)
	}
	return t.String()
}

// assert adds what have lacks of want.
func assert(t *text, have, want *section, depth int) {
	if len(want.children) == 0 && !opens(want.line) {
		if have == nil {
			t.line("%s%s", strings.Repeat(" ", depth), want.line)
		}
		return
	}
	var body text
	for _, c := range want.children {
		var h *section
		if have != nil {
			h = have.child(c.line)
		}
		assert(&body, h, c, depth+1)
	}
	if have == nil && body.Len() == 0 {
		t.line("%s%s", strings.Repeat(" ", depth), want.line)
		t.line("%s%s", strings.Repeat(" ", depth), ends(want.line))
		return
	}
	enclose(t, want.line, &body, depth)
}

// enclose writes a context around a body, unless the body is empty.
func enclose(t *text, line string, body *text, depth int) {
	if body.Len() == 0 {
		return
	}
	indent := strings.Repeat(" ", depth)
	t.line("%s%s", indent, line)
	t.Write(body.Bytes())
	t.line("%s%s", indent, ends(line))
}

// opens reports whether a line opens a context.
func opens(line string) bool {
	first, _, _ := strings.Cut(line, " ")
	return slices.Contains([]string{"interface", "vrf", "router", "route-map", "address-family"}, first)
}

// ends is the line that ends the context of a line.
func ends(line string) string {
	switch first, _, _ := strings.Cut(line, " "); first {
	case "vrf", "address-family":
		return "exit-" + first
	}
	return "exit"
}

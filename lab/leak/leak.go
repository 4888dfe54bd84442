// Package leak searches files for secrets that must not be in them: as they
// are, in base64, in hex, quoted, in UTF-16, over several lines, and inside of
// compressed data, wherever in a file that begins. What is allowed to hold a
// secret is listed with a reason; all other places are findings.
package leak

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// A Secret is what must not be found.
type Secret struct {
	Name  string // for reports, which never show the value
	Value []byte // at least shortest bytes
}

// shortest is how long a secret must be: shorter ones are found anywhere.
const shortest = 8

// An Allowance is a place that may hold secrets.
type Allowance struct {
	Path   string      // a pattern of path.Match for files below the root
	Secret string      // a pattern of path.Match for names of secrets
	Mode   fs.FileMode // the permissions that such a file may have at most; 0: any
	Unread bool        // its files are not read at all
	Reason string
}

// A Search says what to look for, and where it may be.
type Search struct {
	Secrets []Secret
	Allowed []Allowance
	// Limit is how many bytes one piece of compressed data may have, 2 GiB if
	// 0. It is an error if one has more: what was not looked at is not clean.
	Limit int64
}

// A Finding is a secret in a file. Of several alike it is the first.
type Finding struct {
	File   string // below the root; "!zstd@512" is what was compressed there
	Offset int64  // where it ends in there; of what has line breaks in it, about
	Secret string
	Form   string
	Reason string // why that is allowed, or why it is although there is an allowance
}

// String says what was found where.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s in %s at %d", f.File, f.Secret, f.Form, f.Offset)
	if f.Reason != "" {
		s += " (" + f.Reason + ")"
	}
	return s
}

// A Report is what came of a search.
type Report struct {
	Findings []Finding
	Allowed  []Finding
	// Unused are the allowances that nothing needed.
	Unused []Allowance
	// Secrets is how many were searched for, Files and Bytes are how much was
	// searched, Members how many pieces of
	// compressed data were in it. Undecoded looked like more, but could not be
	// decompressed: formats have short magic numbers.
	Secrets, Files, Members int
	Bytes                   int64
	Undecoded               []string
}

// Err returns the findings as an error, nil if there are none.
func (r *Report) Err() error {
	var errs []error
	for _, f := range r.Findings {
		errs = append(errs, errors.New(f.String()))
	}
	return errors.Join(errs...)
}

// searching is one run of a search.
type searching struct {
	*Search
	matcher *matcher
	report  Report
	used    []bool // of Allowed
	found   map[[3]string]bool
}

// Run searches all files below root, and data by name: what is not in a file.
func (s *Search) Run(root string, data map[string][]byte) (*Report, error) {
	g := &searching{Search: s, used: make([]bool, len(s.Allowed)), found: map[[3]string]bool{}}
	g.report.Secrets = len(s.Secrets)
	var err error
	if g.matcher, err = newMatcher(s.Secrets); err != nil {
		return nil, err
	}
	for _, a := range s.Allowed {
		_, bad := path.Match(a.Path, "")
		_, worse := path.Match(a.Secret, "")
		if err := errors.Join(bad, worse); err != nil || a.Reason == "" {
			return nil, fmt.Errorf("leak: allowance for %s: %w", a.Path, cmp.Or(err, errors.New("no reason is given")))
		}
	}
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		return g.file(filepath.ToSlash(name), file)
	})
	if err != nil {
		return nil, err
	}
	for name, b := range data {
		if err := g.search(place{name: name, file: name}, bytes.NewReader(b), 0); err != nil {
			return nil, err
		}
	}
	for i, a := range s.Allowed {
		if !g.used[i] {
			g.report.Unused = append(g.report.Unused, a)
		}
	}
	byPlace := func(a, b Finding) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset)) }
	slices.SortFunc(g.report.Findings, byPlace)
	slices.SortFunc(g.report.Allowed, byPlace)
	return &g.report, nil
}

// A place is what is being searched: a file or what was compressed in it.
type place struct {
	name string // as in findings
	file string // below the root
	mode fs.FileMode
}

// file searches one file, unless it need not be read.
func (g *searching) file(name, at string) error {
	for i, a := range g.Allowed {
		if ok, _ := path.Match(a.Path, name); ok && a.Unread {
			g.used[i] = true
			return nil
		}
	}
	f, err := os.Open(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was a temporary one
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	g.report.Files++
	return g.search(place{name, name, info.Mode().Perm()}, f, 0)
}

// deepest is how many times compressed data may be compressed.
const deepest = 4

// search searches content, and then what is compressed in it.
func (g *searching) search(p place, content io.ReaderAt, depth int) error {
	s := newStream(g.matcher, func(at int64, n *needle) { g.hit(p, at, n) })
	size, err := s.readAll(io.NewSectionReader(content, 0, 1<<62))
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	g.report.Bytes += size
	for _, m := range s.members {
		inner := place{fmt.Sprintf("%s!%s@%d", p.name, m.format, m.at), p.file, p.mode}
		if depth == deepest {
			return fmt.Errorf("%s: compressed too many times", inner.name)
		}
		if err := g.member(inner, m, content, depth); err != nil {
			return err
		}
	}
	return nil
}

// member decompresses a member into a temporary file and searches that.
func (g *searching) member(p place, m member, content io.ReaderAt, depth int) error {
	limit := cmp.Or(g.Limit, 2<<30)
	r, done, err := m.open(content)
	if err != nil {
		g.report.Undecoded = append(g.report.Undecoded, p.name)
		return nil // four bytes that are the magic number of something else
	}
	defer done()
	tmp, err := os.CreateTemp("", "leak-*")
	if err != nil {
		return err
	}
	defer tmp.Close()
	if err := os.Remove(tmp.Name()); err != nil {
		return err
	}
	to := &sink{w: tmp}
	n, err := io.Copy(to, io.LimitReader(r, limit+1))
	switch {
	case to.err != nil:
		return to.err
	case n > limit:
		return fmt.Errorf("%s: has more than %d bytes", p.name, limit)
	case err != nil: // what came before is searched all the same
		g.report.Undecoded = append(g.report.Undecoded, p.name)
	default:
		g.report.Members++
	}
	if n == 0 {
		return nil
	}
	return g.search(p, tmp, depth+1)
}

// A sink tells its own errors from those of what is copied into it.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// hit records a find, once for each form of a secret in a place.
func (g *searching) hit(p place, at int64, n *needle) {
	key := [3]string{p.name, n.secret, n.form}
	if g.found[key] {
		return
	}
	g.found[key] = true
	f := Finding{File: p.name, Offset: at, Secret: n.secret, Form: n.form}
	for i, a := range g.Allowed {
		here, _ := path.Match(a.Path, p.file)
		this, _ := path.Match(a.Secret, n.secret)
		if !here || !this {
			continue
		}
		g.used[i] = true
		if a.Mode != 0 && p.mode&^a.Mode != 0 {
			f.Reason = fmt.Sprintf("the file has permissions %v, and may have %v", p.mode, a.Mode)
			break
		}
		f.Reason = a.Reason
		g.report.Allowed = append(g.report.Allowed, f)
		return
	}
	g.report.Findings = append(g.report.Findings, f)
}

package lab

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// A module is one loadable kernel module and what its own notes say about it.
type module struct {
	name    string // with underscores
	path    string // below the root: /lib/modules/...
	needs   []string
	wants   []string // loaded before it where the kernel has them
	aliases []string
}

// A moduleSet holds the modules of one kernel. It is what depmod(8) computes,
// taken from the same place: the .modinfo section of each module.
type moduleSet struct {
	root    string
	dir     string // below root: /lib/modules/VERSION
	files   map[string]string
	builtin map[string]bool
}

// findModules lists the modules of a kernel in the tree at root.
func findModules(root, version string) (*moduleSet, error) {
	s := &moduleSet{root: root, dir: "/lib/modules/" + version, files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(filepath.Join(root, s.dir), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			s.files[moduleName(path)] = strings.TrimPrefix(path, root)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, s.dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for _, path := range strings.Fields(string(b)) {
		s.builtin[moduleName(path)] = true
	}
	return s, nil
}

// moduleName returns the name of a module from its file or from its name in
// either spelling.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// closure returns the named modules and all they need, each after what it
// needs. What the kernel has built in is left out.
func (s *moduleSet) closure(names []string) ([]module, error) {
	var all []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		if seen[name] || s.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := s.files[name]
		if !ok {
			return fmt.Errorf("kernel module %s: not in %s", name, s.dir)
		}
		m, err := readModule(filepath.Join(s.root, path))
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		m.path = path
		for _, n := range m.wants {
			// A soft dependency may be an alias, such as a cipher's name; what
			// is needed in earnest is built in.
			if s.files[moduleName(n)] != "" {
				m.needs = append(m.needs, n)
			}
		}
		for _, n := range m.needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		all = append(all, m)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readModule reads the notes a module carries.
func readModule(path string) (module, error) {
	f, err := elf.Open(path)
	if err != nil {
		return module{}, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, fmt.Errorf("%s: has no .modinfo section", path)
	}
	b, err := section.Data()
	if err != nil {
		return module{}, err
	}
	m := module{name: moduleName(path)}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			m.needs = append(m.needs, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre: "); ok {
				pre, _, _ = strings.Cut(pre, " post:")
				m.wants = append(m.wants, strings.Fields(pre)...)
			}
		}
	}
	return m, nil
}

// index renders modules.dep and modules.alias for a set closed under
// dependency, in the form modprobe reads.
func (s *moduleSet) index(all []module) (dep, alias string) {
	byName := map[string]module{}
	for _, m := range all {
		byName[m.name] = m
	}
	var deps, aliases []string
	for _, m := range all {
		line := strings.TrimPrefix(m.path, s.dir+"/") + ":"
		for _, n := range reverseClosure(byName, m.name) {
			line += " " + strings.TrimPrefix(byName[n].path, s.dir+"/")
		}
		deps = append(deps, line)
		for _, a := range m.aliases {
			aliases = append(aliases, "alias "+a+" "+m.name)
		}
	}
	sort.Strings(deps)
	sort.Strings(aliases)
	return strings.Join(deps, "\n") + "\n", strings.Join(aliases, "\n") + "\n"
}

// reverseClosure lists all that name needs, the nearest first: the order in
// which modules.dep names them, loaded from its end.
func reverseClosure(byName map[string]module, name string) []string {
	var order []string
	at := map[string]int{}
	var visit func(n string, depth int)
	visit = func(n string, depth int) {
		for _, d := range byName[n].needs {
			d = moduleName(d)
			if _, here := byName[d]; !here {
				continue // built in
			}
			if depth >= at[d] {
				at[d] = depth + 1
				visit(d, depth+1)
			}
		}
	}
	visit(name, 0)
	for n := range at {
		order = append(order, n)
	}
	sort.Slice(order, func(i, j int) bool {
		if at[order[i]] != at[order[j]] {
			return at[order[i]] < at[order[j]]
		}
		return order[i] < order[j]
	})
	return order
}

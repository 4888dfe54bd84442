package machine

import (
	"path"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	coresType   = apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_CORES
	memoryType  = apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_MEMORY
	storageType = apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_STORAGE
	gpuType     = apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_GPU
)

// sizesGuard is bumped by whoever changes the set of sizes: whether two of them
// overlap depends on all.
const sizesGuard = "sizes"

// invalid returns a fault whose whole text is what clients of the v2 API know.
func invalid(format string, args ...any) error { return fault.Newf(fault.Invalid, "", format, args...) }

// CreateSize adds a size that no hardware fits together with another one.
func CreateSize(tx *store.Tx, s *apiv2.Size) error {
	if err := checkSize(tx, s); err != nil {
		return err
	}
	return records.Sizes.Insert(tx, s)
}

// ChangeSize edits a size. Machines that have registered keep theirs.
func ChangeSize(tx *store.Tx, id string, edit func(*apiv2.Size) error) (*apiv2.Size, error) {
	return records.Sizes.Change(tx, id, func(s *apiv2.Size) error {
		if err := edit(s); err != nil {
			return err
		}
		return checkSize(tx, s)
	})
}

func checkSize(tx *store.Tx, s *apiv2.Size) error {
	if err := CheckSize(s); err != nil {
		return err
	}
	tx.Bump(sizesGuard)
	for other := range records.Sizes.All(tx) {
		if other.GetId() != s.GetId() && Overlap(s, other) {
			return invalid("given size %s overlaps with existing sizes", s.GetId())
		}
	}
	return nil
}

// SizeUnused returns an error if something refers to a size.
func SizeUnused(r store.Reader, id string) error {
	var what string
	switch {
	case records.Machines.Count(r, "size", id) > 0:
		what = "machines"
	case records.SizeReservations.Count(r, "size", id) > 0:
		what = "size reservations"
	default:
		if _, ok := records.SizeImageConstraints.Peek(r, id); !ok {
			return nil
		}
		what = "size image constraints"
	}
	return fault.Newf(fault.Precondition, "", "cannot remove size with existing %s of this size", what)
}

// CheckSize checks a size by itself.
func CheckSize(s *apiv2.Size) error {
	seen := map[apiv2.SizeConstraintType]int{}
	for i, c := range s.GetConstraints() {
		bad := func(fact string) error { return invalid("constraint at index %d is invalid: %s", i, fact) }
		seen[c.GetType()]++
		_, glob := path.Match(c.GetIdentifier(), "")
		switch {
		case c.GetType() == apiv2.SizeConstraintType_SIZE_CONSTRAINT_TYPE_UNSPECIFIED:
			return bad("type is not specified")
		case c.GetMax() < c.GetMin():
			return bad("max is smaller than min")
		case glob != nil:
			return bad("identifier is malformed: " + c.GetIdentifier())
		case c.GetType() == memoryType && c.GetIdentifier() != "":
			return bad("memory has no identifier")
		case c.GetType() == gpuType && c.GetIdentifier() == "":
			return bad("for gpu constraints an identifier is required")
		case seen[c.GetType()] > 1 && (c.GetType() == coresType || c.GetType() == memoryType):
			return bad("only one constraint of this type is allowed")
		}
	}
	return nil
}

// SizeOf returns the size of hardware: the only one that matches, nil if none
// or several do. In a Tx it guards the size.
func SizeOf(r store.Reader, h *apiv2.MachineHardware) *apiv2.Size {
	var found *apiv2.Size
	for s := range records.Sizes.All(r) {
		if !Matches(s, h) {
			continue
		}
		if found != nil {
			return nil
		}
		found = s
	}
	if found != nil {
		if _, err := access.Open(r, records.Sizes, found.GetId()); err != nil {
			return nil
		}
	}
	return found
}

// Matches reports whether hardware is of a size: every constraint holds, and
// every CPU, disk and GPU and the memory is covered by one.
func Matches(s *apiv2.Size, h *apiv2.MachineHardware) bool {
	parts := partsOf(h)
	covered := make([]bool, len(parts))
	for _, c := range s.GetConstraints() {
		sum := uint64(0)
		for i, p := range parts {
			if covers(c, p) {
				sum += p.amount
				covered[i] = true
			}
		}
		if sum < c.GetMin() || sum > c.GetMax() {
			return false
		}
	}
	for _, ok := range covered {
		if !ok {
			return false
		}
	}
	return true
}

// A part is something of a machine that sizes count.
type part struct {
	kind   apiv2.SizeConstraintType
	name   string
	amount uint64
}

func partsOf(h *apiv2.MachineHardware) []part {
	parts := []part{{memoryType, "", h.GetMemory()}}
	for _, c := range h.GetCpus() {
		parts = append(parts, part{coresType, c.GetModel(), uint64(c.GetCores())})
	}
	for _, d := range h.GetDisks() {
		parts = append(parts, part{storageType, d.GetName(), d.GetSize()})
	}
	for _, g := range h.GetGpus() {
		parts = append(parts, part{gpuType, g.GetModel(), 1})
	}
	return parts
}

// covers reports whether a constraint counts a part. An identifier is a shell
// pattern of the part's name; an empty one covers all.
func covers(c *apiv2.SizeConstraint, p part) bool {
	if c.GetType() != p.kind {
		return false
	}
	ok, err := path.Match(c.GetIdentifier(), p.name)
	return c.GetIdentifier() == "" || err == nil && ok
}

// Overlap reports whether hardware can match both sizes, as far as can be told
// from them: false is certain, except for hardware without any part of a kind.
//
// Sizes with constraints of different kinds do not overlap, because each covers
// parts that the other does not. Constraints of one kind keep two sizes apart
// if they count the same parts and no number suits both.
func Overlap(a, b *apiv2.Size) bool {
	if len(a.GetConstraints()) == 0 || len(b.GetConstraints()) == 0 {
		return true
	}
	byKind := func(s *apiv2.Size) map[apiv2.SizeConstraintType][]*apiv2.SizeConstraint {
		m := map[apiv2.SizeConstraintType][]*apiv2.SizeConstraint{}
		for _, c := range s.GetConstraints() {
			m[c.GetType()] = append(m[c.GetType()], c)
		}
		return m
	}
	as, bs := byKind(a), byKind(b)
	if len(as) != len(bs) {
		return false
	}
	for kind := range as {
		if bs[kind] == nil || apart(as[kind], bs[kind]) {
			return false
		}
	}
	return true
}

// apart reports whether no parts of one kind suit both lists of constraints.
func apart(as, bs []*apiv2.SizeConstraint) bool {
	for _, a := range as {
		for _, b := range bs {
			if a.GetIdentifier() == b.GetIdentifier() && (a.GetMax() < b.GetMin() || b.GetMax() < a.GetMin()) {
				return true
			}
		}
	}
	return lacks(as, bs) || lacks(bs, as)
}

// lacks reports whether as demands parts that bs does not cover.
func lacks(as, bs []*apiv2.SizeConstraint) bool {
	for _, a := range as {
		shared := a.GetMin() == 0
		for _, b := range bs {
			shared = shared || meet(a.GetIdentifier(), b.GetIdentifier())
		}
		if !shared {
			return true
		}
	}
	return false
}

// meet reports whether a name can match two shell patterns. It says yes to
// patterns with classes or escapes, which it does not look into.
func meet(a, b string) bool {
	if a == "" || b == "" {
		return true
	}
	for _, p := range []string{a, b} {
		for _, c := range p {
			if c == '[' || c == '\\' {
				return true
			}
		}
	}
	return meetRunes([]rune(a), []rune(b))
}

func meetRunes(a, b []rune) bool {
	// can[i][j] says that a[i:] and b[j:] can match one name
	can := make([][]bool, len(a)+1)
	for i := len(a); i >= 0; i-- {
		can[i] = make([]bool, len(b)+1)
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				can[i][j] = true
			case i < len(a) && a[i] == '*':
				can[i][j] = can[i+1][j] || j < len(b) && can[i][j+1] && b[j] != '/'
			case j < len(b) && b[j] == '*':
				can[i][j] = can[i][j+1] || i < len(a) && can[i+1][j] && a[i] != '/'
			case i < len(a) && j < len(b):
				can[i][j] = can[i+1][j+1] && sameRune(a[i], b[j])
			}
		}
	}
	return can[0][0]
}

// sameRune reports whether a rune can match both of two elements of patterns
// that are no star.
func sameRune(a, b rune) bool {
	return a == b || a == '?' && b != '/' || b == '?' && a != '/'
}

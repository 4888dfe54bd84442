package machine

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// operators are those that a layout's image constraint may have.
var operators = []string{"=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^"}

// A match is a layout's constraint on the versions of an image: "*", or an
// operator and a version.
type match struct {
	semver *semver.Constraints
	edges  []*semver.Version
}

func (m match) check(v *semver.Version) bool { return m.semver.Check(v) }

func parseMatch(text string) (match, error) {
	number := "0"
	if text != "*" {
		op, v, ok := strings.Cut(text, " ")
		if !ok || !slices.Contains(operators, op) || !version.MatchString(v) {
			return match{}, invalid("given image constraint %q is not valid, must be * or an operator, a blank and a version, like >= 12.0", text)
		}
		number = v
	}
	c, err := semver.NewConstraint(text)
	if err != nil {
		return match{}, invalid("given image constraint %q is not valid: %s", text, err)
	}
	v, err := semver.NewVersion(number)
	if err != nil {
		return match{}, invalid("given image constraint %q is not valid: %s", text, err)
	}
	return match{c, edgesOf(v)}, nil
}

// edgesOf returns the versions at which any operator with this version can
// begin to accept.
//
// What an operator accepts is a union of ranges in the order of versions, and
// each range begins at zero, at the version, at the version cut off after its
// major or minor number, or at the one that follows one of these. Versions are
// well-ordered, so if two operators accept a version in common, then they do
// so at the beginning of a range of one of them.
func edgesOf(v *semver.Version) []*semver.Version {
	at := func(major, minor, patch uint64) *semver.Version { return semver.New(major, minor, patch, "", "") }
	edges := []*semver.Version{
		at(0, 0, 0), v, at(v.Major(), v.Minor(), 0), at(v.Major(), 0, 0),
	}
	if v.Patch() < math.MaxUint64 {
		edges = append(edges, at(v.Major(), v.Minor(), v.Patch()+1))
	}
	if v.Minor() < math.MaxUint64 {
		edges = append(edges, at(v.Major(), v.Minor()+1, 0))
	}
	if v.Major() < math.MaxUint64 {
		edges = append(edges, at(v.Major()+1, 0, 0))
	}
	return edges
}

// common reports whether two matches accept a version in common.
func common(a, b match) bool {
	for _, v := range slices.Concat(a.edges, b.edges) {
		if a.check(v) && b.check(v) {
			return true
		}
	}
	return false
}

// collision returns a size and an operating system for which two layouts'
// constraints, which are valid, accept a common version; "" if there is none.
func collision(a, b *apiv2.FilesystemLayoutConstraints) (size, os string) {
	for _, s := range a.GetSizes() {
		if !slices.Contains(b.GetSizes(), s) {
			continue
		}
		for _, os := range slices.Sorted(maps.Keys(a.GetImages())) {
			other, ok := b.GetImages()[os]
			if !ok {
				continue
			}
			ma, errA := parseMatch(a.GetImages()[os])
			mb, errB := parseMatch(other)
			if errA == nil && errB == nil && common(ma, mb) {
				return s, os
			}
		}
	}
	return "", ""
}

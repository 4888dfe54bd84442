// Package network holds the rules of networks, VRFs, AS numbers, addresses,
// boot prefixes and firewalls, and what a leaf must know.
//
// Rules are functions of a store.Reader or a *store.Tx: no context, no clock but
// the Tx's, no randomness that is not handed in. Where a message of the v2 API
// is what a rule is about, it takes and returns that message.
//
// What is taken from a pool is a key (AS numbers, VNIs, boot prefixes,
// loopbacks, child prefixes, addresses), so that nothing is taken twice; the
// lowest free one is found from the store's counts. Where a rule spans more
// than a key, its writers bump a guard record: the prefixes of all networks
// that take them from no other, and the child prefixes of one super network.
package network

import (
	"net/netip"
	"slices"
	"strings"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	external    = apiv2.NetworkType_NETWORK_TYPE_EXTERNAL
	underlay    = apiv2.NetworkType_NETWORK_TYPE_UNDERLAY
	super       = apiv2.NetworkType_NETWORK_TYPE_SUPER
	namespaced  = apiv2.NetworkType_NETWORK_TYPE_SUPER_NAMESPACED
	child       = apiv2.NetworkType_NETWORK_TYPE_CHILD
	childShared = apiv2.NetworkType_NETWORK_TYPE_CHILD_SHARED
)

// roots is the guard record of all prefixes that are not allowed to overlap:
// those of networks without a parent, and the ranges of fabrics.
const roots = "network/roots"

func isSuper(t apiv2.NetworkType) bool { return t == super || t == namespaced }
func isChild(t apiv2.NetworkType) bool { return t == child || t == childShared }

// invalid returns an error about a request, in the words v2's clients know.
func invalid(format string, args ...any) *fault.Error {
	return fault.Newf(fault.Invalid, "", format, args...)
}

// A createRequest is what both faces of the API ask for: the user's one is
// translated into the operator's.
type createRequest = adminv2.NetworkServiceCreateRequest

// fields are the parts of a request that not every type of network takes.
var fields = []struct {
	name  string
	given func(*createRequest) bool
}{
	{"project", func(q *createRequest) bool { return q.Project != nil }},
	{"id", func(q *createRequest) bool { return q.Id != nil }},
	{"prefixes", func(q *createRequest) bool { return len(q.Prefixes) > 0 }},
	{"partition", func(q *createRequest) bool { return q.Partition != nil }},
	{"vrf", func(q *createRequest) bool { return q.Vrf != nil }},
	{"destination prefixes", func(q *createRequest) bool { return len(q.DestinationPrefixes) > 0 }},
	{"additional announcable cidrs", func(q *createRequest) bool { return len(q.AdditionalAnnouncableCidrs) > 0 }},
	{"default child prefix length", func(q *createRequest) bool { return q.DefaultChildPrefixLength != nil }},
	{"min child prefix length", func(q *createRequest) bool { return q.MinChildPrefixLength != nil }},
	{"parent network id", func(q *createRequest) bool { return q.ParentNetwork != nil }},
	{"addressfamily", func(q *createRequest) bool { return q.AddressFamily != nil }},
	{"length", func(q *createRequest) bool { return q.Length != nil }},
}

// shapes says which fields a type of network needs and which it forbids; all
// others are optional.
var shapes = map[apiv2.NetworkType]struct{ needs, forbids []string }{
	external: {
		needs:   []string{"id", "prefixes", "vrf"},
		forbids: []string{"additional announcable cidrs", "default child prefix length", "min child prefix length", "parent network id", "addressfamily", "length"},
	},
	underlay: {
		needs: []string{"id", "prefixes", "partition"},
		forbids: []string{"project", "vrf", "destination prefixes", "additional announcable cidrs", "default child prefix length", "min child prefix length",
			"parent network id", "addressfamily", "length"},
	},
	super: {
		needs:   []string{"id", "prefixes", "default child prefix length"},
		forbids: []string{"parent network id", "addressfamily", "length"},
	},
	namespaced: {
		needs:   []string{"id", "prefixes", "default child prefix length"},
		forbids: []string{"partition", "parent network id", "addressfamily", "length"},
	},
	child:       childShape,
	childShared: childShape,
}

var childShape = struct{ needs, forbids []string }{
	needs:   []string{"project"},
	forbids: []string{"id", "prefixes", "destination prefixes", "additional announcable cidrs", "default child prefix length", "min child prefix length"},
}

// checkShape names every field that is missing or too much.
func checkShape(q *createRequest) error {
	shape, known := shapes[q.GetType()]
	if !known {
		return invalid("given networktype:%s is invalid", q.GetType())
	}
	var wrong []string
	for _, f := range fields {
		switch given := f.given(q); {
		case !given && slices.Contains(shape.needs, f.name):
			wrong = append(wrong, f.name+" must not be nil")
		case given && slices.Contains(shape.forbids, f.name):
			wrong = append(wrong, f.name+" must be nil")
		}
	}
	if len(wrong) > 0 {
		return invalid("%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// Create adds a network of any type. childID becomes the id of a child network,
// whose id is not chosen by the caller.
func Create(tx *store.Tx, q *createRequest, childID string) (*apiv2.Network, error) {
	if q.Id != nil {
		if _, taken := records.Networks.Peek(tx, q.GetId()); taken {
			return nil, fault.Newf(fault.Exists, "", "network with id:%s already exists", q.GetId())
		}
	}
	if q.Project != nil {
		if _, err := access.OpenProject(tx, q.GetProject()); err != nil {
			return nil, err
		}
	}
	if q.Partition != nil {
		if _, err := access.Open(tx, records.Partitions, q.GetPartition()); err != nil {
			return nil, err
		}
	}
	prefixes, err := ipam.ParseAll(q.GetPrefixes())
	if err != nil {
		return nil, err
	}
	if err := checkShape(q); err != nil {
		return nil, err
	}
	n := &apiv2.Network{
		Id: q.GetId(), Name: q.Name, Description: q.Description, Partition: q.Partition, Project: q.Project,
		Prefixes: q.GetPrefixes(), DestinationPrefixes: q.GetDestinationPrefixes(), DefaultChildPrefixLength: q.GetDefaultChildPrefixLength(),
		MinChildPrefixLength: q.GetMinChildPrefixLength(), Type: q.GetType(), NatType: natType(q.GetNatType()), Vrf: q.Vrf,
		AdditionalAnnouncableCidrs: q.GetAdditionalAnnouncableCidrs(), Meta: &apiv2.Meta{Labels: q.GetLabels()},
	}
	if isChild(n.GetType()) {
		n.Id = childID
		err = addChild(tx, n, q)
	} else {
		err = addRoot(tx, n, prefixes)
	}
	if err != nil {
		return nil, err
	}
	return n, records.Networks.Insert(tx, n)
}

func natType(t apiv2.NATType) apiv2.NATType {
	if t == apiv2.NATType_NAT_TYPE_UNSPECIFIED {
		return apiv2.NATType_NAT_TYPE_NONE
	}
	return t
}

// addRoot checks and takes what a network without a parent needs.
func addRoot(tx *store.Tx, n *apiv2.Network, prefixes []netip.Prefix) error {
	if err := checkRoot(n, prefixes); err != nil {
		return err
	}
	if n.GetPartition() != "" && (n.GetType() == super || n.GetType() == underlay) {
		if _, taken := records.Claims.Peek(tx, partitionClaim(n)); taken {
			return invalid("partition with id %q already has a network of type %s", n.GetPartition(), typeName(n.GetType()))
		}
		if err := claim(tx, partitionClaim(n), n.GetId()); err != nil {
			return err
		}
	}
	if err := checkOverlap(tx, n, prefixes); err != nil {
		return err
	}
	if n.Vrf == nil {
		return nil
	}
	return takeVNI(tx, n.GetPartition(), n.GetVrf(), vniOwner(n.GetId()))
}

// checkRoot checks the parts of a network without a parent against each other.
func checkRoot(n *apiv2.Network, prefixes []netip.Prefix) error {
	if n.GetType() == underlay {
		if n.GetNatType() != apiv2.NATType_NAT_TYPE_NONE {
			return invalid("nattype may only be nil or none")
		}
		if has(prefixes, v6) {
			return invalid("underlay can only contain ipv4 prefixes")
		}
	}
	destinations, err := ipam.ParseAll(n.GetDestinationPrefixes())
	if err != nil {
		return err
	}
	if n.GetType() == external {
		for _, f := range families {
			if has(destinations, f) && !has(prefixes, f) {
				return invalid("addressfamily:%s of destination prefixes is not present in existing prefixes", f)
			}
		}
	}
	if isSuper(n.GetType()) {
		if err := checkLengths(lengthsOf(n.GetDefaultChildPrefixLength()), prefixes); err != nil {
			return err
		}
		if err := checkLengths(lengthsOf(n.GetMinChildPrefixLength()), prefixes); err != nil {
			return err
		}
		for _, f := range families {
			if has(prefixes, f) && lengthsOf(n.GetDefaultChildPrefixLength())[f] == 0 {
				return invalid("a super network must always contain a default child prefix length per addressfamily: %s", f)
			}
		}
	}
	_, err = ipam.ParseAll(n.GetAdditionalAnnouncableCidrs())
	return err
}

// checkOverlap keeps networks without a parent, boot networks and loopbacks
// apart. Namespaced networks may overlap with everything, since each namespace
// has its own addresses.
func checkOverlap(tx *store.Tx, n *apiv2.Network, prefixes []netip.Prefix) error {
	for i := range prefixes {
		if a, b, ok := ipam.Overlap(prefixes[i:i+1], prefixes[:i]); ok {
			return overlaps(a, b)
		}
	}
	if n.GetType() == namespaced {
		return nil
	}
	tx.Bump(roots)
	for other, theirs := range rootPrefixes(tx) {
		if other == n.GetId() {
			continue
		}
		if a, b, ok := ipam.Overlap(prefixes, theirs); ok {
			return overlaps(a, b)
		}
	}
	for f := range records.Fabrics.All(tx) {
		if a, b, ok := ipam.Overlap(prefixes, fabricPrefixes(f)); ok {
			return overlaps(a, b)
		}
	}
	return nil
}

func overlaps(a, b netip.Prefix) error {
	return fault.Newf(fault.Exists, "", "%s overlaps %s", a, b)
}

// rootPrefixes yields the networks whose prefixes must not overlap.
func rootPrefixes(r store.Reader) func(yield func(string, []netip.Prefix) bool) {
	return func(yield func(string, []netip.Prefix) bool) {
		for _, t := range []apiv2.NetworkType{external, underlay, super} {
			for n := range records.Networks.By(r, "root", t.String()) {
				if !yield(n.GetId(), prefixesOf(n)) {
					return
				}
			}
		}
	}
}

// prefixesOf returns the prefixes of a stored network, which are canonical.
func prefixesOf(n *apiv2.Network) []netip.Prefix { return stored(n.GetPrefixes()) }

func stored(ss []string) []netip.Prefix {
	ps := make([]netip.Prefix, 0, len(ss))
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// Edit applies an update to a network, which the caller stores. Labels are the
// caller's, too. Prefixes, destination prefixes and announcable CIDRs that are
// not given stay as they are.
func Edit(tx *store.Tx, n *apiv2.Network, q *adminv2.NetworkServiceUpdateRequest) error {
	if q.DefaultChildPrefixLength != nil && !isSuper(n.GetType()) {
		return invalid("default child prefix length can only be set on super networks")
	}
	if q.MinChildPrefixLength != nil && !isSuper(n.GetType()) {
		return invalid("min child prefix length can only be set on super networks")
	}
	prefixes := prefixesOf(n)
	if len(q.GetPrefixes()) > 0 {
		var err error
		if prefixes, err = replacePrefixes(tx, n, q.GetPrefixes()); err != nil {
			return err
		}
	}
	if q.Name != nil {
		n.Name = q.Name
	}
	if q.Description != nil {
		n.Description = q.Description
	}
	if q.NatType != nil {
		n.NatType = natType(q.GetNatType())
	}
	if len(q.GetDestinationPrefixes()) > 0 {
		n.DestinationPrefixes = q.GetDestinationPrefixes()
	}
	if q.DefaultChildPrefixLength != nil {
		n.DefaultChildPrefixLength = q.GetDefaultChildPrefixLength()
	}
	if q.MinChildPrefixLength != nil {
		n.MinChildPrefixLength = q.GetMinChildPrefixLength()
	}
	if err := editAnnouncable(n, q); err != nil {
		return err
	}
	n.Prefixes = ipam.Strings(prefixes)
	if isChild(n.GetType()) {
		_, err := ipam.ParseAll(n.GetDestinationPrefixes())
		return err
	}
	return checkRoot(n, prefixes)
}

// replacePrefixes checks that new prefixes overlap with nobody's and that
// nothing was taken from those that go.
func replacePrefixes(tx *store.Tx, n *apiv2.Network, to []string) ([]netip.Prefix, error) {
	if isChild(n.GetType()) {
		return nil, invalid("cannot change prefixes in child networks")
	}
	prefixes, err := ipam.ParseAll(to)
	if err != nil {
		return nil, err
	}
	if err := checkOverlap(tx, n, prefixes); err != nil {
		return nil, err
	}
	for _, p := range prefixesOf(n) {
		if slices.Contains(prefixes, p) {
			continue
		}
		if err := checkUnused(tx, n, p); err != nil {
			return nil, err
		}
	}
	return prefixes, nil
}

func editAnnouncable(n *apiv2.Network, q *adminv2.NetworkServiceUpdateRequest) error {
	given := q.GetAdditionalAnnouncableCidrs()
	if len(given) > 0 && !isSuper(n.GetType()) {
		return invalid("additional announcable cidrs can only be set in a private super network")
	}
	if len(given) == 0 && !q.GetForce() {
		return nil
	}
	for _, old := range n.GetAdditionalAnnouncableCidrs() {
		if !q.GetForce() && !slices.Contains(given, old) {
			return invalid("you cannot remove %q from additionalannouncablecidrs without force flag set", old)
		}
	}
	n.AdditionalAnnouncableCidrs = given
	return nil
}

// Open returns a network on which something new is about to depend.
func Open(tx *store.Tx, id string) (*apiv2.Network, error) {
	return access.Open(tx, records.Networks, id)
}

// Remove deletes a network whose door the task has closed, and gives back what
// it had taken.
func Remove(tx *store.Tx, id, task string) (*apiv2.Network, error) {
	n, err := access.Remove(tx, records.Networks, id, task, func() error {
		n, err := records.Networks.Get(tx, id)
		if err != nil {
			return err
		}
		return checkRemovable(tx, n)
	})
	if err != nil {
		return nil, err
	}
	return n, giveBack(tx, n)
}

func checkRemovable(r store.Reader, n *apiv2.Network) error {
	if records.Networks.Count(r, "parent", n.GetId()) > 0 {
		return fault.New(fault.Precondition, "", "cannot remove network with existing child networks", "")
	}
	if records.Allocations.Count(r, "network", n.GetId())+records.Reclaims.Count(r, "network", n.GetId()) > 0 {
		return fault.New(fault.Precondition, "", "cannot remove network with existing machine allocations", "")
	}
	for _, p := range prefixesOf(n) {
		if err := checkUnused(r, n, p); err != nil {
			return err
		}
	}
	return nil
}

// giveBack releases the keys of a network that is going.
func giveBack(tx *store.Tx, n *apiv2.Network) error {
	switch n.GetType() {
	case super, underlay:
		if n.GetPartition() != "" {
			if err := release(tx, records.Claims, partitionClaim(n), n.GetId()); err != nil {
				return err
			}
		}
	case childShared:
		if err := release(tx, records.Claims, sharedClaim(n), n.GetId()); err != nil {
			return err
		}
	}
	if isChild(n.GetType()) {
		if err := releaseChildPrefixes(tx, n); err != nil {
			return err
		}
	}
	if n.Vrf == nil {
		return nil
	}
	return releaseVNI(tx, n.GetPartition(), n.GetVrf(), vniOwner(n.GetId()))
}

// checkUnused refuses if addresses or child networks were taken from a prefix.
func checkUnused(r store.Reader, n *apiv2.Network, p netip.Prefix) error {
	if isSuper(n.GetType()) {
		for c := range records.Networks.By(r, "parent", n.GetId()) {
			if _, _, ok := ipam.Overlap(prefixesOf(c), []netip.Prefix{p}); ok {
				return fault.Newf(fault.Precondition, "", "there are still child networks present in prefix: %s", p)
			}
		}
		return nil
	}
	if used := addressesIn(r, n.GetNamespace(), p); used > 0 {
		return fault.Newf(fault.Precondition, "", "there are still %d ips present in prefix: %s", used, p)
	}
	return nil
}

// addressesIn counts the addresses taken from a prefix.
func addressesIn(r store.Reader, namespace string, p netip.Prefix) int {
	return records.IPs.CountBetween(r, records.IPKey(namespace, p.Addr()), records.IPKey(namespace, ipam.Last(p)))
}

func partitionClaim(n *apiv2.Network) string {
	return records.Key(typeName(n.GetType()), n.GetPartition())
}

func sharedClaim(n *apiv2.Network) string {
	return records.Key(typeName(childShared), n.GetProject())
}

// claim takes a place that only one may have.
func claim(tx *store.Tx, key, owner string) error {
	return records.Claims.Insert(tx, taken(tx, key, owner))
}

package network

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// A family is one of the two address families, in the order in which a network
// lists its prefixes.
type family int

const (
	v4 family = iota
	v6
)

var families = [...]family{v4, v6}

// String returns the family as v2's messages name it.
func (f family) String() string { return [...]string{"IPv4", "IPv6"}[f] }

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return v4
	}
	return v6
}

func has(ps []netip.Prefix, f family) bool { return len(ofFamily(ps, f)) > 0 }

func ofFamily(ps []netip.Prefix, f family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		if familyOf(p.Addr()) == f {
			out = append(out, p)
		}
	}
	return out
}

// lengths are prefix lengths by family, zero if there is none.
type lengths [2]int

func lengthsOf(l *apiv2.ChildPrefixLength) lengths {
	return lengths{int(l.GetIpv4()), int(l.GetIpv6())}
}

// checkLengths says what is wrong with lengths of children of the prefixes.
func checkLengths(l lengths, prefixes []netip.Prefix) error {
	for _, f := range families {
		if l[f] == 0 {
			continue
		}
		if !has(prefixes, f) {
			return invalid("child prefix length for addressfamily %q specified, but not found in prefixes", f)
		}
		for _, p := range ofFamily(prefixes, f) {
			if l[f] <= p.Bits() {
				return invalid("given childprefixlength %d is not greater than prefix length of:%s", l[f], p)
			}
			if l[f] > p.Addr().BitLen() {
				return invalid("given childprefixlength %d is longer than an address of %s", l[f], f)
			}
		}
	}
	return nil
}

// addChild takes prefixes and a VRF from the super network that the request
// names or implies, and fills in what a child inherits.
func addChild(tx *store.Tx, n *apiv2.Network, q *createRequest) error {
	parent, err := parentOf(tx, q)
	if err != nil {
		return err
	}
	want, err := childLengths(parent, q)
	if err != nil {
		return err
	}
	if n.GetType() == childShared {
		if _, taken := records.Claims.Peek(tx, sharedClaim(n)); taken {
			return invalid("project %s already has a network of type %s", n.GetProject(), typeName(childShared))
		}
		if err := claim(tx, sharedClaim(n), n.GetId()); err != nil {
			return err
		}
	}
	n.ParentNetwork = proto.String(parent.GetId())
	n.Partition = parent.Partition
	n.DestinationPrefixes = parent.GetDestinationPrefixes()
	n.NatType = parent.GetNatType()
	if parent.GetType() == namespaced {
		n.Namespace = n.Project
	}
	if n.Prefixes, err = takeChildPrefixes(tx, parent, n, want); err != nil {
		return err
	}
	switch {
	case parent.Vrf != nil:
		n.Vrf = parent.Vrf
		return nil
	case n.Vrf != nil:
		return takeVNI(tx, n.GetPartition(), n.GetVrf(), vniOwner(n.GetId()))
	}
	vni, err := takeAnyVNI(tx, n.GetPartition(), vniOwner(n.GetId()))
	n.Vrf = proto.Uint32(vni)
	return err
}

// parentOf returns the super network a child is to be taken from: the one that
// is named, or that of the partition.
func parentOf(tx *store.Tx, q *createRequest) (*apiv2.Network, error) {
	if q.Partition != nil && q.ParentNetwork != nil {
		return nil, invalid("if parent network id is specified, partition must be nil")
	}
	id := q.GetParentNetwork()
	if q.Partition != nil {
		c, ok := records.Claims.Peek(tx, records.Key(typeName(super), q.GetPartition()))
		if !ok {
			return nil, invalid("unable to find a super in partition:%s", q.GetPartition())
		}
		id = c.GetOwner()
	}
	if id == "" {
		return nil, invalid("no parent network found")
	}
	parent, err := Open(tx, id)
	if err != nil {
		return nil, err
	}
	if !isSuper(parent.GetType()) {
		return nil, invalid("given parentnetwork must be either a super or a super namespace network")
	}
	if parent.GetProject() != "" && parent.GetProject() != q.GetProject() {
		return nil, invalid("not allowed to create child network with project %s in network %s scoped to project %s", q.GetProject(), id, parent.GetProject())
	}
	if parent.Vrf != nil && q.Vrf != nil {
		return nil, invalid("super network %q inherits vrf %d to its child networks, therefore the vrf must be nil", id, parent.GetVrf())
	}
	return parent, nil
}

// childLengths returns the length of the prefix a child gets in each family,
// zero in those it does not get.
func childLengths(parent *apiv2.Network, q *createRequest) (lengths, error) {
	want := lengthsOf(parent.GetDefaultChildPrefixLength())
	if given := lengthsOf(q.GetLength()); given != (lengths{}) {
		if err := checkLengths(given, prefixesOf(parent)); err != nil {
			return want, err
		}
		least := lengthsOf(parent.GetMinChildPrefixLength())
		for _, f := range families {
			if given[f] != 0 && given[f] < least[f] {
				return want, invalid("requested prefix length %s is smaller than allowed (super network defines a minimum of %s)", given, least)
			}
		}
		want = given
	}
	only := map[apiv2.NetworkAddressFamily]family{
		apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V4: v4,
		apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V6: v6,
	}
	if f, ok := only[q.GetAddressFamily()]; ok {
		if want[f] == 0 {
			return want, invalid("addressfamily %s specified, but no childprefixlength for this addressfamily", f)
		}
		want[1-f] = 0
	}
	return want, nil
}

// String returns the lengths as a prefix list would show them.
func (l lengths) String() string {
	var out []string
	for _, f := range families {
		if l[f] != 0 {
			out = append(out, fmt.Sprintf("%s:%d", f, l[f]))
		}
	}
	return strings.Join(out, ",")
}

// takeChildPrefixes takes the lowest free prefix of each wanted family.
func takeChildPrefixes(tx *store.Tx, parent, n *apiv2.Network, want lengths) ([]string, error) {
	tx.Bump(childGuard(parent.GetId(), n.GetNamespace()))
	var out []string
	for _, f := range families {
		if want[f] == 0 {
			continue
		}
		p, ok := lowestChild(tx, space{parent.GetId(), n.GetNamespace()}, ofFamily(prefixesOf(parent), f), want[f])
		if !ok {
			return nil, fault.Newf(fault.Exhausted, "network "+parent.GetId(), "has no free %s prefix of length %d", f, want[f]).
				Do("ask for a longer prefix, or add a prefix to the network")
		}
		if err := records.ChildPrefixes.Insert(tx, taken(tx, records.ChildPrefixKey(parent.GetId(), n.GetNamespace(), p), n.GetId())); err != nil {
			return nil, err
		}
		out = append(out, p.String())
	}
	return out, nil
}

func releaseChildPrefixes(tx *store.Tx, n *apiv2.Network) error {
	tx.Bump(childGuard(n.GetParentNetwork(), n.GetNamespace()))
	for _, p := range prefixesOf(n) {
		if err := release(tx, records.ChildPrefixes, records.ChildPrefixKey(n.GetParentNetwork(), n.GetNamespace(), p), n.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// childGuard is the guard record of the child prefixes of one super network in
// one namespace: prefixes of different lengths overlap under different keys.
func childGuard(parent, namespace string) string {
	return "network/children/" + records.Key(parent, namespace)
}

// A space holds the child prefixes of one super network in one namespace.
type space struct{ super, namespace string }

func (s space) key(p netip.Prefix) string { return records.ChildPrefixKey(s.super, s.namespace, p) }

// between counts the children of a length whose first address is from a to b.
func (s space) between(r store.Reader, length int, a, b netip.Addr) int {
	return records.ChildPrefixes.CountBetween(r, s.key(netip.PrefixFrom(a, length)), s.key(netip.PrefixFrom(b, length)))
}

// gap returns the number of the lowest prefix of a length in p, not before lo,
// that no child of that very length has.
func (s space) gap(r store.Reader, p netip.Prefix, length int, lo uint64) (uint64, bool) {
	subs := ipam.Subs(p, length)
	if lo >= subs {
		return 0, false
	}
	return records.ChildPrefixes.LowestGap(r, lo, subs-1, func(n uint64) string {
		c, _ := ipam.NthSub(p, length, n)
		return s.key(c)
	})
}

// lowestChild returns the lowest free prefix of a length in the first of the
// prefixes that has room.
func lowestChild(r store.Reader, s space, prefixes []netip.Prefix, length int) (netip.Prefix, bool) {
	for _, p := range prefixes {
		if c, ok := s.lowest(r, p, length); ok {
			return c, true
		}
	}
	return netip.Prefix{}, false
}

// lowest searches one prefix. Runs of children are skipped by the store's
// counts, whatever their lengths are, so that the search takes steps only where
// children of different lengths leave holes too small.
func (s space) lowest(r store.Reader, p netip.Prefix, length int) (netip.Prefix, bool) {
	var others []int // lengths of children that are not of the wanted length
	for l := p.Bits() + 1; l <= p.Addr().BitLen(); l++ {
		if l != length && s.between(r, l, p.Addr(), ipam.Last(p)) > 0 {
			others = append(others, l)
		}
	}
	subs := ipam.Subs(p, length)
	for from := uint64(0); from < subs; {
		n, ok := s.gap(r, p, length, from)
		if !ok {
			return netip.Prefix{}, false
		}
		c, _ := ipam.NthSub(p, length, n)
		from = n
		for _, l := range others {
			from = max(from, s.beyond(r, p, c, n, l))
		}
		if from == n {
			return c, true
		}
	}
	return netip.Prefix{}, false
}

// beyond returns n if no child of length l overlaps c, the n-th prefix of its
// length in p; otherwise the number of the next prefix that may be free of
// them, or math.MaxUint64 if there is none.
func (s space) beyond(r store.Reader, p, c netip.Prefix, n uint64, l int) uint64 {
	if l < c.Bits() { // one larger child may contain c
		large := netip.PrefixFrom(c.Addr(), l).Masked()
		if s.between(r, l, large.Addr(), large.Addr()) == 0 {
			return n
		}
		at, _ := ipam.SubNumber(p, l, c.Addr())
		at, ok := s.gap(r, p, l, at)
		if !ok {
			return math.MaxUint64
		}
		return at << (c.Bits() - l)
	}
	if s.between(r, l, c.Addr(), ipam.Last(c)) == 0 {
		return n
	}
	if ipam.Subs(p, l) == math.MaxUint64 {
		return n + 1 // their numbers do not fit
	}
	at, ok := s.gap(r, p, l, n<<(l-c.Bits()))
	if !ok {
		return math.MaxUint64
	}
	return max(n+1, at>>(l-c.Bits()))
}

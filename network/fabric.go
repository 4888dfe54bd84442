package network

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/ipam"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// The plan of a boot network (MEP-20): a leaf takes a prefix of leafBits from
// the supernet, each of its ports one of portBits, on which stations can form
// their addresses.
const (
	leafBits, portBits     = 56, 64
	shortestNet            = 40 // of a supernet
	maxPorts               = 1 << (portBits - leafBits)
	defaultDomain          = "boot.internal" // .internal is set aside for private use
	firstLow, lastLow      = 64512, 65534    // private use, RFC 6996
	firstHigh, lastLeafASN = 4200000000, firstMachineASN - 1
)

// PutFabric adds the plan of a partition or replaces it. While leaves have
// taken something, ranges may only grow.
func PutFabric(tx *store.Tx, f *ingotv1.Fabric) (*ingotv1.Fabric, error) {
	if _, err := access.Open(tx, records.Partitions, f.GetPartition()); err != nil {
		return nil, err
	}
	f = proto.Clone(f).(*ingotv1.Fabric)
	if f.GetBootMedium() == ingotv1.BootMedium_BOOT_MEDIUM_UNSPECIFIED {
		f.BootMedium = ingotv1.BootMedium_BOOT_MEDIUM_UKI
	}
	if f.GetBootMedium() == ingotv1.BootMedium_BOOT_MEDIUM_STICK {
		return nil, fault.New(fault.Invalid, "fabric of partition "+f.GetPartition(), "its boot_medium cannot be a stick, which somebody has to put into each server",
			"choose uki or ipxe, and stick for single servers with 'ingot bmc update'")
	}
	if f.GetBootDomain() == "" {
		f.BootDomain = defaultDomain
	}
	if err := checkFabric(f); err != nil {
		return nil, err
	}
	tx.Bump(roots)
	tx.Bump(fabricGuard(f.GetPartition()))
	if err := checkFabricOverlap(tx, f); err != nil {
		return nil, err
	}
	old, exists := records.Fabrics.Peek(tx, f.GetPartition())
	f.Meta = old.GetMeta()
	if exists {
		if err := checkFabricChange(tx, old, f); err != nil {
			return nil, err
		}
		if err := releaseFabric(tx, old); err != nil {
			return nil, err
		}
	}
	if err := takeFabric(tx, f); err != nil {
		return nil, err
	}
	return f, records.Fabrics.Put(tx, f)
}

// fabricGuard is bumped by whoever takes something from a fabric or changes it.
func fabricGuard(partition string) string { return "network/fabric/" + partition }

func fabricOwner(f *ingotv1.Fabric) string { return "fabric " + f.GetPartition() }

// fabricPrefixes returns the ranges of a stored fabric.
func fabricPrefixes(f *ingotv1.Fabric) []netip.Prefix {
	return stored([]string{f.GetBootSupernet(), f.GetLoopbacks()})
}

// checkFabric checks the parts of a plan against each other.
func checkFabric(f *ingotv1.Fabric) error {
	bad := func(format string, args ...any) *fault.Error {
		return fault.Newf(fault.Invalid, "fabric of partition "+f.GetPartition(), format, args...)
	}
	net, err := ipam.Parse(f.GetBootSupernet())
	if err != nil {
		return err
	}
	if net.Addr().Is4() || net.Bits() < shortestNet || net.Bits() > leafBits {
		return bad("boot_supernet %s is not an IPv6 prefix of length %d to %d", net, shortestNet, leafBits).Do("give a prefix that holds one /56 per leaf")
	}
	a, err := ipam.ParseAddr(f.GetBootAddress())
	if err != nil {
		return err
	}
	if !a.Is6() || !a.IsGlobalUnicast() {
		return bad("boot_address %s is not an IPv6 unicast address that can be routed", a).Do("take one outside of the leaves' prefixes")
	}
	if net.Bits() == leafBits && net.Contains(a) {
		return bad("boot_address %s lies in the only /56 of the boot supernet", a).Do("take an address outside of it, or widen the supernet")
	}
	f.BootAddress = a.String()
	loopbacks, err := ipam.Parse(f.GetLoopbacks())
	if err != nil {
		return err
	}
	if _, _, ok := ipam.Hosts(loopbacks); !ok || !loopbacks.Addr().Is4() {
		return bad("loopbacks %s is not an IPv4 prefix with room for addresses", loopbacks).Do("give a prefix of at most length 30")
	}
	first, last := asnRange(f)
	short, long := first >= firstLow && last <= lastLow, first >= firstHigh && last <= lastLeafASN
	if !short && !long {
		return bad("AS numbers %d to %d are not within the private ranges for leaves", first, last).Do("stay within 64512-65534 or 4200000000-4210000000")
	}
	return nil
}

func asnRange(f *ingotv1.Fabric) (first, last uint64) {
	return uint64(f.GetFirstAsn()), uint64(f.GetFirstAsn()) + uint64(f.GetAsnCount()) - 1
}

func checkFabricOverlap(r store.Reader, f *ingotv1.Fabric) error {
	mine := fabricPrefixes(f)
	for other, theirs := range rootPrefixes(r) {
		if a, b, ok := ipam.Overlap(mine, theirs); ok {
			return fault.Newf(fault.Exists, "fabric of partition "+f.GetPartition(), "%s overlaps %s of network %s", a, b, other).Do("choose another range")
		}
	}
	for g := range records.Fabrics.All(r) {
		if g.GetPartition() == f.GetPartition() {
			continue
		}
		if a, b, ok := ipam.Overlap(mine, fabricPrefixes(g)); ok {
			return fault.Newf(fault.Exists, "fabric of partition "+f.GetPartition(), "%s overlaps %s of partition %s", a, b, g.GetPartition()).Do("choose another range")
		}
	}
	return nil
}

// checkFabricChange refuses a change that would take away what leaves have.
func checkFabricChange(r store.Reader, old, f *ingotv1.Fabric) error {
	if records.Leaves.Count(r, "partition", f.GetPartition()) == 0 {
		return nil
	}
	was, is := fabricPrefixes(old), fabricPrefixes(f)
	oldFirst, oldLast := asnRange(old)
	first, last := asnRange(f)
	for _, c := range []struct {
		field string
		lost  bool
	}{
		{"boot_supernet", !ipam.Contains(is[0], was[0])},
		{"loopbacks", !ipam.Contains(is[1], was[1])},
		{"first_asn and asn_count", first > oldFirst || last < oldLast},
		{"boot_vni", f.GetBootVni() != old.GetBootVni()},
	} {
		if c.lost {
			return fault.Newf(fault.Precondition, "fabric of partition "+f.GetPartition(), "%s cannot change while leaves have taken from it", c.field).
				Do("delete the partition's switches first, or choose a range that contains the old one")
		}
	}
	return nil
}

// takeFabric takes the VNI of the boot VRF, and the /56 that the address of
// metal-boot lies in, so that no leaf gets it.
func takeFabric(tx *store.Tx, f *ingotv1.Fabric) error {
	if err := takeVNI(tx, f.GetPartition(), f.GetBootVni(), fabricOwner(f)); err != nil {
		return err
	}
	if !netip.MustParsePrefix(f.GetBootSupernet()).Contains(netip.MustParseAddr(f.GetBootAddress())) {
		return nil
	}
	key := bootKey(f)
	if t, ok := records.BootPrefixes.Peek(tx, key); ok && t.GetOwner() != fabricOwner(f) {
		return fault.Newf(fault.Exists, "fabric of partition "+f.GetPartition(), "boot_address %s lies in a prefix of %s", f.GetBootAddress(), t.GetOwner()).
			Do("choose an address outside of the leaves' prefixes")
	}
	return records.BootPrefixes.Put(tx, taken(tx, key, fabricOwner(f)))
}

// DropFabric deletes the plan of a partition that is being deleted, if it has
// one, and what was taken for it.
func DropFabric(tx *store.Tx, partition string) error {
	f, ok := records.Fabrics.Peek(tx, partition)
	if !ok {
		return nil
	}
	tx.Bump(roots)
	tx.Bump(fabricGuard(partition))
	if err := releaseFabric(tx, f); err != nil {
		return err
	}
	_, err := records.Fabrics.Delete(tx, partition)
	return err
}

func releaseFabric(tx *store.Tx, f *ingotv1.Fabric) error {
	if err := release(tx, records.BootPrefixes, bootKey(f), fabricOwner(f)); err != nil {
		return err
	}
	return releaseVNI(tx, f.GetPartition(), f.GetBootVni(), fabricOwner(f))
}

// bootKey returns the key of the /56 around the address of metal-boot.
func bootKey(f *ingotv1.Fabric) string {
	a := netip.MustParseAddr(f.GetBootAddress())
	return store.OrderedAddr(netip.PrefixFrom(a, leafBits).Masked().Addr())
}

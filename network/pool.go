package network

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ingot-cloud/ingot/fault"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// The ranges that numbers are taken from when nobody asks for a certain one.
// Those of the two kinds of VNI are apart so that a partition's own ones and
// those of all partitions meet only where an operator chose them.
const (
	firstMachineASN, lastMachineASN = 4210000001, 4294967294 // private use, RFC 6996
	firstVNI, lastVNI               = 10_000, 99_999         // of networks in one partition
	firstWideVNI, lastWideVNI       = 100_000, 131_072       // of networks in all partitions
	maxVNI                          = 1<<24 - 1              // RFC 7348
)

func taken(tx *store.Tx, key, owner string) *privatev1.Taken {
	return &privatev1.Taken{Key: key, Owner: owner, Since: timestamppb.New(tx.Now())}
}

// release gives a value back, if it is still the owner's.
func release(tx *store.Tx, pool *store.Table[*privatev1.Taken], key, owner string) error {
	t, err := pool.Get(tx, key)
	if fault.KindOf(err) == fault.NotFound || err == nil && t.GetOwner() != owner {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = pool.Delete(tx, key)
	return err
}

// lowest returns the lowest free number of a range. After a lost race it looks
// a little further on, at a place that depends on who asks, so that rivals for
// one pool aim apart instead of losing to each other again.
func lowest(tx *store.Tx, pool interface {
	LowestGap(r store.Reader, lo, hi uint64, key func(uint64) string) (uint64, bool)
}, lo, hi uint64, key func(uint64) string, who string) (uint64, bool) {
	n, ok := pool.LowestGap(tx, lo, hi, key)
	if !ok || tx.Attempt() == 0 {
		return n, ok
	}
	if m, ok := pool.LowestGap(tx, min(hi, n+spread(tx.Attempt(), who)), hi, key); ok {
		return m, true
	}
	return n, true
}

// spread returns a number below a bound that grows with every lost race.
func spread(attempt int, who string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(fmt.Sprint(who, attempt)) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h % (4 << min(2*attempt, 8))
}

// takeASN takes the lowest free AS number of a range for its owner.
func takeASN(tx *store.Tx, first, last uint32, owner string) (uint32, error) {
	key := func(n uint64) string { return records.ASNKey(uint32(n)) }
	n, ok := lowest(tx, records.ASNs, uint64(first), uint64(last), key, owner)
	if !ok {
		return 0, fault.Newf(fault.Exhausted, "", "no free AS number between %d and %d", first, last).Do("widen the range")
	}
	return uint32(n), records.ASNs.Insert(tx, taken(tx, key(n), owner))
}

func vniOwner(network string) string { return "network " + network }

// takeVNI takes a certain VNI in a partition, or in all of them. A VNI of all
// partitions is nobody else's in any; whoever takes a number, wherever, bumps
// its guard record and so sees what the others took.
func takeVNI(tx *store.Tx, partition string, vni uint32, owner string) error {
	if vni < 1 || vni > maxVNI {
		return invalid("vrf %d is not a number from 1 to %d", vni, maxVNI)
	}
	tx.Bump("vni/" + store.Ordered(uint64(vni)))
	for t := range records.VNIs.By(tx, "number", store.Ordered(uint64(vni))) {
		if partition == "" || t.GetKey() == records.VNIKey(partition, vni) || t.GetKey() == records.VNIKey("", vni) {
			return fault.Newf(fault.Exists, fmt.Sprintf("vrf %d", vni), "is already taken by %s", t.GetOwner()).Do("choose another number")
		}
	}
	return records.VNIs.Insert(tx, taken(tx, records.VNIKey(partition, vni), owner))
}

// takeAnyVNI takes the lowest free VNI in a partition, or in all of them.
func takeAnyVNI(tx *store.Tx, partition, owner string) (uint32, error) {
	lo, hi := uint64(firstVNI), uint64(lastVNI)
	if partition == "" {
		lo, hi = firstWideVNI, lastWideVNI
	}
	key := func(n uint64) string { return records.VNIKey(partition, uint32(n)) }
	for lo <= hi {
		n, ok := lowest(tx, records.VNIs, lo, hi, key, owner)
		if !ok {
			break
		}
		err := takeVNI(tx, partition, uint32(n), owner)
		if fault.KindOf(err) != fault.Exists {
			return uint32(n), err
		}
		lo = n + 1 // an operator chose it elsewhere
	}
	return 0, fault.New(fault.Exhausted, "", "no free VRF number", "delete networks that are not needed, or give the super network a vrf that its children share")
}

func releaseVNI(tx *store.Tx, partition string, vni uint32, owner string) error {
	return release(tx, records.VNIs, records.VNIKey(partition, vni), owner)
}

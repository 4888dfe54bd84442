package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ingot-cloud/ingot/access"
	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

// rivalStore has a partition, projects p1 to p3, an external network of a /24
// and a super network of both families.
func rivalStore(t testing.TB, kv store.KV) *store.DB {
	t.Helper()
	db := storetest.OpenKV(t, kv, store.Options{Tables: records.Tables()})
	err := db.Update(context.Background(), func(tx *store.Tx) error {
		if err := records.Partitions.Insert(tx, &apiv2.Partition{Id: "part"}); err != nil {
			return err
		}
		for _, p := range []string{"p1", "p2", "p3"} {
			if err := records.Projects.Insert(tx, &apiv2.Project{Uuid: p}); err != nil {
				return err
			}
		}
		for _, q := range []*adminv2.NetworkServiceCreateRequest{
			{Id: proto.String("internet"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Vrf: proto.Uint32(11), Prefixes: []string{"1.2.3.0/24"}},
			{Id: proto.String("wide"), Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Vrf: proto.Uint32(12), Prefixes: []string{"172.16.0.0/15"}},
			{
				Id: proto.String("super"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Partition: proto.String("part"), Prefixes: []string{"10.0.0.0/8", "fd00::/40"},
				DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(26), Ipv6: proto.Uint32(64)},
			},
		} {
			if _, err := network.Create(tx, q, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// rivals runs fn in n goroutines at once and fails the test if one fails.
func rivals(t testing.TB, n int, fn func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := fn(i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Whatever rivals take from one pool, nobody has it twice, nothing that was
// refused is lost, and a pool of 254 serves 254.
func TestRivals(t *testing.T) {
	db := rivalStore(t, store.NewMem())
	ctx := context.Background()
	createIP := func(id string) error {
		return db.Update(ctx, func(tx *store.Tx) error {
			_, err := network.CreateIP(tx, &apiv2.IPServiceCreateRequest{Network: "internet", Project: "p1"}, id, false)
			return err
		})
	}
	t.Run("addresses", func(t *testing.T) {
		rivals(t, 254, func(i int) error { return createIP(fmt.Sprint("ip", i)) })
		if n := records.IPs.Count(db.Snapshot(), "network", "internet"); n != 254 {
			t.Errorf("%d addresses, want 254", n)
		}
		if err := createIP("one too many"); fault.KindOf(err) != fault.Invalid || err.Error() != `no free ips in network "internet"` {
			t.Errorf("the 255th address of a /24: %v", err)
		}
	})
	t.Run("child networks", func(t *testing.T) {
		rivals(t, 64, func(i int) error {
			q := &adminv2.NetworkServiceCreateRequest{Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: proto.String("p1"), Partition: proto.String("part")}
			if i%3 == 0 {
				q.Length = &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(uint32(22 + i%5)), Ipv6: proto.Uint32(uint32(60 + i%7))}
			}
			return db.Update(ctx, func(tx *store.Tx) error {
				_, err := network.Create(tx, q, fmt.Sprint("child", i))
				return err
			})
		})
		checkPools(t, db.Snapshot())
	})
	t.Run("attachments", func(t *testing.T) {
		var mu sync.Mutex
		asns := map[uint32]bool{}
		rivals(t, 64, func(i int) error {
			var asn uint32
			if err := db.Update(ctx, func(tx *store.Tx) error {
				n := 0
				got, err := network.Attach(tx, network.Attachment{
					Machine: fmt.Sprint("m", i), Allocation: fmt.Sprint("a", i), Name: "m", Project: "p1", Partition: "part",
					Networks: []*apiv2.MachineAllocationNetwork{{Network: fmt.Sprint("child", i/16)}},
					NewID:    func() string { n++; return fmt.Sprint("m", i, "ip", n) },
				})
				if err == nil {
					asn = got[0].GetAsn()
				}
				return err
			}); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if asns[asn] {
				return fmt.Errorf("AS number %d was given out twice", asn)
			}
			asns[asn] = true
			return nil
		})
		checkPools(t, db.Snapshot())
	})
}

// checkPools fails unless child prefixes are apart from each other and within
// their parent, and every VNI and prefix taken is some network's and the other
// way round.
func checkPools(t interface{ Errorf(string, ...any) }, r store.Reader) {
	type space struct{ parent, namespace string }
	taken := map[space][]netip.Prefix{}
	vnis, prefixes := map[string]string{}, 0
	for n := range records.Networks.All(r) {
		if n.GetParentNetwork() == "" {
			continue
		}
		parent, _ := records.Networks.Peek(r, n.GetParentNetwork())
		for _, s := range n.GetPrefixes() {
			p := netip.MustParsePrefix(s)
			at := space{n.GetParentNetwork(), n.GetNamespace()}
			for _, q := range taken[at] {
				if p.Overlaps(q) {
					t.Errorf("%s of network %s overlaps %s", p, n.GetId(), q)
				}
			}
			taken[at] = append(taken[at], p)
			if !slices.ContainsFunc(parent.GetPrefixes(), func(s string) bool { return netip.MustParsePrefix(s).Overlaps(p) }) {
				t.Errorf("%s of network %s is not from %v", p, n.GetId(), parent.GetPrefixes())
			}
			if _, ok := records.ChildPrefixes.Peek(r, records.ChildPrefixKey(n.GetParentNetwork(), n.GetNamespace(), p)); !ok {
				t.Errorf("%s of network %s is not on record as taken", p, n.GetId())
			}
			prefixes++
		}
		if parent.Vrf != nil {
			continue
		}
		key := records.VNIKey(n.GetPartition(), n.GetVrf())
		if other, ok := vnis[key]; ok {
			t.Errorf("vrf %d is network %s's and %s's", n.GetVrf(), n.GetId(), other)
		}
		vnis[key] = n.GetId()
		if v, ok := records.VNIs.Peek(r, key); !ok || v.GetOwner() != "network "+n.GetId() {
			t.Errorf("vrf %d of network %s is on record as %v", n.GetVrf(), n.GetId(), v)
		}
	}
	if n := records.ChildPrefixes.Count(r, "", ""); n != prefixes {
		t.Errorf("%d prefixes are taken, networks have %d", n, prefixes)
	}
}

// naive returns the lowest free prefix of a length by looking at all of them.
func naive(parent netip.Prefix, length int, taken []netip.Prefix) (netip.Prefix, bool) {
	p := netip.PrefixFrom(parent.Addr(), length)
	for parent.Contains(p.Addr()) {
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, true
		}
		a := p.Addr().As4()
		n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
		n += 1 << (32 - length)
		p = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), length)
	}
	return netip.Prefix{}, false
}

// Children of any lengths, made and deleted in any order, get the lowest prefix
// that is free, as a search through all of them finds it.
func TestChildPrefixes(t *testing.T) {
	parent := netip.MustParsePrefix("10.0.0.0/22")
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		db, err := store.Open(ctx, store.NewMem(), store.Options{Tables: records.Tables()})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		must := func(rule func(*store.Tx) error) {
			if err := db.Update(ctx, rule); err != nil {
				t.Fatal(err)
			}
		}
		must(func(tx *store.Tx) error {
			if err := records.Projects.Insert(tx, &apiv2.Project{Uuid: "p1"}); err != nil {
				return err
			}
			_, err := network.Create(tx, &adminv2.NetworkServiceCreateRequest{
				Id: proto.String("super"), Type: apiv2.NetworkType_NETWORK_TYPE_SUPER, Vrf: proto.Uint32(7), Prefixes: []string{parent.String()},
				DefaultChildPrefixLength: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(26)},
			}, "")
			return err
		})
		have := map[string]netip.Prefix{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(have) > 0 && rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				id := rapid.SampledFrom(slices.Sorted(keys(have))).Draw(t, "victim")
				must(func(tx *store.Tx) error { return access.Close(tx, records.Networks, id, "task") })
				must(func(tx *store.Tx) error { _, err := network.Remove(tx, id, "task"); return err })
				delete(have, id)
				continue
			}
			length := rapid.IntRange(23, 29).Draw(t, "length")
			want, room := naive(parent, length, values(have))
			var got *apiv2.Network
			err := db.Update(ctx, func(tx *store.Tx) (err error) {
				got, err = network.Create(tx, &adminv2.NetworkServiceCreateRequest{
					Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: proto.String("p1"), ParentNetwork: proto.String("super"),
					Length: &apiv2.ChildPrefixLength{Ipv4: proto.Uint32(uint32(length))},
				}, fmt.Sprint("n", i))
				return err
			})
			switch {
			case !room && fault.KindOf(err) != fault.Exhausted:
				t.Fatalf("a /%d in a full network: %v, %v", length, got.GetPrefixes(), err)
			case room && (err != nil || got.GetPrefixes()[0] != want.String()):
				t.Fatalf("a /%d: %v, %v, want %s; taken %v", length, got.GetPrefixes(), err, want, have)
			case room:
				have[got.GetId()] = want
			}
		}
		checkPools(t, db.Snapshot())
	})
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func values(m map[string]netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range m {
		out = append(out, p)
	}
	return out
}

// fill makes a pool look as if n values were taken, without the rules.
func fill(b *testing.B, db *store.DB, n int, insert func(tx *store.Tx, i int) error) {
	b.Helper()
	for from := 0; from < n; from += 100 {
		if err := db.Update(context.Background(), func(tx *store.Tx) error {
			for i := from; i < min(from+100, n); i++ {
				if err := insert(tx, i); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// What an address costs does not depend on how many are taken.
func BenchmarkCreateIP(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 60_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db := rivalStore(b, store.NewMem())
			base := netip.MustParseAddr("172.16.0.1").As4()
			fill(b, db, n, func(tx *store.Tx, i int) error {
				j := i + 1
				return records.IPs.Insert(tx, &apiv2.IP{
					Ip: netip.AddrFrom4([4]byte{base[0], base[1] + byte(j>>16), byte(j >> 8), byte(j)}).String(), Uuid: fmt.Sprint(i), Network: "wide", Project: "p1",
				})
			})
			i := 0
			for b.Loop() {
				i++
				if err := db.Update(context.Background(), func(tx *store.Tx) error {
					_, err := network.CreateIP(tx, &apiv2.IPServiceCreateRequest{Network: "wide", Project: "p1"}, fmt.Sprint("new", i), false)
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Nor does what a child network costs.
func BenchmarkCreateChild(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 60_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db := rivalStore(b, store.NewMem())
			fill(b, db, n, func(tx *store.Tx, i int) error {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
				return records.ChildPrefixes.Insert(tx, &privatev1.Taken{Key: records.ChildPrefixKey("super", "", p), Owner: "x"})
			})
			i := 0
			for b.Loop() {
				i++
				if err := db.Update(context.Background(), func(tx *store.Tx) error {
					_, err := network.Create(tx, &adminv2.NetworkServiceCreateRequest{
						Type: apiv2.NetworkType_NETWORK_TYPE_CHILD, Project: proto.String("p1"), Partition: proto.String("part"),
						AddressFamily: apiv2.NetworkAddressFamily_NETWORK_ADDRESS_FAMILY_V4.Enum(),
					}, fmt.Sprint("new", i))
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// 254 rivals for one /24 in embedded etcd, durable: the time of one round is
// that of all of them.
func BenchmarkRivalsEtcd(b *testing.B) {
	kv, err := store.OpenEtcd(b.Context(), store.EtcdConfig{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := kv.Close(); err != nil {
			b.Error(err)
		}
	})
	db := rivalStore(b, kv)
	ctx := context.Background()
	round := 0
	for b.Loop() {
		round++
		id := fmt.Sprint("round", round)
		if err := db.Update(ctx, func(tx *store.Tx) error {
			_, err := network.Create(tx, &adminv2.NetworkServiceCreateRequest{
				Id: &id, Type: apiv2.NetworkType_NETWORK_TYPE_EXTERNAL, Vrf: proto.Uint32(uint32(200_000 + round)), Prefixes: []string{fmt.Sprintf("20.%d.%d.0/24", round>>8, round&255)},
			}, "")
			return err
		}); err != nil {
			b.Fatal(err)
		}
		rivals(b, 254, func(i int) error {
			return db.Update(ctx, func(tx *store.Tx) error {
				_, err := network.CreateIP(tx, &apiv2.IPServiceCreateRequest{Network: id, Project: "p1"}, fmt.Sprint(id, i), false)
				return err
			}, network.HotIPs(id))
		})
		if n := records.IPs.Count(db.Snapshot(), "network", id); n != 254 {
			b.Errorf("%d addresses, want 254", n)
		}
	}
	s := db.Stats()
	b.ReportMetric(float64(s.Conflicts)/float64(round), "conflicts/round")
	b.ReportMetric(254*float64(round)/b.Elapsed().Seconds(), "addresses/s")
}

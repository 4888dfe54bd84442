package store_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/store"
	"github.com/ingot-cloud/ingot/store/storetest"
)

var ips = storetest.IPs

func record(n uint64) *apiv2.IP {
	return &apiv2.IP{Network: "n", Ip: store.Ordered(n), Project: fmt.Sprintf("project-%d", n%500), Uuid: fmt.Sprintf("%036d", n)}
}

func key(n uint64) string { return "n/" + store.Ordered(n) }

// fill opens a DB with n records.
func fill(b *testing.B, kv store.KV, n uint64) *store.DB {
	b.Helper()
	db := storetest.OpenKV(b, kv, store.Options{Tables: []store.AnyTable{ips}})
	for from := uint64(0); from < n; from += 100 {
		if err := db.Update(b.Context(), func(tx *store.Tx) error {
			for i := from; i < min(from+100, n); i++ {
				if err := ips.Insert(tx, record(i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	return db
}

func kvs(b *testing.B, run func(b *testing.B, kv store.KV)) {
	b.Run("mem", func(b *testing.B) { run(b, store.NewMem()) })
	b.Run("etcd", func(b *testing.B) {
		e, err := store.OpenEtcd(b.Context(), store.EtcdConfig{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer e.Close()
		run(b, e)
	})
}

// among runs b.N calls of fn in the given number of goroutines.
func among(b *testing.B, clients int, fn func(n int64) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := fn(n); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

// Rivals who change one record, named as hot or learned by losing. See
// BenchmarkHotKeyRacing for what it would be without the queue.
func BenchmarkHotKey(b *testing.B) {
	const rivals = 128
	kvs(b, func(b *testing.B, kv store.KV) {
		first := fill(b, kv, 1)
		change := func(ctx context.Context, db *store.DB, opts ...store.UpdateOption) error {
			return db.Update(ctx, func(tx *store.Tx) error {
				_, err := ips.Change(tx, key(0), func(r *apiv2.IP) error {
					r.Name = fmt.Sprint(tx.Rev())
					return nil
				})
				return err
			}, opts...)
		}
		b.Run("named", func(b *testing.B) {
			among(b, rivals, func(int64) error { return change(b.Context(), first, store.Hot("x")) })
		})
		b.Run("learned", func(b *testing.B) {
			among(b, rivals, func(int64) error { return change(b.Context(), first) })
		})
	})
}

// Everybody changes a record of their own.
func BenchmarkUpdate(b *testing.B) {
	kvs(b, func(b *testing.B, kv store.KV) {
		db := fill(b, kv, 128)
		for _, clients := range []int{1, 16, 128} {
			b.Run(fmt.Sprint(clients), func(b *testing.B) {
				among(b, clients, func(n int64) error {
					return db.Update(b.Context(), func(tx *store.Tx) error {
						_, err := ips.Change(tx, key(uint64(n)%128), func(r *apiv2.IP) error { r.Name = fmt.Sprint(n); return nil })
						return err
					})
				})
			})
		}
	})
}

// 254 rivals empty one /24.
func BenchmarkPool(b *testing.B) {
	kvs(b, func(b *testing.B, kv store.KV) {
		db := fill(b, kv, 0)
		base := netip.MustParseAddr("10.0.0.0").As4()
		addr := func(n uint64) string {
			a := base
			a[3] = byte(n)
			return store.OrderedAddr(netip.AddrFrom4(a))
		}
		for i := range b.N {
			net := fmt.Sprint("net", i)
			var wg sync.WaitGroup
			for range 254 {
				wg.Go(func() {
					if err := db.Update(b.Context(), func(tx *store.Tx) error {
						n, ok := ips.LowestGap(tx, 1, 254, func(n uint64) string { return net + "/" + addr(n) })
						if !ok {
							return fmt.Errorf("%s is empty too early", net)
						}
						return ips.Insert(tx, &apiv2.IP{Network: net, Ip: addr(n)})
					}, store.Hot("pool/"+net)); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
		}
		b.ReportMetric(254*float64(b.N)/b.Elapsed().Seconds(), "/s")
	})
}

func BenchmarkLowestGap(b *testing.B) {
	for _, n := range []uint64{1_000, 10_000, 60_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := fill(b, store.NewMem(), n).Snapshot()
			for b.Loop() {
				if got, ok := ips.LowestGap(s, 0, 65_535, key); !ok || got != n {
					b.Fatal(got, ok)
				}
			}
		})
	}
}

// 120 records by index, of 1,000 and of 100,000.
func BenchmarkBy(b *testing.B) {
	for _, n := range []uint64{1_000, 100_000} {
		kv := store.NewMem()
		db := fill(b, kv, n)
		if err := db.Update(b.Context(), func(tx *store.Tx) error {
			for i := range uint64(60) {
				for _, j := range []uint64{i, n - 1 - i} {
					if _, err := ips.Change(tx, key(j), func(r *apiv2.IP) error { r.Project = "one"; return nil }); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		s := db.Snapshot()
		b.Run(fmt.Sprint("list/", n), func(b *testing.B) {
			for b.Loop() {
				got := 0
				for range ips.By(s, "project", "one") {
					got++
				}
				if got != 120 {
					b.Fatal(got)
				}
			}
		})
		b.Run(fmt.Sprint("count/", n), func(b *testing.B) {
			for b.Loop() {
				if ips.Count(s, "project", "one") != 120 {
					b.Fatal("wrong")
				}
			}
		})
	}
}

// What a revision costs the cache, and what a record costs in memory.
func BenchmarkApply(b *testing.B) {
	for _, n := range []uint64{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			kv := store.NewMem()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			writer := fill(b, kv, n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			i := uint64(0)
			for b.Loop() {
				i++
				if err := writer.Update(b.Context(), func(tx *store.Tx) error {
					_, err := ips.Change(tx, key(i*7919%n), func(r *apiv2.IP) error { r.Project = fmt.Sprint(i); return nil })
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/record")
		})
	}
}

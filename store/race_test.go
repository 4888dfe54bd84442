package store

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
)

// What BenchmarkHotKey would be if losers just tried again.
func BenchmarkHotKeyRacing(b *testing.B) {
	table := NewTable(Table[*apiv2.IP]{Name: "ip", Key: func(ip *apiv2.IP) string { return ip.GetIp() }})
	etcd, err := OpenEtcd(b.Context(), EtcdConfig{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer etcd.Close()
	for name, kv := range map[string]KV{"mem": NewMem(), "etcd": etcd} {
		b.Run(name, func(b *testing.B) {
			db, err := Open(b.Context(), kv, Options{Tables: []AnyTable{table}, StaleAfter: time.Minute})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range 128 {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						for ok := false; !ok; {
							tx := newTx(db, db.snap.Load(), 0)
							err := table.Put(tx, &apiv2.IP{Ip: "1", Name: fmt.Sprint(tx.Rev())})
							if err == nil {
								conds, writes := tx.request()
								ok, err = db.commit(b.Context(), tx, conds, writes)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
		})
	}
}

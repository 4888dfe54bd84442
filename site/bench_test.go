package site_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ingot-cloud/ingot/lab"
	ingotv1 "github.com/ingot-cloud/ingot/proto/ingot/v1"
	"github.com/ingot-cloud/ingot/site"
)

// BenchmarkEnrol finds a thousand servers that it has never seen, whose BMCs
// take 20 ms for each answer, and switches them on. BMCs and site share the
// processors; the BMCs' TLS is most of the work.
func BenchmarkEnrol(b *testing.B) {
	const servers, delay = 1000, 20 * time.Millisecond
	for b.Loop() {
		b.StopTimer()
		c, api := newControl(b)
		all, end := fleet(b, servers, delay)
		part, err := site.NewBMCs(site.BMCsConfig{Partition: partition, API: api, Dir: b.TempDir(), Medium: medium(b), Log: quiet})
		if err != nil {
			b.Fatal(err)
		}
		wanted := &ingotv1.SiteWanted{}
		for i, one := range all {
			one.want.Operation = &ingotv1.Operation{Id: fmt.Sprintf("0193e0a0-0000-7000-8000-%012d", i), Action: ingotv1.OperationAction_OPERATION_ACTION_ON}
			wanted.Bmcs = append(wanted.Bmcs, one.want)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		b.StartTimer()
		began, used := time.Now(), processor(b)
		running.Go(func() { part.Run(ctx, func() (*ingotv1.SiteWanted, <-chan struct{}) { return wanted, nil }) })
		c.eventually(b, "all are on", func() bool { return len(c.done) == servers })
		took, busy := time.Since(began), processor(b)-used
		b.StopTimer()
		requests, sessions := 0, 0
		for _, one := range all {
			requests += one.bmc.Requests()
			sessions = max(sessions, one.bmc.Logins())
			if !one.On() {
				b.Error("a server is off")
			}
		}
		cancel()
		running.Wait()
		end()
		b.ReportMetric(servers/took.Seconds(), "servers/s")
		b.ReportMetric(busy.Seconds()*1000/servers, "cpu-ms/server")
		b.ReportMetric(float64(requests)/servers, "requests/server")
		b.ReportMetric(float64(sessions), "sessions/server")
		b.StartTimer()
	}
}

// processor is the time that this process has kept processors busy.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fleet runs many BMCs.
func fleet(b *testing.B, n int, delay time.Duration) (all []server, end func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	dir := b.TempDir()
	for i := range n {
		shell := &lab.Shell{}
		bmc, err := lab.NewBMC(lab.BMCConfig{
			Board: lab.Board{UUID: fmt.Sprintf("6a1f9a4e-3a57-4a2b-9d6e-%012d", i), Serial: fmt.Sprint("SN", i), Manufacturer: "Ingot", Model: "Lab", MAC: "02:00:00:00:00:0a"},
			Power: shell, Order: shell, Media: shell, User: "admin", Password: "s3cret-word", Dir: dir, Delay: delay,
		})
		if err != nil {
			b.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		serving.Go(func() {
			if err := bmc.Serve(ctx, l); err != nil {
				b.Error(err)
			}
		})
		all = append(all, server{Shell: shell, bmc: bmc, want: &ingotv1.BMCWanted{
			Id: fmt.Sprint("b", i), Address: l.Addr().String(), User: "admin", Password: "s3cret-word", Ca: string(bmc.CA()),
		}})
	}
	return all, func() { cancel(); serving.Wait() }
}

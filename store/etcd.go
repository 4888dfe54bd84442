package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"

	"github.com/ingot-cloud/ingot/fault"
)

// EtcdConfig says which etcd to use: an embedded member whose files are in
// Dir, or, if there are Endpoints, an external cluster of version 3.5.8 or
// newer, which tells a watch the truth about its progress.
type EtcdConfig struct {
	Dir  string
	Name string // of the embedded member; "ingot"
	// Quota bounds the database file of the embedded member; 8 GiB.
	Quota int64
	// NoSync does not wait for the disk: for tests, a power failure loses data.
	NoSync bool

	Endpoints []string
	TLS       *tls.Config

	Log *slog.Logger // slog.Default; hears of etcd's warnings and errors
}

// Etcd is the KV and Leaser of an etcd.
type Etcd struct {
	c      *clientv3.Client
	server *embed.Etcd // nil if external
	lock   io.Closer

	mu      sync.Mutex
	watches map[*etcdWatch]bool
}

// OpenEtcd starts the embedded member, or connects to the external cluster.
// ctx bounds the opening only; the result lives until Close.
func OpenEtcd(ctx context.Context, c EtcdConfig) (*Etcd, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	log := zap.New(zapToSlog{c.Log})
	if len(c.Endpoints) > 0 {
		return dialEtcd(ctx, c, log)
	}
	return startEtcd(ctx, c, log)
}

func dialEtcd(ctx context.Context, c EtcdConfig, log *zap.Logger) (*Etcd, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Logger: log,
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: time.Second,
	})
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "etcd", "cannot be used", err)
	}
	e := &Etcd{c: client, watches: map[*etcdWatch]bool{}}
	if _, err := client.Get(ctx, "ready"); err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, "etcd", "does not answer", err), e.Close())
	}
	return e, nil
}

func startEtcd(ctx context.Context, c EtcdConfig, log *zap.Logger) (e *Etcd, err error) {
	if c.Name == "" {
		c.Name = "ingot"
	}
	if c.Quota == 0 {
		c.Quota = 8 << 30
	}
	e = &Etcd{watches: map[*etcdWatch]bool{}}
	if e.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
			e = nil
		}
	}()
	if e.server, err = embed.StartEtcd(c.embed(log)); err != nil {
		return e, fault.Wrap(fault.Internal, "etcd in "+c.Dir, "cannot be started", err)
	}
	select {
	case <-e.server.Server.ReadyNotify():
	case err := <-e.server.Err():
		return e, fault.Wrap(fault.Internal, "etcd in "+c.Dir, "has stopped", err)
	case <-ctx.Done():
		return e, fault.Wrap(fault.Unavailable, "etcd in "+c.Dir, "is not ready", ctx.Err())
	}
	e.c = v3client.New(e.server.Server)
	return e, nil
}

// embed returns the configuration of a single member that opens no listener.
func (c EtcdConfig) embed(log *zap.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.Name, filepath.Join(c.Dir, "etcd")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls = nil, nil, nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}} // an identity, nobody listens
	cfg.InitialCluster = cfg.InitialClusterFromName(c.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)

	// There is nobody to wait for in an election and nobody to catch up: both
	// would only cost time at the start and memory for old log entries.
	cfg.TickMs, cfg.ElectionMs = 20, 100
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 200, 100

	// Every five minutes all but the newest revisions are forgotten.
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, "10000"
	cfg.QuotaBackendBytes = c.Quota
	cfg.MaxRequestBytes, cfg.MaxTxnOps = MaxBytes, MaxOps
	cfg.UnsafeNoFsync = c.NoSync
	return cfg
}

// lockDir makes the directory and keeps other processes out of it: etcd would
// wait for them without a word.
func lockDir(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, "data directory "+dir, "cannot be made", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "data directory "+dir, "cannot be locked", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.Precondition, "data directory "+dir, "is used by another process", "stop it, or use another directory")
	}
	return f, nil
}

// Close ends the connection, stops the embedded member and waits for it.
func (e *Etcd) Close() error {
	var err error
	if e.c != nil {
		err = e.c.Close()
	}
	if e.server != nil {
		e.server.Close()
	}
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	if errors.Is(err, context.Canceled) {
		err = nil // the client's own way to stop
	}
	return err
}

// rangePage is how many keys one request of Range asks for.
const rangePage = 2000

// Range implements KV.
func (e *Etcd) Range(ctx context.Context, prefix string) ([]Entry, Rev, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(rangePage)}
	var out []Entry
	var rev Rev
	for from := prefix; ; {
		r, err := e.c.Get(ctx, from, opts...)
		if errors.Is(err, rpctypes.ErrCompacted) {
			return e.Range(ctx, prefix) // the pages behind us are too old to continue
		}
		if err != nil {
			return nil, 0, fault.Wrap(fault.Unavailable, "etcd", "cannot be read", err)
		}
		if rev == 0 {
			rev = r.Header.GetRevision()
			opts = append(opts, clientv3.WithRev(rev))
		}
		for _, kv := range r.Kvs {
			out = append(out, Entry{string(kv.GetKey()), kv.GetValue(), kv.GetModRevision()})
		}
		if !r.More {
			return out, rev, nil
		}
		from = out[len(out)-1].Key + "\x00"
	}
}

// Commit implements KV.
func (e *Etcd) Commit(ctx context.Context, conds []Cond, writes []Write) (Rev, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	cmps := make([]clientv3.Cmp, 0, len(conds))
	for _, c := range conds {
		if c.Prefix {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key).WithPrefix(), "<", c.Mod+1))
		} else {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Mod))
		}
	}
	ops := make([]clientv3.Op, 0, len(writes))
	for _, w := range writes {
		switch {
		case w.Value == nil:
			ops = append(ops, clientv3.OpDelete(w.Key))
		case w.Lease != 0:
			ops = append(ops, clientv3.OpPut(w.Key, string(w.Value), clientv3.WithLease(clientv3.LeaseID(w.Lease))))
		default:
			ops = append(ops, clientv3.OpPut(w.Key, string(w.Value)))
		}
	}
	r, err := e.c.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return 0, false, commitError(err)
	}
	return r.Header.GetRevision(), r.Succeeded, nil
}

// commitError tells the refusals of etcd from answers that got lost.
func commitError(err error) error {
	for refusal, kind := range map[error]fault.Kind{
		rpctypes.ErrNoSpace:         fault.Exhausted,
		rpctypes.ErrTooManyRequests: fault.Unavailable,
		rpctypes.ErrRequestTooLarge: fault.Invalid,
		rpctypes.ErrTooManyOps:      fault.Invalid,
		rpctypes.ErrEmptyKey:        fault.Invalid,
		rpctypes.ErrDuplicateKey:    fault.Invalid,
		rpctypes.ErrLeaseNotFound:   fault.NotFound,

		rpctypes.ErrPermissionDenied: fault.Unavailable,
		rpctypes.ErrUserEmpty:        fault.Unavailable,
		rpctypes.ErrInvalidAuthToken: fault.Unavailable,
	} {
		if errors.Is(err, refusal) {
			return fault.Wrap(kind, "etcd", "refuses the transaction", err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// An etcdWatch is one running Watch. It has a stream of its own: the client
// tells streams apart by their metadata, and watches that share one can block
// each other for ever when many of them end while events arrive.
type etcdWatch struct {
	stream metadata.MD
	mu     sync.Mutex // held to use the stream, and to end it
	ended  bool
	asked  time.Time // when progress was asked for and has not been reported
}

// Watch implements KV.
func (e *Etcd) Watch(ctx context.Context, prefix string, after Rev) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		w := &etcdWatch{stream: metadata.Pairs("watch", rand.Text())}
		ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, w.stream))
		e.mu.Lock()
		e.watches[w] = true
		e.mu.Unlock()
		defer func() {
			w.mu.Lock()
			w.ended = true
			cancel()
			w.mu.Unlock()
			e.mu.Lock()
			delete(e.watches, w)
			e.mu.Unlock()
		}()
		for r := range e.c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
			if r.CompactRevision != 0 {
				yield(Batch{}, ErrCompacted)
				return
			}
			if err := r.Err(); err != nil {
				yield(Batch{}, fault.Wrap(fault.Unavailable, "etcd", "the watch ended", err))
				return
			}
			if r.IsProgressNotify() {
				w.mu.Lock()
				w.asked = time.Time{}
				w.mu.Unlock()
				if !yield(Batch{Rev: r.Header.GetRevision()}, nil) {
					return
				}
			}
			for evs := r.Events; len(evs) > 0; {
				var b Batch
				if b, evs = firstRevision(evs); !yield(b, nil) {
					return
				}
			}
		}
	}
}

// firstRevision cuts the events of one revision off the front; etcd never
// spreads those over two responses.
func firstRevision(evs []*clientv3.Event) (Batch, []*clientv3.Event) {
	b := Batch{Rev: evs[0].Kv.GetModRevision()}
	for i, ev := range evs {
		if ev.Kv.GetModRevision() != b.Rev {
			return b, evs[i:]
		}
		en := Entry{Key: string(ev.Kv.GetKey()), Mod: b.Rev}
		if ev.Type == clientv3.EventTypePut {
			en.Value = ev.Kv.GetValue()
			if en.Value == nil {
				en.Value = []byte{}
			}
		}
		b.Entries = append(b.Entries, en)
	}
	return b, nil
}

// Progress makes the watches report the revision they have reached.
func (e *Etcd) Progress(ctx context.Context) error {
	e.mu.Lock()
	watches := slices.Collect(maps.Keys(e.watches))
	e.mu.Unlock()
	var errs error
	for _, w := range watches {
		errs = errors.Join(errs, w.progress(ctx, e.c))
	}
	return errs
}

// progress asks for progress, unless somebody has and there is hope still.
func (w *etcdWatch) progress(ctx context.Context, c *clientv3.Client) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || time.Since(w.asked) < 250*time.Millisecond {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	w.asked = time.Now()
	return c.RequestProgress(metadata.NewOutgoingContext(ctx, w.stream))
}

// Compact forgets the history up to the present, and so cuts off every watch
// that has not seen it.
func (e *Etcd) Compact(ctx context.Context) error {
	r, err := e.c.Get(ctx, "present")
	if err != nil {
		return fault.Wrap(fault.Unavailable, "etcd", "cannot be read", err)
	}
	_, err = e.c.Compact(ctx, r.Header.GetRevision(), clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // that far, somebody has been before
		return fault.Wrap(fault.Unavailable, "etcd", "cannot be compacted", err)
	}
	return nil
}

// Grant implements Leaser. etcd counts in seconds and knows no less than one.
func (e *Etcd) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	r, err := e.c.Grant(ctx, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return 0, fault.Wrap(fault.Unavailable, "etcd", "grants no lease", err)
	}
	return LeaseID(r.ID), nil
}

// Renew implements Leaser.
func (e *Etcd) Renew(ctx context.Context, id LeaseID) error {
	_, err := e.c.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	return leaseError(err)
}

// Revoke implements Leaser.
func (e *Etcd) Revoke(ctx context.Context, id LeaseID) error {
	_, err := e.c.Revoke(ctx, clientv3.LeaseID(id))
	if err = leaseError(err); errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func leaseError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fault.New(fault.NotFound, "lease", "has ended", "")
	}
	return fault.Wrap(fault.Unavailable, "etcd", "the lease cannot be reached", err)
}

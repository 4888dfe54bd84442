package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingot-cloud/ingot/image"
)

// system is an archive with the shape of a small server system: 1,500
// directories, 15,000 files, a few of them large; about 400 MB.
func system(tb testing.TB) []byte {
	words := strings.Fields("the quick brown fox jumps over a lazy dog and every line of code is read more often than written")
	r := rand.New(rand.NewPCG(1, 2))
	text := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			if r.IntN(4) == 0 {
				fmt.Fprintf(&b, "%x", r.Uint64())
			}
			b.WriteString(words[r.IntN(len(words))])
			b.WriteByte(' ')
		}
		return b.String()[:n]
	}
	body := text(40 << 20)
	var entries []entry
	for d := range 1500 {
		name := fmt.Sprintf("usr/share/d%d/d%d", d%40, d)
		entries = append(entries, dir(name, 0o755))
		for f := range 10 {
			n := int(100 * (1 + r.ExpFloat64()*150))
			at := r.IntN(len(body) - n)
			entries = append(entries, file(fmt.Sprintf("%s/file-%d", name, f), body[at:at+n]))
		}
	}
	for i := range 4 {
		entries = append(entries, file(fmt.Sprintf("usr/lib/large-%d", i), body[i<<20:]))
	}
	return archive(tb, entries...)
}

// BenchmarkInstall compares Install, from an HTTP server and with its digest,
// to the usual pipeline from a local file without one:
//
//	go test ./image -run '^$' -bench Install -benchtime 3x
//
// INGOT_BENCH_DIR is the directory to unpack in, by default a temporary one.
// Both end with syncfs, so that the disk counts.
func BenchmarkInstall(b *testing.B) {
	data := system(b)
	for _, kind := range []string{"zstd", "lz4", "gzip"} {
		packed := pack(b, kind, data)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
		}))
		b.Cleanup(s.Close)
		local := filepath.Join(b.TempDir(), "image")
		if err := os.WriteFile(local, packed, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(kind+"/ingot", func(b *testing.B) {
			into(b, len(data), func(root string) error {
				_, err := image.Install(b.Context(), image.Source{URLs: []string{s.URL}, SHA256: sha256Of(packed)}, root, image.Options{})
				return err
			})
		})
		b.Run(kind+"/tar", func(b *testing.B) {
			into(b, len(data), func(root string) error {
				return exec.CommandContext(b.Context(), "sh", "-c", kind+` -dc "$1" | tar -x --numeric-owner -p --xattrs --xattrs-include='*' -C "$2"`, "sh", local, root).Run()
			})
		})
	}
}

func into(b *testing.B, size int, install func(root string) error) {
	base := os.Getenv("INGOT_BENCH_DIR")
	if base == "" {
		base = b.TempDir()
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		b.StopTimer()
		root, err := os.MkdirTemp(base, "root")
		if err != nil {
			b.Fatal(err)
		}
		syncfs(b, root)
		b.StartTimer()
		if err := install(root); err != nil {
			b.Fatal(err)
		}
		syncfs(b, root)
		b.StopTimer()
		if err := os.RemoveAll(root); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// Memory does not depend on the size of the image: 64 MiB of heap at most, on
// top of what the test itself holds.
func TestInstallMemory(t *testing.T) {
	const files, size = 12, 8 << 20
	for _, kind := range []string{"zstd", "lz4", "gzip"} {
		t.Run(kind, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				z := packers[kind](w)
				a := tar.NewWriter(z)
				chunk := noise(1 << 20)
				for f := range files {
					h := tar.Header{Name: fmt.Sprint(f), Typeflag: tar.TypeReg, Size: size, Mode: 0o644}
					h.Uid, h.Gid = ids(h)
					_ = a.WriteHeader(&h)
					for range size / len(chunk) {
						_, _ = a.Write(chunk)
					}
				}
				_, _ = a.Close(), z.Close()
			}))
			defer s.Close()
			var before, m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var peak uint64
			opt := quick
			opt.Interval = 5 * time.Millisecond
			opt.Progress = func(image.Progress) {
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
			src := image.Source{URLs: []string{s.URL}, Unpinned: true}
			got, err := image.Install(t.Context(), src, t.TempDir(), opt)
			if err != nil || got.Unpacked != files*size {
				t.Fatalf("%+v, %v", got, err)
			}
			if grown := int64(peak) - int64(before.HeapInuse); grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			} else {
				t.Logf("the heap grew by %d MiB", grown>>20)
			}
		})
	}
}

func syncfs(b *testing.B, dir string) {
	f, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		b.Fatal(err)
	}
}

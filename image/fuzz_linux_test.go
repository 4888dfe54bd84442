package image

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Whatever bytes come: no panic, no hang, and nothing outside of the tree.
func FuzzUnpack(f *testing.F) {
	for _, e := range [][]tar.Header{
		{{Name: "a", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/b", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644}},
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/x", Typeflag: tar.TypeReg, Size: 3}},
		{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside"}, {Name: "h", Typeflag: tar.TypeReg, Size: 3}},
		{{Name: strings.Repeat("long/", 60) + "f", Typeflag: tar.TypeReg, Size: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}},
		{{Name: "f", Typeflag: tar.TypeFifo}, {Name: "f", Typeflag: tar.TypeDir}, {Name: ".", Typeflag: tar.TypeDir}},
	} {
		var plain bytes.Buffer
		w := tar.NewWriter(&plain)
		for _, h := range e {
			h.Uid, h.Gid, h.ModTime = os.Getuid(), os.Getgid(), time.Unix(1, 0)
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(plain.Bytes())
		z, err := zstd.NewWriter(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(z.EncodeAll(plain.Bytes(), nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		t.Cleanup(func() { // what the archive made unreadable, so that it can be removed
			_ = filepath.WalkDir(outer, func(p string, d fs.DirEntry, _ error) error {
				if d != nil && d.IsDir() {
					return os.Chmod(p, 0o700)
				}
				return nil
			})
		})
		root := filepath.Join(outer, "root")
		outside := filepath.Join(outer, "outside")
		if os.Mkdir(root, 0o700) != nil || os.WriteFile(outside, []byte("good"), 0o600) != nil {
			t.Fatal("cannot begin")
		}
		tree, err := openTree(root, func(int64, int64) {})
		if err != nil {
			t.Fatal(err)
		}
		tree.limit = 1 << 20
		if d, err := decompress(bytes.NewReader(data)); err == nil {
			err = tree.unpack(t.Context(), io.LimitReader(d, 4<<20))
			t.Log(err, d.Close())
		}
		tree.close()
		if b, err := os.ReadFile(outside); err != nil || string(b) != "good" {
			t.Errorf("outside is %q, %v", b, err)
		}
		if names, err := os.ReadDir(outer); err != nil || len(names) != 2 {
			t.Errorf("beside the tree: %v, %v", names, err)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 7-9/10")
	f.Add("bytes 0-0/*")
	f.Fuzz(func(t *testing.T, h string) {
		from, size, ok := contentRange(h)
		if ok && (from < 0 || size < 0 || size > 0 && from >= size) {
			t.Errorf("%q: from %d of %d", h, from, size)
		}
	})
}

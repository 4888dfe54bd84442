package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ingot-cloud/ingot/fault"
)

const plain = "hunter2-and-more"

func TestStringPrintsNothing(t *testing.T) {
	s := New(plain)
	type inner struct{ hidden String }
	type outer struct {
		Shown  String
		Ptr    *String
		hidden inner
		m      map[string]String
	}
	o := outer{s, &s, inner{s}, map[string]String{"k": s}}
	var out strings.Builder
	for _, verb := range strings.Split("v +v #v s q x X d T p t e", " ") {
		for _, v := range []any{s, &s, o, &o, []String{s}, map[string]any{"k": s}, error(fault.Newf(fault.Invalid, "x", "%v", s))} {
			fmt.Fprintf(&out, "%"+verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, s, o)
	j, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "s", s, "o", o, "p", &s)
	}
	for _, form := range []string{plain, fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s shows in\n%s", form, out.String())
		}
	}
	if !strings.Contains(string(j), Mask) || fmt.Sprintf("%s %q %d", s, s, s) != "*** *** ***" {
		t.Errorf("the mask does not show: %s", j)
	}
	var back String
	if err := json.Unmarshal([]byte(`"`+plain+`"`), &back); err != nil || !back.Equal(s) || back.Equal(New("x")) || back.Reveal() != plain {
		t.Errorf("reading it back: %v", err)
	}
	if !New("").Empty() || New("").Reveal() != "" || s.Empty() {
		t.Error("Empty is wrong")
	}
}

func TestSealAndOpen(t *testing.T) {
	r := NewRing()
	for _, p := range []string{"", plain, strings.Repeat("x", 100_000)} {
		sealed := r.Seal("machine/1", New(p))
		if len(p) > 8 && bytes.Contains(sealed, []byte(p[:8])) {
			t.Fatal("sealed in the clear")
		}
		got, err := r.Open("machine/1", sealed)
		if err != nil || got.Reveal() != p {
			t.Errorf("opened %d bytes to %d, %v", len(p), len(got.Reveal()), err)
		}
	}
	a, b := r.Seal("machine/1", New(plain)), r.Seal("machine/1", New(plain))
	if bytes.Equal(a, b) {
		t.Error("the same nonce twice")
	}
	for _, c := range []struct {
		name   string
		record string
		sealed []byte
		kind   fault.Kind
	}{
		{"moved", "machine/2", a, fault.Internal},
		{"empty", "machine/1", nil, fault.Internal},
		{"cut", "machine/1", a[:len(a)-1], fault.Internal},
		{"too short", "machine/1", a[:overhead-1], fault.Internal},
		{"other version", "machine/1", append([]byte{2}, a[1:]...), fault.Internal},
		{"foreign ring", "machine/1", NewRing().Seal("machine/1", New(plain)), fault.Precondition},
	} {
		got, err := r.Open(c.record, c.sealed)
		if err == nil || fault.KindOf(err) != c.kind || !got.Empty() {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for i := range a { // any bit counts, header included
		bad := bytes.Clone(a)
		bad[i] ^= 1
		if _, err := r.Open("machine/1", bad); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRing(Location{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	old := r.Primary()
	sealed := r.Seal("a", New(plain))
	if again, changed, err := r.Reseal("a", sealed); err != nil || changed || !bytes.Equal(again, sealed) {
		t.Errorf("resealing under the same key: %v %v", changed, err)
	}
	id, err := r.Rotate()
	if err != nil || id == old || r.Primary() != id {
		t.Fatalf("rotated from %v to %v: %v", old, id, err)
	}
	if _, err := r.Open("a", sealed); err != nil {
		t.Error(err)
	}
	if err := r.Forget(id); fault.KindOf(err) != fault.Precondition {
		t.Errorf("forgetting the key in use: %v", err)
	}
	resealed, changed, err := r.Reseal("a", sealed)
	if k, _ := KeyOf(resealed); err != nil || !changed || k != id {
		t.Fatalf("resealed under %v: %v %v", k, changed, err)
	}
	if err := r.Forget(old); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(old); fault.KindOf(err) != fault.NotFound {
		t.Errorf("forgetting twice: %v", err)
	}
	if _, err := r.Open("a", sealed); fault.KindOf(err) != fault.Precondition {
		t.Errorf("opening with a forgotten key: %v", err)
	}
	again, err := OpenRing(Location{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open("a", resealed); err != nil || got.Reveal() != plain || len(again.Keys()) != 1 {
		t.Errorf("after a restart: %v, keys %v", err, again.Keys())
	}
	if st, err := os.Stat(filepath.Join(dir, "keys")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

func TestRotateThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRing(Location{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	before := r.Primary()
	r.path = filepath.Join(dir, "no", "such", "keys")
	if _, err := r.Rotate(); err == nil || r.Primary() != before {
		t.Errorf("sealing with a key that is in no file: %v", err)
	}
}

func TestLocations(t *testing.T) {
	dir, cred := t.TempDir(), t.TempDir()
	if _, err := OpenRing(Location{Dir: dir}); fault.KindOf(err) != fault.Precondition {
		t.Errorf("a missing ring: %v", err)
	}
	// Many who create at once end up with one ring.
	var wg sync.WaitGroup
	ids := make([]KeyID, 8)
	for i := range ids {
		wg.Go(func() {
			r, err := OpenRing(Location{Dir: dir, Credentials: cred, Create: true})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.Primary()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("two rings: %v", ids)
		}
	}
	c := NewRing()
	path := filepath.Join(cred, "ingot-keys")
	if err := createFile(path, c.format()); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRing(Location{Dir: dir, Credentials: cred})
	if err != nil || r.Primary() != c.Primary() {
		t.Fatalf("the credential: %v", err)
	}
	if _, err := r.Rotate(); fault.KindOf(err) != fault.Precondition {
		t.Errorf("rotating a credential: %v", err)
	}
	if r, err = OpenRing(Location{File: filepath.Join(dir, "keys"), Credentials: cred}); err != nil || r.Primary() != ids[0] {
		t.Errorf("the explicit file: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRing(Location{File: path}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file for everybody: %v", err)
	}
}

func TestParseErrorsShowNothing(t *testing.T) {
	good := string(NewRing().format())
	f := strings.Fields(good[strings.Index(good, lineName):])
	for _, text := range []string{
		"", "# nothing\n", f[2], lineName + " " + f[2], lineName + " " + f[1] + " " + f[2][1:], lineName + " " + f[2] + " " + f[1],
		"v9 " + f[1] + " " + f[2], lineName + " " + f[1] + "00 " + f[2], good + good, lineName + " " + f[1] + " " + f[2][:20],
	} {
		_, err := parse([]byte(text))
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", text, err)
		} else if strings.Contains(err.Error(), f[2][:8]) {
			t.Errorf("%v shows the key", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewRing().format())
	f.Add([]byte(lineName + " 00000000 AAAA\n#\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parse(text)
		if err != nil {
			return
		}
		r := &Ring{keys: keys}
		again, err := parse(r.format())
		if err != nil || len(again) != len(keys) {
			t.Fatalf("%d keys became %d: %v", len(keys), len(again), err)
		}
		for i := range keys {
			if keys[i].id != again[i].id || !keys[i].raw.Equal(again[i].raw) {
				t.Fatalf("key %d changed", i)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	r := NewRing()
	whole := r.Seal("a", New(plain))
	f.Add("a", whole)
	f.Add("b", whole[:overhead])
	f.Fuzz(func(t *testing.T, record string, sealed []byte) {
		v, err := r.Open(record, sealed)
		if err == nil && (record != "a" || !bytes.Equal(sealed, whole)) {
			t.Fatalf("%q opened to %d bytes", sealed, len(v.Reveal()))
		}
	})
}

package leak_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"github.com/ingot-cloud/ingot/boot"
	"github.com/ingot-cloud/ingot/lab/leak"
)

// secret has what each form writes in its own way.
const secret = "pa\"ss<wörd>\n+ÿÿ?with\\more"

var key = []byte{0, 1, 0xfe, 0xff, 0x80, 7, 8, 9, 10, 200, 201, 202, 203, 204, 205, 206}

// noise is text that looks like nothing.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same at every run
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghij \n"[r.IntN(12)]
	}
	return b
}

func run(t *testing.T, s *leak.Search, files map[string][]byte) *leak.Report {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Run(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// found returns file, secret and form of what was found.
func found(all []leak.Finding) []string {
	out := []string{}
	for _, f := range all {
		out = append(out, f.File+": "+f.Secret+" in "+f.Form)
	}
	return out
}

// Every form of a secret is found, wherever it stands.
func TestForms(t *testing.T) {
	s := &leak.Search{Secrets: []leak.Secret{{Name: "password", Value: []byte(secret)}, {Name: "key", Value: key}}}
	plain, err := json.Marshal("before " + secret + " after")
	if err != nil {
		t.Fatal(err)
	}
	var unescaped bytes.Buffer
	e := json.NewEncoder(&unescaped)
	e.SetEscapeHTML(false)
	if err := e.Encode(secret); err != nil {
		t.Fatal(err)
	}
	var wide []byte
	for _, u := range utf16.Encode([]rune(secret)) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	lines := func(s string, n int, end string) string {
		var b strings.Builder
		for i := range len(s) {
			if i > 0 && i%n == 0 {
				b.WriteString(end)
			}
			b.WriteByte(s[i])
		}
		return b.String()
	}
	type planted struct{ text, secret, form string }
	cases := map[string]planted{
		"clear":        {secret, "password", "clear"},
		"hex":          {hex.EncodeToString([]byte(secret)), "password", "hex"},
		"HEX":          {strings.ToUpper(hex.EncodeToString(key)), "key", "hex"},
		"JSON":         {string(plain), "password", "JSON"},
		"JSON as is":   {unescaped.String(), "password", "quotes"}, // written alike
		"quotes":       {strconv.Quote(secret), "password", "quotes"},
		"UTF-16":       {string(wide), "password", "UTF-16"},
		"binary":       {string(key), "key", "clear"},
		"in lines":     {lines(base64.StdEncoding.EncodeToString([]byte("pre"+secret+"post")), 7, "\r\n  "), "password", "base64"},
		"quoted lines": {lines(base64.StdEncoding.EncodeToString(append(key, key...)), 9, `\n`), "key", "base64"},
		"hex in lines": {lines(hex.EncodeToString(key), 5, "\n"), "key", "hex"},
	}
	for before := range 4 {
		for after := range 4 {
			b := append(append(bytes.Repeat([]byte{'x'}, before), secret...), bytes.Repeat([]byte{'y'}, after)...)
			cases[fmt.Sprintf("base64 %d %d", before, after)] = planted{base64.StdEncoding.EncodeToString(b), "password", "base64"}
			cases[fmt.Sprintf("base64url %d %d", before, after)] = planted{base64.RawURLEncoding.EncodeToString(b), "password", "base64url"}
		}
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			// Also where two chunks meet, and behind a hole.
			for _, at := range []int{0, 1, 1000, 256<<10 - 5, 512<<10 - 1, 600 << 10} {
				b := append(append(noise(at), p.text...), noise(10)...)
				if at == 600<<10 {
					clear(b[:512<<10])
				}
				r := run(t, s, map[string][]byte{"f": b})
				got := strings.Join(found(r.Findings), "\n")
				if want := "f: " + p.secret + " in " + p.form; got != want && (!strings.HasPrefix(p.form, "base64") || !strings.HasPrefix(got, "f: "+p.secret+" in base64")) {
					t.Fatalf("at %d: found %q, want %q", at, got, want)
				}
				end := int64(at + len(p.text))
				if strings.Contains(name, "lines") {
					at -= at % (256 << 10) // known by its chunk
				}
				if r.Findings[0].Offset > end+2 || r.Findings[0].Offset <= int64(at) {
					t.Errorf("at %d: found at %d", at, r.Findings[0].Offset)
				}
			}
		})
	}
}

// pack compresses.
func pack(t *testing.T, b []byte, with func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := with(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var packers = map[string]func(io.Writer) (io.WriteCloser, error){
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"lz4":  func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil },
	"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
}

// A secret is found in compressed data of every format, wherever that begins,
// also if it is compressed again, or the second of two.
func TestMembers(t *testing.T) {
	s := &leak.Search{Secrets: []leak.Secret{{Name: "password", Value: []byte(secret)}}}
	text := []byte(strings.Repeat("abc ", 1000) + base64.StdEncoding.EncodeToString([]byte(secret)) + strings.Repeat(" def", 1000))
	for format, with := range packers {
		one := pack(t, text, with)
		long := pack(t, append(text[:len(text):len(text)], noise(1<<20)...), with)
		none := pack(t, noise(1000), with)
		for name, c := range map[string]struct {
			content []byte
			file    string
		}{
			"alone":    {one, "!" + format + "@0"},
			"inside":   {append(append(noise(12345), one...), noise(300<<10)...), "!" + format + "@12345"},
			"second":   {append(append([]byte(nil), none...), one...), fmt.Sprintf("!%s@%d", format, len(none))},
			"cut off":  {long[:len(long)-1], "!" + format + "@0"},
			"in gzip":  {pack(t, append([]byte("1234567"), one...), packers["gzip"]), "!gzip@0!" + format + "@7"},
			"in zstd":  {pack(t, append([]byte("1234567"), one...), packers["zstd"]), "!zstd@0!" + format + "@7"},
			"in lines": {pack(t, []byte(strings.ReplaceAll(string(text), "d", "\nd")), with), "!" + format + "@0"},
		} {
			t.Run(format+" "+name, func(t *testing.T) {
				r := run(t, s, map[string][]byte{"f": c.content})
				got := found(r.Findings)
				ok := false
				for _, g := range got {
					ok = ok || g == "f"+c.file+": password in base64" || g == "f"+c.file+": password in base64url"
				}
				if !ok {
					t.Errorf("found %q, want it in f%s; %d members, not decoded %q", got, c.file, r.Members, r.Undecoded)
				}
			})
		}
	}
}

// A boot medium hides nothing: the archive lies compressed in a program, that
// in a file system, and that on a disc.
func TestMedium(t *testing.T) {
	program := append(noise(3000), pack(t, append(noise(5000), secret...), packers["zstd"])...)
	iso, err := boot.ISO("MEDIUM", program)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, &leak.Search{Secrets: []leak.Secret{{Name: "password", Value: []byte(secret)}}}, map[string][]byte{"m1/medium.iso": iso})
	inside := slices.IndexFunc(r.Findings, func(f leak.Finding) bool {
		return strings.HasPrefix(f.File, "m1/medium.iso!zstd@") && f.Form == "clear"
	})
	if inside < 0 {
		t.Errorf("found %v", r.Findings)
	}
}

// What is allowed is told from what is not: by place, secret and permissions.
func TestAllowed(t *testing.T) {
	s := &leak.Search{
		Secrets: []leak.Secret{{Name: "admin token", Value: []byte("token-of-the-admin")}, {Name: "bmc m1", Value: []byte("password-of-m1")}},
		Allowed: []leak.Allowance{
			{Path: "control/*.token", Secret: "admin token", Mode: 0o600, Reason: "it is kept there"},
			{Path: "open/*", Secret: "*", Mode: 0o400, Reason: "for its owner only"},
			{Path: "m?/disk*", Secret: "*", Unread: true, Reason: "the tenant's own"},
			{Path: "nothing/*", Secret: "bmc *", Reason: "not needed"},
		},
	}
	all := []byte("token-of-the-admin password-of-m1")
	r := run(t, s, map[string][]byte{"control/admin.token": all, "control/log": all, "open/file": all, "m1/disk0.raw": all})
	want := []string{
		"control/admin.token: bmc m1 in clear", "control/log: admin token in clear", "control/log: bmc m1 in clear",
		"open/file: admin token in clear", "open/file: bmc m1 in clear",
	}
	if d := cmp.Diff(want, found(r.Findings)); d != "" {
		t.Errorf("(-want +found)\n%s", d)
	}
	if got := r.Findings[3].Reason; got != "the file has permissions -rw-------, and may have -r--------" {
		t.Errorf("reason %q", got)
	}
	if d := cmp.Diff([]string{"control/admin.token: admin token in clear"}, found(r.Allowed)); d != "" {
		t.Errorf("(-want +allowed)\n%s", d)
	}
	if len(r.Unused) != 1 || r.Unused[0].Path != "nothing/*" {
		t.Errorf("unused are %v", r.Unused)
	}
	if r.Files != 3 || r.Err() == nil || strings.Contains(r.Err().Error(), "password-of") {
		t.Errorf("%d files, %v", r.Files, r.Err())
	}
}

// Data without a file is searched by its name.
func TestData(t *testing.T) {
	s := &leak.Search{Secrets: []leak.Secret{{Name: "password", Value: []byte(secret)}}}
	r, err := s.Run(t.TempDir(), map[string][]byte{"m1 command line": []byte("-append x=" + secret), "m2 command line": []byte("-append x")})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].String() != "m1 command line: password in clear at "+strconv.Itoa(len("-append x="+secret)) {
		t.Errorf("%v, %v", r, err)
	}
}

// A search that would look at less than it seems to is refused.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	good := []leak.Secret{{Name: "password", Value: []byte(secret)}}
	if err := os.WriteFile(filepath.Join(dir, "f"), pack(t, make([]byte, 4096), packers["zstd"]), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]*leak.Search{
		"leak: there are no secrets to search for":                {},
		"leak: pin has 4 bytes: too short to be told from chance": {Secrets: []leak.Secret{{Name: "pin", Value: []byte("1234")}}},
		"leak: allowance for f: no reason is given":               {Secrets: good, Allowed: []leak.Allowance{{Path: "f", Secret: "*"}}},
		"leak: allowance for [: syntax error in pattern":          {Secrets: good, Allowed: []leak.Allowance{{Path: "[", Secret: "*", Reason: "r"}}},
		"f!zstd@0: has more than 100 bytes":                       {Secrets: good, Limit: 100},
	} {
		if _, err := s.Run(dir, nil); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func BenchmarkSearch(b *testing.B) {
	var secrets []leak.Secret
	for i := range 40 {
		secrets = append(secrets, leak.Secret{Name: strconv.Itoa(i), Value: []byte("secret number " + strconv.Itoa(i*7919))})
	}
	content := map[string][]byte{"f": noise(8 << 20)}
	b.SetBytes(8 << 20)
	for b.Loop() {
		if _, err := (&leak.Search{Secrets: secrets}).Run(b.TempDir(), content); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever bytes come: no panic, no hang, and an end.
func FuzzMembers(f *testing.F) {
	for _, with := range packers {
		var b bytes.Buffer
		w, err := with(&b)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte(secret)); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()-3])
	}
	dir := f.TempDir()
	s := &leak.Search{Secrets: []leak.Secret{{Name: "password", Value: []byte(secret)}}, Limit: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := s.Run(dir, map[string][]byte{"b": b})
		if err == nil && bytes.Contains(b, []byte(secret)) && len(r.Findings) == 0 {
			t.Errorf("not found in %q", b)
		}
	})
}

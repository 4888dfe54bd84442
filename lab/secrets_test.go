package lab

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/lab/leak"
	"github.com/ingot-cloud/ingot/secret"
)

// The secrets in the files of a data centre are found out, are allowed where
// they belong, and are found where they do not.
func TestStoredSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	jwt := func(claims string) string {
		e := base64.RawURLEncoding.EncodeToString
		return e([]byte(`{"alg":"ES512","kid":"0123456789"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature of "+claims))
	}
	write("control/data/admin.token", []byte(jwt("admin")+"\n"), 0o600)
	write("control/config/ingot/config.yaml", []byte("token: "+jwt("admin")+"\n"), 0o600)
	if _, err := secret.OpenRing(secret.Location{Dir: filepath.Join(dir, "control/data"), Create: true}); err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "operator")
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(block)
	write("operator.key", key, 0o600)
	write("leaf1/serial.log", []byte("ssh-ed25519 "+base64.StdEncoding.EncodeToString(public)+"\nall is well\n"), 0o644)

	secrets, err := storedSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	search := func() *leak.Report {
		t.Helper()
		r, err := (&leak.Search{Secrets: secrets, Allowed: mayHold}).Run(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := search()
	if err := r.Err(); err != nil {
		t.Errorf("in a data centre where all is well: %v", err)
	}
	for _, want := range []string{"admin token", "any token", secrets[3].Name, "operator's ssh key"} {
		if !slices.ContainsFunc(r.Allowed, func(f leak.Finding) bool { return f.Secret == want }) {
			t.Errorf("%s was not found where it belongs: the search is blind", want)
		}
	}

	ring, err := os.ReadFile(filepath.Join(dir, "control/data/keys"))
	if err != nil {
		t.Fatal(err)
	}
	write("m1/serial.log", []byte("level=INFO msg=started token="+jwt("machine")+"\n"), 0o644)
	write("control/ingotd.log", []byte(`{"keys":"`+strings.ReplaceAll(string(ring), "\n", `\n`)+`"}`), 0o644)
	write("site1/serial.log", key, 0o644)
	var got []string
	for _, f := range search().Findings {
		got = append(got, f.File+": "+f.Secret)
	}
	if want := []string{"control/ingotd.log: " + secrets[3].Name, "m1/serial.log: any token", "site1/serial.log: operator's ssh key"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

package agent

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/google/go-cmp/cmp"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"
	"google.golang.org/protobuf/encoding/protojson"

	"flag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func settings(t *testing.T) Settings {
	t.Helper()
	a := &apiv2.MachineAllocation{}
	if err := protojson.Unmarshal([]byte(`{
		"uuid": "0193e0a0-0000-7000-8000-000000000001", "hostname": "m1", "userdata": "#cloud-config\n",
		"sshPublicKeys": ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"],
		"dnsServers": [{"ip": "fd00::53"}], "ntpServers": [{"address": "ntp.example"}],
		"networks": [
			{"network": "internet", "asn": 4210000001, "ips": ["203.0.113.7"]},
			{"network": "private", "asn": 4210000001, "ips": ["10.0.0.1", "fd00:1::1"]}]
	}`), a); err != nil {
		t.Fatal(err)
	}
	return Settings{
		Machine: "4c4c4544-0051-3710-8052-b4c04f443732", Allocation: a, Password: "correct horse",
		Ports: []Port{{"lan0", "52:54:00:00:00:01"}, {"lan1", "52:54:00:00:00:02"}}, Fstab: "UUID=1\t/\text4\tdefaults\t0\t1\n",
	}
}

// dump prints a tree like a script: mode, name, content.
func dump(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "-- %s %s --\n%s", rel, info.Mode(), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestConfigure(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\nsomebody:x:1000:1000::/:/bin/sh", // no newline at the end
		"etc/group":   "root:x:0:\n",
		"etc/shadow":  "root:*:1::::::\nmetal:old:1::::::\n",
		"bin/bash":    "",
		"etc/sudoers": "",
	})
	if err := os.Mkdir(filepath.Join(root, "etc/sudoers.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	s := settings(t)
	for range 2 { // a second try must not add anything
		if err := Configure(root, s); err != nil {
			t.Fatal(err)
		}
	}
	shadow, err := os.ReadFile(filepath.Join(root, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	_, hash, _ := strings.Cut(string(shadow), "metal:")
	hash, _, _ = strings.Cut(hash, ":")
	digest, err := shacrypt.Decode(hash)
	if err != nil || !digest.Match("correct horse") {
		t.Errorf("the password does not match %q: %v", hash, err)
	}
	got := strings.ReplaceAll(dump(t, root), hash, "HASH")
	golden := "testdata/configure.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if strings.Contains(got, "correct horse") {
		t.Error("the password is in the installed system in clear")
	}
}

// An image must not lead the agent out of its tree.
func TestConfigureStaysInside(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	write(t, root, map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"})
	if err := os.Symlink(outside, filepath.Join(root, "etc/frr")); err != nil {
		t.Fatal(err)
	}
	if err := Configure(root, settings(t)); err == nil {
		t.Error("no error")
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

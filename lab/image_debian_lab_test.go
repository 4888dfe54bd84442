//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingot-cloud/ingot/agent"
	"github.com/ingot-cloud/ingot/lab"
	"github.com/ingot-cloud/ingot/lldp"
)

const (
	debianUUID = "6a1f9a4e-3a57-4a2b-9d6e-0b9d3c5e7f0d"
	debianIPv4 = "10.64.0.7"
	debianIPv6 = "fd00:64::7"
)

// TestLabDebianImage installs the image with the agent's code, starts it by
// kexec, and asks for everything that docs/images.md promises.
func TestLabDebianImage(t *testing.T) {
	c := cache(t)
	image, err := c.DebianImage(within(t, 30*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 5*time.Minute)
	wires := []*lab.Wire{lab.NewWire("lan0"), lab.NewWire("lan1")}
	var captures []string
	for _, w := range wires {
		file := filepath.Join(t.TempDir(), w.Name()+".pcap")
		if err := w.Capture(file); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
		captures = append(captures, file)
	}
	at4, at6 := freePort(t), freePort(t)
	leaf := debianLeaf(t, c, wires, at4, at6)
	signer := newSigner(t)
	server := debianServer(t, c, image, wires, string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	for _, vm := range []*lab.VM{leaf, server} {
		t.Cleanup(func() {
			if err := vm.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := vm.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m, err := server.WaitSerial(ctx, 0, regexp.MustCompile(`install: (\d+ entries.*)(?s:.*)install: (kexec|failed.*)`))
	if err != nil {
		t.Fatal(err)
	}
	if m[2] != "kexec" {
		t.Fatal(m[2])
	}
	start, used := time.Now(), processorTime(t, server)
	since := func() string {
		return fmt.Sprintf("%.1f s after kexec, of which the server had the processor for %.1f s", time.Since(start).Seconds(), (processorTime(t, server) - used).Seconds())
	}
	t.Logf("installed: %s, %.1f s of the processor", m[1], used.Seconds())

	// Both of the server's ports are up and its addresses are learned on both.
	for _, a := range []string{debianIPv4, debianIPv6} {
		if _, err := leaf.WaitSerial(ctx, 0, regexp.MustCompile(`routes: .*`+regexp.QuoteMeta(a)+`=2`)); err != nil {
			said, _ := os.ReadFile(server.SerialLog())
			t.Fatalf("%v\nthe server's serial log:\n%s", err, said[max(0, len(said)-6000):])
		}
		t.Logf("%s is learned over both ports %s", a, since())
	}
	for _, at := range []netip.AddrPort{at4, at6} {
		shell := dial(ctx, t, at, signer)
		t.Logf("ssh through %s %s", at, since())
		defer shell.Close()
		if at == at4 {
			inspect(t, shell)
		}
	}
	for i, w := range wires {
		if err := w.EndCapture(); err != nil {
			t.Fatal(err)
		}
		overheard(t, captures[i], debianMAC(i))
	}
}

// processorTime returns how long a VM has had a processor of this machine. On
// a busy one it says more than the time that has passed.
func processorTime(t *testing.T, vm *lab.VM) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.PID()))
	if err != nil {
		t.Fatal(err)
	}
	// The name, in brackets, is the second field; utime and stime are the
	// 14th and 15th, in hundredths of a second (proc(5)).
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

func debianMAC(i int) string { return fmt.Sprintf("02:00:00:00:12:0%d", i+1) }

// debianLeaf is a leaf with the server on two ports, that prints how many ways
// it has to the server's addresses, and lets this machine through to them.
func debianLeaf(t *testing.T, c *lab.Cache, wires []*lab.Wire, at4, at6 netip.AddrPort) *lab.VM {
	t.Helper()
	leaf, err := c.NewGuest(t.Context(), t.TempDir(), lab.GuestSpec{
		Spec: lab.Spec{Name: "leaf", NICs: []lab.NIC{
			{MAC: "02:00:00:00:11:01", Name: "swp1", Port: wires[0].A()},
			{MAC: "02:00:00:00:11:02", Name: "swp2", Port: wires[1].A()},
			{MAC: "02:00:00:00:11:ff", Name: "eth0", User: &lab.User{Forward: map[netip.AddrPort]int{at4: 4, at6: 6}}},
		}},
		Sysctls:  []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"},
		Prepare:  "for p in swp1 swp2 eth0; do /bin/ip link set $p up; done; /bin/ip addr add 10.0.2.15/24 dev eth0",
		Programs: map[string]string{"/bin/relay": program(t, "./testdata/relay")},
		FRR: `frr defaults datacenter
interface lo
 ip address 10.0.0.1/32
 ipv6 address fd00::1/128
interface swp1
 ipv6 nd ra-interval 6
 no ipv6 nd suppress-ra
interface swp2
 ipv6 nd ra-interval 6
 no ipv6 nd suppress-ra
router bgp 65001
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor swp1 interface remote-as external
 neighbor swp2 interface remote-as external
 address-family ipv4 unicast
  network 10.0.0.1/32
 address-family ipv6 unicast
  network fd00::1/128
  neighbor swp1 activate
  neighbor swp2 activate
`,
		Services: map[string]string{
			"relay4": "exec /bin/relay 10.0.2.15:4 10.0.0.1 " + debianIPv4 + ":22",
			"relay6": "exec /bin/relay 10.0.2.15:6 fd00::1 [" + debianIPv6 + "]:22",
			"report": fmt.Sprintf(`last=
while :; do
	now="%s=$(/bin/ip -4 route show %[1]s | grep -c 'dev swp') %s=$(/bin/ip -6 route show %[2]s | grep -c 'dev swp')"
	[ "$now" = "$last" ] || echo "routes: $now"
	last=$now
	usleep 200000
done`, debianIPv4, debianIPv6),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// debianServer is a server whose boot image installs the image.
func debianServer(t *testing.T, c *lab.Cache, image string, wires []*lab.Wire, key string) *lab.VM {
	t.Helper()
	boot, err := c.BootImage(t.Context(), program(t, "./testdata/install"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	order, err := json.Marshal(map[string]any{
		"Machine": debianUUID, "SHA256": hex.EncodeToString(sum[:]), "Size": len(b),
		"Ports": []agent.Port{{Name: "lan0", MAC: debianMAC(0)}, {Name: "lan1", MAC: debianMAC(1)}},
		"Allocation": json.RawMessage(fmt.Sprintf(`{
			"uuid": "0193e0a0-0000-7000-8000-000000000001", "hostname": "web1", "sshPublicKeys": [%q],
			"networks": [{"network": "private", "asn": 4210000001, "ips": [%q, %q]}],
			"filesystemLayout": {"id": "plain",
				"disks": [{"device": "/dev/vda", "partitions": [
					{"number": 1, "label": "efi", "size": 128, "gptType": "GPT_TYPE_BOOT"}, {"number": 2, "label": "root", "gptType": "GPT_TYPE_LINUX"}]}],
				"filesystems": [
					{"device": "/dev/vda1", "path": "/boot/efi", "label": "efi", "format": "FORMAT_VFAT"},
					{"device": "/dev/vda2", "path": "/", "label": "root", "format": "FORMAT_EXT4"}]}}`,
			strings.TrimSpace(key), debianIPv4, debianIPv6)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, make([]byte, -len(b)&511)...) // whole sectors
	if err := os.WriteFile(filepath.Join(dir, "disk1.raw"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	server, err := lab.NewVM(dir, lab.Spec{
		Name: "server", UUID: debianUUID, Memory: 512, Kernel: boot.Kernel, Initrds: []string{boot.Initrd},
		Disks: []lab.Disk{{Size: 2 << 30}, {Size: int64(len(b))}},
		NICs:  []lab.NIC{{MAC: debianMAC(0), Port: wires[0].B()}, {MAC: debianMAC(1), Port: wires[1].B()}},
		Files: map[string]lab.File{"/order.json": lab.Text(string(order))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// dial logs in as soon as the server lets it.
func dial(ctx context.Context, t *testing.T, at netip.AddrPort, signer ssh.Signer) *ssh.Client {
	t.Helper()
	for tick := time.Tick(200 * time.Millisecond); ; {
		client, err := ssh.Dial("tcp", at.String(), &ssh.ClientConfig{
			User: agent.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: 10 * time.Second,
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // made a moment ago; nobody knows it
		})
		if err == nil {
			return client
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("ssh to %s: %v", at, err)
		}
	}
}

// inspect looks around on the server.
func inspect(t *testing.T, shell *ssh.Client) {
	t.Helper()
	for _, q := range []struct{ command, want string }{
		{"hostname", `^web1$`},
		{"sudo systemctl is-system-running --wait", `^running$`},
		{"systemctl --failed --no-legend", `^$`},
		{"dpkg --audit", `^$`},
		{"sudo vtysh -c 'show bgp summary failed'", `(?s)No failed.*No failed`},
		{"sudo vtysh -c 'show bgp summary established'", `(?s)lan0.*lan1.*Total number of neighbors 2`},
		{"ip -brief -4 address show scope global", `^lo +UNKNOWN +10\.64\.0\.7/32$`},
		{"ip -brief -6 address show scope global", `^lo +UNKNOWN +fd00:64::7/128$`},
		{"cat /etc/machine-id", `^[0-9a-f]{32}$`},
		{"ls /etc/ssh/ssh_host_*_key", `(?s)^\S*ecdsa_key\s\S*ed25519_key$`},
		{"sudo awk -F: '$2 ~ /^[$]/ { print $1 }' /etc/shadow", `^metal$`},
		{"findmnt -l -n -o TARGET -t ext4,vfat", `^/\n/boot/efi$`},
		{"sudo journalctl -b -k -o cat -g '^Linux version'", `^Linux version`},
		{"systemd-analyze && systemd-analyze critical-chain ssh.service", `^Startup finished`},
	} {
		session, err := shell.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := session.CombinedOutput(q.command)
		if got := string(bytes.TrimSpace(out)); !regexp.MustCompile(q.want).MatchString(got) {
			t.Errorf("%s: %q (%v), want %s", q.command, got, err, q.want)
		} else if strings.Contains(q.command, "analyze") {
			t.Logf("%s", got)
		}
		_ = session.Close()
	}
}

// overheard checks what the server sent on one port.
func overheard(t *testing.T, capture, mac string) {
	t.Helper()
	frames, err := lab.ReadCapture(capture)
	if err != nil {
		t.Fatal(err)
	}
	provisioned := false
	sent := map[string]int{}
	for _, f := range frames {
		if fmt.Sprintf("%x", f.Data[6:12]) != strings.ReplaceAll(mac, ":", "") {
			continue
		}
		sent[f.Kind()]++
		if f.Kind() == "lldp" {
			l, err := lldp.Parse(f.Data[14:])
			if err != nil {
				t.Fatal(err)
			}
			provisioned = provisioned || l.SystemName == debianUUID && strings.Contains(l.SystemDescription, "provisioned")
		}
	}
	t.Logf("%s: the server sent %v", filepath.Base(capture), sent)
	if !provisioned {
		t.Errorf("%s: no LLDP frame says that %s is provisioned", filepath.Base(capture), debianUUID)
	}
	// Router advertisements, neighbour discovery and MLD, BGP, ssh. Nothing
	// asks for an address.
	expected := []string{"lldp", "ipv6 icmp 134", "ipv6 icmp 135", "ipv6 icmp 136", "ipv6 icmp 143", "ipv6 tcp 179", "ipv4 tcp 22", "ipv6 tcp 22"}
	for kind := range sent {
		if !slices.Contains(expected, kind) {
			t.Errorf("%s: the server sent %s", filepath.Base(capture), kind)
		}
	}
}

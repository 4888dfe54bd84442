package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
)

// Settings are what makes an image the system of one allocation.
type Settings struct {
	Machine    string // uuid
	Allocation *apiv2.MachineAllocation
	Ports      []Port
	Fstab      string
	// Password of the console user. It is written as a hash only.
	Password string
}

// A Port is an Ethernet port and the name it gets in the installed system,
// whatever the kernel would call it.
type Port struct{ Name, MAC string }

// User is the account that owns the ssh keys and the console password.
const User = "metal"

// Configure writes the settings into the system below root. Paths of the image
// are resolved below root, so that an image's symbolic links cannot lead the
// agent out of it.
func Configure(root string, s Settings) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	t := tree{r}
	a := s.Allocation
	uid, err := t.addUser(s.Password)
	if err != nil {
		return err
	}
	keys := strings.Join(a.GetSshPublicKeys(), "\n")
	if keys != "" {
		keys += "\n"
	}
	files := []entry{
		{name: "etc/hostname", text: a.GetHostname() + "\n"},
		{name: "etc/hosts", text: hosts(a)},
		{name: "etc/fstab", text: s.Fstab},
		{name: "etc/sysctl.d/90-ingot.conf", text: sysctl},
		{name: "etc/frr/frr.conf", text: frr(a, s.Ports), mode: 0o640, like: "etc/frr"},
		{name: "etc/frr/daemons", text: "zebra=yes\nbgpd=yes\nstaticd=yes\nvtysh_enable=yes\nzebra_options=\"-A 127.0.0.1 -s 90000000\"\nbgpd_options=\"-A 127.0.0.1\"\nstaticd_options=\"-A 127.0.0.1\"\n" + watchfrr, mode: 0o640, like: "etc/frr"},
		{name: "etc/lldpd.d/ingot.conf", text: fmt.Sprintf("configure system hostname %s\nconfigure system description \"provisioned by Ingot\"\nconfigure lldp tx-interval 10\n", s.Machine)},
		{name: "etc/ingot/machine", text: s.Machine + "\n"},
		{name: "etc/ingot/ports", text: portLines(s.Ports)},
		{name: path.Join("home", User, ".ssh/authorized_keys"), text: keys, mode: 0o600, uid: uid, dirMode: 0o700},
	}
	for i, p := range s.Ports {
		files = append(files,
			entry{name: fmt.Sprintf("etc/systemd/network/10-%s.link", p.Name), text: fmt.Sprintf("[Match]\nPermanentMACAddress=%s\n\n[Link]\nName=%s\n", p.MAC, p.Name)},
			entry{name: fmt.Sprintf("etc/systemd/network/1%d-%s.network", i, p.Name), text: fmt.Sprintf("[Match]\nName=%s\n\n[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nLLDP=no\n", p.Name)})
	}
	if len(a.GetDnsServers()) > 0 {
		var b strings.Builder
		for _, d := range a.GetDnsServers() {
			fmt.Fprintf(&b, "nameserver %s\n", d.GetIp())
		}
		files = append(files, entry{name: "etc/resolv.conf", text: b.String(), replace: true})
	}
	if len(a.GetNtpServers()) > 0 {
		var names []string
		for _, n := range a.GetNtpServers() {
			names = append(names, n.GetAddress())
		}
		files = append(files, entry{name: "etc/systemd/timesyncd.conf.d/ingot.conf", text: "[Time]\nNTP=" + strings.Join(names, " ") + "\n"})
	}
	if a.GetUserdata() != "" {
		files = append(files,
			entry{name: "var/lib/cloud/seed/nocloud/user-data", text: a.GetUserdata(), mode: 0o600},
			entry{name: "var/lib/cloud/seed/nocloud/meta-data", text: fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", a.GetUuid(), a.GetHostname())},
			entry{name: "etc/ingot/userdata", text: a.GetUserdata(), mode: 0o600})
	}
	for _, f := range files {
		if err := t.write(f); err != nil {
			return fault.Wrap(fault.Unavailable, "file /"+f.name, "cannot be written into the installed system", err)
		}
	}
	return nil
}

// watchfrr gives FRR's daemons 90 s to start. After its own 20 s, on a server
// that is busy or emulated, it kills the start half-way and FRR runs without
// its configuration.
const watchfrr = "watchfrr_options=\"-T 90\"\n"

// sysctl keeps the installed system from taking addresses and routes from the
// boot network's advertisements while its ports still move (MEP-20).
const sysctl = `net.ipv6.conf.all.accept_ra = 0
net.ipv6.conf.default.accept_ra = 0
net.ipv6.conf.all.autoconf = 0
net.ipv6.conf.default.autoconf = 0
net.ipv6.conf.all.addr_gen_mode = 0
net.ipv6.conf.default.addr_gen_mode = 0
`

func hosts(a *apiv2.MachineAllocation) string {
	name := a.GetHostname()
	return "127.0.0.1\tlocalhost\n127.0.1.1\t" + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
}

func portLines(ports []Port) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s %s\n", p.Name, p.MAC)
	}
	return b.String()
}

// frr is the machine's routing: its addresses are on the loopback and reach
// the fabric by BGP over every port, without an address on any (RFC 8950).
func frr(a *apiv2.MachineAllocation, ports []Port) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("frr defaults datacenter")
	p("hostname %s", a.GetHostname())
	p("log syslog informational")
	p("service integrated-vtysh-config")
	p("interface lo")
	var asn uint32
	var v4, v6, routerID string
	for _, n := range a.GetNetworks() {
		asn = max(asn, n.GetAsn())
		for _, ip := range n.GetIps() {
			if strings.Contains(ip, ":") {
				p(" ipv6 address %s/128", ip)
				v6 += "  network " + ip + "/128\n"
			} else {
				p(" ip address %s/32", ip)
				v4 += "  network " + ip + "/32\n"
				if routerID == "" {
					routerID = ip
				}
			}
		}
	}
	if routerID == "" { // any unique 32 bits will do (RFC 6286)
		routerID = fmt.Sprintf("%d.%d.%d.%d", byte(asn>>24), byte(asn>>16), byte(asn>>8), byte(asn))
	}
	p("exit")
	for _, port := range ports {
		p("interface %s\n ipv6 nd ra-interval 6\n no ipv6 nd suppress-ra\nexit", port.Name)
	}
	// Never a transit between the two leaves. FRR warns of what is used before
	// it is defined.
	p("bgp as-path access-list own permit ^$")
	p("route-map own permit 10\n match as-path own\nexit")
	p("router bgp %d", asn)
	p(" bgp router-id %s", routerID)
	p(" bgp bestpath as-path multipath-relax")
	p(" no bgp ebgp-requires-policy")
	p(" neighbor fabric peer-group")
	p(" neighbor fabric remote-as external")
	p(" neighbor fabric timers 2 8")
	for _, port := range ports {
		p(" neighbor %s interface peer-group fabric", port.Name)
	}
	p(" address-family ipv4 unicast\n%s  neighbor fabric activate\n  neighbor fabric route-map own out\n exit-address-family", v4)
	p(" address-family ipv6 unicast\n%s  neighbor fabric activate\n  neighbor fabric route-map own out\n exit-address-family", v6)
	p("exit")
	return b.String()
}

// tree writes below the root of the installed system.
type tree struct{ *os.Root }

type entry struct {
	name, text string
	mode       fs.FileMode // 0644 if zero
	dirMode    fs.FileMode // of a directory that is made for it; 0755 if zero
	uid        int         // owner and group, also of the directories below home
	like       string      // take owner and group from this path, if it exists
	replace    bool        // remove what is there first, for symbolic links
}

func (t tree) write(f entry) error {
	if f.mode == 0 {
		f.mode = 0o644
	}
	if f.dirMode == 0 {
		f.dirMode = 0o755
	}
	dir := path.Dir(f.name)
	if err := t.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if f.dirMode != 0o755 {
		if err := t.Chmod(dir, f.dirMode); err != nil {
			return err
		}
	}
	if f.replace {
		if err := t.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := t.WriteFile(f.name, []byte(f.text), f.mode); err != nil {
		return err
	}
	if err := t.Chmod(f.name, f.mode); err != nil {
		return err
	}
	uid, gid := f.uid, f.uid
	if f.like != "" {
		uid, gid = t.owner(f.like)
	}
	if uid == 0 && gid == 0 {
		return nil
	}
	if strings.HasPrefix(f.name, "home/") {
		for d := dir; d != "home"; d = path.Dir(d) {
			if err := t.Lchown(d, uid, gid); err != nil {
				return err
			}
		}
	}
	return t.Lchown(f.name, uid, gid)
}

// addUser makes the account of the machine's owner unless the image has it,
// sets its password and lets it become root. It returns the account's id.
func (t tree) addUser(password string) (int, error) {
	hasher, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(5000))
	if err != nil {
		return 0, err
	}
	digest, err := hasher.Hash(password)
	if err != nil {
		return 0, err
	}
	users, err := t.ReadFile("etc/passwd")
	if err != nil {
		return 0, fault.Wrap(fault.Invalid, "image", "has no /etc/passwd", err)
	}
	uid, taken := 0, map[string]bool{}
	for l := range strings.Lines(string(users)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 7 {
			continue
		}
		taken[f[2]] = true
		if f[0] == User {
			if _, err := fmt.Sscan(f[2], &uid); err != nil {
				return 0, fault.New(fault.Invalid, "image", "has a broken /etc/passwd", "")
			}
		}
	}
	if uid == 0 {
		for uid = 1000; taken[fmt.Sprint(uid)]; uid++ {
		}
		shell := "/bin/sh"
		if _, err := t.Stat("bin/bash"); err == nil {
			shell = "/bin/bash"
		}
		for _, e := range []struct{ name, line string }{
			{"etc/passwd", fmt.Sprintf("%s:x:%d:%d::/home/%s:%s\n", User, uid, uid, User, shell)},
			{"etc/group", fmt.Sprintf("%s:x:%d:\n", User, uid)},
		} {
			if err := t.appendLine(e.name, e.line); err != nil {
				return 0, err
			}
		}
	}
	if err := t.setPassword(digest.Encode()); err != nil {
		return 0, err
	}
	if _, err := t.Stat("etc/sudoers.d"); err == nil {
		if err := t.write(entry{name: "etc/sudoers.d/ingot", text: User + " ALL=(ALL) NOPASSWD:ALL\n", mode: 0o440}); err != nil {
			return 0, err
		}
	}
	return uid, nil
}

// setPassword replaces or adds the account's line in /etc/shadow.
func (t tree) setPassword(hash string) error {
	old, err := t.ReadFile("etc/shadow")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for l := range strings.Lines(string(old)) {
		if !strings.HasPrefix(l, User+":") {
			b.WriteString(strings.TrimRight(l, "\n") + "\n")
		}
	}
	fmt.Fprintf(&b, "%s:%s:19700:0:99999:7:::\n", User, hash)
	return t.write(entry{name: "etc/shadow", text: b.String(), mode: 0o640, like: "etc/shadow"})
}

// appendLine adds a line to a file that may lack its last newline.
func (t tree) appendLine(name, text string) error {
	old, err := t.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		text = "\n" + text
	}
	return t.write(entry{name: name, text: string(old) + text})
}

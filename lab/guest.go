package lab

import (
	"context"
	_ "embed" // the guests' scripts
	"slices"
	"strings"
)

// guestInit is /etc/rc of a guest and of the busybox image.
//
//go:embed guest.sh
var guestInit string

// mountRoot is /init of the busybox image's own initrd.
//
//go:embed mountroot.sh
var mountRoot string

// guestModules are what every guest needs of the kernel, switchModules what a
// switch or a management server needs besides.
var (
	guestModules  = []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "af_packet", "ext4"}
	switchModules = []string{
		"vrf", "vxlan", "dummy", "bridge", "8021q",
		"nf_tables", "nft_ct", "nft_log", "nft_limit", "nft_reject_inet", "nft_fib_inet", "nft_fib_netdev", "nfnetlink",
	}
)

// guestSystem describes the system that leaves, the site and the busybox image
// share: busybox, FRR, iproute2 and an ssh server.
//
// It starts FRR (zebra, staticd, bgpd; the datacenter profile) with
// /etc/frr/frr.conf, if that has content, and then every executable in
// /etc/service, again whenever it ends; what they print goes to the serial
// console. Before FRR it runs /etc/rc.local. /etc/nics names the ports: a line
// is a name and a MAC address.
func guestSystem() Initrd {
	pam := "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n"
	return Initrd{
		Modules: slices.Clone(guestModules),
		Programs: []string{
			"/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/lib/frr/staticd", "/usr/bin/vtysh",
			"/bin/ip", "/usr/sbin/dropbear",
		},
		Trees: []string{
			"/usr/share/yang",
			"/lib/x86_64-linux-gnu/security/pam_permit.so", "/lib/x86_64-linux-gnu/security/pam_rootok.so",
		},
		Files: map[string]File{
			"/init":               Script("#!/bin/sh\nexec /sbin/init\n"),
			"/etc/rc":             Script(guestInit),
			"/etc/inittab":        Text("::sysinit:/etc/rc\nttyS0::respawn:-/bin/sh\n::ctrlaltdel:/bin/poweroff -f\n"),
			"/etc/passwd":         Text("root:x:0:0:root:/root:/bin/sh\nfrr:x:100:100::/:/bin/false\n"),
			"/etc/group":          Text("root:x:0:\nfrr:x:100:\nfrrvty:x:101:frr\n"),
			"/etc/pam.d/frr":      Text(pam),
			"/etc/frr/vtysh.conf": Text("service integrated-vtysh-config\n"),
			"/etc/frr/frr.conf":   Text(""),
			"/etc/nics":           Text(""),
			"/etc/hosts":          Text("::1 localhost\n127.0.0.1 localhost\n"),
			// FRR's libyang looks for its extensions here and complains without.
			"/usr/lib/x86_64-linux-gnu/libyang2/extensions/.keep": Text(""),
			"/etc/service/.keep":  Text(""),
			"/etc/dropbear/.keep": Text(""),
			"/etc/shells":         Text("/bin/sh\n"),
		},
		Busybox: true,
	}
}

// sshd runs an ssh server that takes keys only. It makes the host's own key when
// the first client comes.
const sshd = "exec /usr/sbin/dropbear -F -E -R -s"

// A GuestSpec says what a Linux guest is made of: a leaf, or the site.
type GuestSpec struct {
	// Spec needs no kernel and no initrd; it gets the lab's. Without memory it
	// has 192 MiB. NICs get their names in the guest.
	Spec
	// Programs are static programs of the host by path in the guest.
	Programs map[string]string
	// Services are commands for the shell by name. Each is started after FRR,
	// again a second after it has ended, and prints on the serial console.
	Services map[string]string
	// Prepare is a piece of shell that runs once, before FRR.
	Prepare string
	// Sysctls are set before that: "net.ipv6.conf.all.forwarding=1".
	Sysctls []string
	// FRR is the configuration FRR starts with; empty starts it with none.
	FRR string
}

// NewGuest returns a Linux guest, powered off, that keeps its files in dir.
// Its system lives in memory: it starts afresh each time.
func (c *Cache) NewGuest(ctx context.Context, dir string, g GuestSpec) (*VM, error) {
	image, err := c.GuestImage(ctx)
	if err != nil {
		return nil, err
	}
	s := g.Spec
	s.Kernel, s.Initrds = image.Kernel, append([]string{image.Initrd}, s.Initrds...)
	if s.Memory == 0 {
		s.Memory = 192
	}
	files := map[string]File{
		"/etc/sysctl.conf": Text(strings.Join(g.Sysctls, "\n") + "\n"),
		"/etc/rc.local":    Script("#!/bin/sh\n" + g.Prepare + "\n"),
	}
	if g.FRR != "" {
		files["/etc/frr/frr.conf"] = Text(g.FRR)
	}
	for to, from := range g.Programs {
		files[to] = Program(from)
	}
	for name, command := range g.Services {
		files["/etc/service/"+name] = Script("#!/bin/sh\n" + command + "\n")
	}
	for path, f := range s.Files {
		files[path] = f
	}
	s.Files = files
	return NewVM(dir, s)
}

// GuestImage returns the kernel and the initrd of leaves and of the site. What
// makes one of them is added per guest; see NewGuest.
func (c *Cache) GuestImage(ctx context.Context) (BootImage, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return BootImage{}, err
	}
	i := guestSystem()
	i.Name = "guest"
	i.Modules = append(i.Modules, switchModules...)
	i.Programs = append(i.Programs, "/sbin/bridge", "/usr/sbin/nft")
	initrd, err := c.Initrd(ctx, i)
	return BootImage{Kernel: p.Kernel, Initrd: initrd}, err
}

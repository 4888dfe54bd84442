package lab

import (
	_ "embed"

	"context"
)

// guestInit is /etc/rc of a guest and of the busybox image.
//
//go:embed guest.sh
var guestInit string

// mountRoot is /init of the busybox image's own initrd.
//
//go:embed mountroot.sh
var mountRoot string

// guestModules are what a switch or a management server needs of the kernel.
var guestModules = []string{
	"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "vrf", "vxlan", "dummy", "bridge", "8021q",
	"nf_tables", "nft_ct", "nft_log", "nft_limit", "nft_reject_inet", "nft_fib_inet", "nft_fib_netdev",
	"nfnetlink", "af_packet", "ext4",
}

// guestSystem describes the system that leaves, the site and the busybox image
// share: busybox, FRR, iproute2 and nftables.
//
// It starts FRR (zebra, staticd, bgpd) with /etc/frr/frr.conf, and then every
// executable in /etc/service, again whenever it ends; what they print goes to
// the serial console. Before FRR it runs /etc/rc.local. /etc/nics names the
// ports: a line is a MAC address and a name.
func guestSystem() Initrd {
	pam := "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n"
	return Initrd{
		Modules: guestModules,
		Programs: []string{
			"/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/lib/frr/staticd", "/usr/bin/vtysh",
			"/bin/ip", "/sbin/bridge", "/usr/sbin/nft",
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
			"/etc/frr/frr.conf":   Text("frr defaults datacenter\nlog stdout warnings\n"),
			"/etc/nics":           Text(""),
			"/etc/hosts":          Text("::1 localhost\n127.0.0.1 localhost\n"),
			// FRR's libyang looks for its extensions here and complains without.
			"/usr/lib/x86_64-linux-gnu/libyang2/extensions/.keep": Text(""),
			"/etc/service/.keep": Text(""),
		},
		Busybox: true,
	}
}

// GuestImage returns the kernel and the initrd of leaves and of the site. What
// makes one of them (programs, configuration, services) is added per VM; see
// VM.Files.
func (c *Cache) GuestImage(ctx context.Context) (BootImage, error) {
	p, err := c.Parts(ctx)
	if err != nil {
		return BootImage{}, err
	}
	i := guestSystem()
	i.Name = "guest"
	initrd, err := c.Initrd(ctx, i)
	return BootImage{Kernel: p.Kernel, Initrd: initrd}, err
}

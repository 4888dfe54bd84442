#!/bin/sh
# Installs Debian inside the guest from the packages beside it.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true

# Nothing is started while it is installed, and nothing waits for the disk. The
# log of dpkg is how the host follows.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/build
ln -s /dev/ttyS0 /var/log/dpkg.log
# The package makes host keys unless there are some.
touch /etc/ssh/ssh_host_rsa_key /etc/ssh/ssh_host_ecdsa_key /etc/ssh/ssh_host_ed25519_key

# quietly COMMAND...: what it says matters only if it fails.
quietly() { "$@" >/build/log 2>&1 || { tail -n 40 /build/log; return 1; }; }

# With all of them unpacked first, every dependency is there when it is needed,
# and dpkg configures them in the right order.
quietly dpkg --force-depends --unpack /build/*.deb
# Several would build the initramfs; once is enough.
INITRD=No quietly dpkg --configure -a
quietly update-initramfs -c -k "$(ls /lib/modules)"
dpkg --audit

# Interfaces are systemd-networkd's, addresses FRR's.
systemctl enable systemd-networkd.service
# There is no DHCP and no way out to wait for, and a console on the serial port.
systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer getty@tty1.service
# Each of these costs a start without KVM a tenth of a second or more, and does
# nothing here.
systemctl mask dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
	sys-fs-fuse-connections.mount modprobe@.service kmod-static-nodes.service systemd-modules-load.service systemd-network-generator.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service e2scrub_all.timer e2scrub_reap.service
# The journal stays in memory, and what belongs to /usr is up to date.
rm -rf /var/log/journal
touch -r /usr /etc/.updated /var/.updated

# What must be each machine's own is made by its first start: an empty
# machine-id is filled then.
rm -f /etc/ssh/ssh_host_* /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: >/etc/machine-id
rm -rf /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/build /var/lib/apt/lists /var/cache/apt /var/cache/debconf/*-old /var/lib/dpkg/*-old /tmp/* /boot/*.old
find /var/log /run -xdev ! -type d -delete

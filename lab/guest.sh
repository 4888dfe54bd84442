#!/bin/sh
# The start of a lab guest, and of the busybox image on a server's disk: kernel's
# file systems, modules, names of ports, FRR, services.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
[ -e /proc/mounts ] || mount -t proc proc /proc
[ -e /sys/class ] || mount -t sysfs sys /sys
[ -e /dev/ptmx ] || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/frr /var/tmp/frr
mount -t devpts devpts /dev/pts
[ -e /var/run ] || ln -s /run /var/run

up() { cut -d' ' -f1 /proc/uptime; }
echo "guest: init at $(up) s"

modprobe -a virtio_pci virtio_net virtio_rng virtio_blk af_packet

# A server's other file systems, and what Ingot's agent wants of its kernel.
[ -s /etc/fstab ] && mount -a
for conf in /etc/sysctl.d/*.conf; do
	[ -s "$conf" ] && sysctl -q -p "$conf"
done

# Names of ports: a guest's /etc/nics and a server's /etc/ingot/ports have a name
# and a MAC address per line. A server's ports come up by themselves.
/bin/ip link set lo up
for dev in /sys/class/net/*; do
	mac=$(cat "$dev/address")
	old=${dev##*/}
	for list in /etc/nics /etc/ingot/ports; do
		[ -s $list ] || continue
		name=$(sed -n "s/ $mac\$//p" $list)
		if [ -n "$name" ] && [ "$name" != "$old" ]; then /bin/ip link set "$old" name "$name"; fi
		if [ -n "$name" ] && [ $list = /etc/ingot/ports ]; then /bin/ip link set "$name" up; fi
	done
done
[ -s /etc/hostname ] && hostname -F /etc/hostname
[ -s /etc/sysctl.conf ] && sysctl -q -p /etc/sysctl.conf

if [ -x /etc/rc.local ]; then /etc/rc.local; fi

chown -R frr:frr /etc/frr /run/frr /var/tmp/frr
/usr/lib/frr/zebra -d -F datacenter -A 127.0.0.1 -s 90000000
/usr/lib/frr/staticd -d -F datacenter -A 127.0.0.1
/usr/lib/frr/bgpd -d -F datacenter -A 127.0.0.1
if [ -s /etc/frr/frr.conf ]; then vtysh -b; fi
echo "guest: ready at $(up) s"

for s in /etc/service/*; do
	[ -x "$s" ] || continue
	(while :; do
		"$s" </dev/null
		echo "guest: $s ended with $?"
		sleep 1
	done) &
done

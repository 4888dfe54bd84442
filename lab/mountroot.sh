#!/bin/sh
# /init of the busybox image: mounts root= and goes there.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk nvme ext4
root=$(sed -n 's/.*\broot=\([^ ]*\).*/\1/p' /proc/cmdline)
n=0
while :; do
	case $root in
	LABEL=* | UUID=*) dev=$(findfs "$root" 2>/dev/null) ;;
	*) dev=$root ;;
	esac
	[ -n "$dev" ] && mount "$dev" /mnt && break
	n=$((n + 1))
	if [ $n -gt 100 ]; then echo "no root file system: $root"; exec sh; fi
	usleep 50000
done
for fs in dev proc sys; do mount --move /$fs /mnt/$fs; done
exec switch_root /mnt /sbin/init

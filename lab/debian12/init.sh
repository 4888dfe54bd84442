#!/bin/sh
# /init of the guest that installs Debian. The first disk becomes the root file
# system, the second holds the files to begin with as a tar archive, the third
# takes the result as another.
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk virtio_rng ext4

build() {
	mkfs.ext4 -q -O ^has_journal /dev/vda &&
		mount -t ext4 -o noatime /dev/vda /mnt &&
		tar -x -f /dev/vdb -C /mnt &&
		mount -t proc proc /mnt/proc &&
		mount -t sysfs sys /mnt/sys &&
		mount --bind /dev /mnt/dev &&
		mkdir -p /dev/pts && mount -t devpts devpts /dev/pts &&
		chroot /mnt /bin/sh /build/install.sh &&
		umount /mnt/dev /mnt/sys /mnt/proc &&
		echo "build: packing" &&
		chroot /mnt /bin/tar --create --blocking-factor=2048 --format=posix --sort=name --numeric-owner --xattrs '--xattrs-include=*' \
			--exclude=./build --exclude=./lost+found -C / . >/dev/vdc
}
if build; then echo "build: complete"; else echo "build: failed"; fi
poweroff -f

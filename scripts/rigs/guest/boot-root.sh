#!/bin/busybox sh
# /init of the machine that boots an operating system from its first virtio disk.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod "/modules/$m" || echo "guest: cannot load $m"; done
if ! $b mount -t ext4 /dev/vda /mnt; then
  echo "guest: cannot mount /dev/vda"
  $b poweroff -f
fi
for d in proc sys dev; do $b mount --move "/$d" "/mnt/$d"; done
exec $b switch_root /mnt /sbin/init

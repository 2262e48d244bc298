#!/bin/busybox sh
# The machine that runs a node and makes devices of its volumes. First it is /init of the initramfs: it goes over to the disk of
# node-image.sh, where it is called again: it runs the scenes of devices-scenes.mjs and devices-vlmc.mjs, and ends.
# Prints a line `SCENE name: ok` or `SCENE name: FAIL why` for each, and RIG-OK as the last line, or RIG-FAIL and what failed.
# PARTS in the kernel's command line says which are run, separated by commas: scenes,vlmc when it says nothing.

if [ "$1" != again ]; then
  b=/bin/busybox
  $b mount -t proc proc /proc
  $b mount -t sysfs sys /sys
  $b mount -t devtmpfs dev /dev
  for m in $($b cat /modules/order); do $b insmod "/modules/$m" || echo "guest: cannot load $m"; done
  disk=/dev/vda
  [ -e $disk ] || disk=/dev/ubda
  $b mount -t ext4 -o ro $disk /mnt || { echo "RIG-FAIL no disk"; $b poweroff -f; }
  for d in proc sys dev; do $b mount --move "/$d" "/mnt/$d"; done
  exec $b switch_root /mnt /bin/busybox sh /devices.sh again
fi

export PATH=/bin HOME=/root
finish() {
  echo "$*"
  # Setting a terminal waits for what was written to it: the end of the machine would cut that off.
  stty sane </dev/console
  poweroff -f
  sleep 60
}
for d in tmp run var mnt dev/shm; do mkdir -p /$d; mount -t tmpfs tmpfs /$d || finish "RIG-FAIL no /$d"; done
mkdir -p /var/maps /var/blocks /var/log /run/archipelago /mnt/fs
ip link set lo up

cat >/run/archipelago.conf <<'CONF'
[ARCHIPELAGO]
RUN_DIR = /run/archipelago
LOG_DIR = /var/log
LOG = file
[XSEG]
SEGMENT_NAME = guest
EXPECTED_VOLUMES = 1
[PEERS]
PLACEMENT = blockerb+blockerm+mapperd+vlmcd+nbd
[blockerb]
archip_dir = /var/blocks
[blockerm]
archip_dir = /var/maps
[nbd]
socket = /run/archipelago/nbd.sock
CONF
echo "guest: began after $(cut -d' ' -f1 /proc/uptime) s"
for part in $(echo "${PARTS:-scenes,vlmc}" | tr , ' '); do
  UV_THREADPOOL_SIZE=24 node /devices-$part.mjs /run/archipelago.conf && continue
  cat /var/log/devices.log
  finish "RIG-FAIL $part"
done
finish RIG-OK

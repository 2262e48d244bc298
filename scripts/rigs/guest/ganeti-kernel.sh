#!/bin/busybox sh
# The machine on which Ganeti's node code takes disks as devices of the kernel. First it is /init of the initramfs: it goes over to the disk of node-image.sh,
# with that of ganeti-image.sh at /mnt, where it is called again: it starts a node and takes the steps of a disk's life.
# Prints a line `STEP name: ANSWER` for each and `SEEN name: …` for what the machine shows; RIG-OK as the last line, or RIG-FAIL and what failed.

if [ "$1" != again ]; then
  b=/bin/busybox
  $b mount -t proc proc /proc
  $b mount -t sysfs sys /sys
  $b mount -t devtmpfs dev /dev
  for m in $($b cat /modules/order); do
    options=
    [ "$m" = nbd.ko ] && options='nbds_max=4 max_part=0'
    $b insmod "/modules/$m" $options || echo "guest: cannot load $m"
  done
  disk=/dev/vd
  [ -e ${disk}a ] || disk=/dev/ubd
  { $b mount -t ext4 -o ro ${disk}a /mnt && $b mount -t ext4 -o ro ${disk}b /mnt/mnt; } || { echo "RIG-FAIL no disks"; $b poweroff -f; }
  for d in proc sys dev; do $b mount --move "/$d" "/mnt/$d"; done
  exec $b switch_root /mnt /bin/busybox sh /mnt/ganeti-kernel.sh again
fi

export PATH=/bin HOME=/root
finish() {
  echo "$*"
  # Setting a terminal waits for what was written to it: the end of the machine would cut that off.
  stty sane </dev/console
  poweroff -f
  sleep 60
}
for d in tmp run var dev/shm; do mkdir -p /$d; mount -t tmpfs tmpfs /$d || finish "RIG-FAIL no /$d"; done
mkdir -p /var/maps /var/blocks /var/log /run/archipelago
ip link set lo up
conf=/run/archipelago.conf
cat >$conf <<'CONF'
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
/bin/archipelago -c $conf start >/tmp/start 2>&1 || { cat /tmp/start /var/log/*; finish "RIG-FAIL the node does not start"; }
now() { cut -d' ' -f1 /proc/uptime; }
echo "guest: the node runs after $(now) s"

# The program that the provider's scripts find.
mkdir /tmp/bin /tmp/logs
ln -s /app/dist/cli/ganeti.js /tmp/bin/archipelago-ganeti
mkfifo /tmp/ask /tmp/answers
# The Python of Debian 12 wants its old ciphers, which are a module of OpenSSL.
OPENSSL_MODULES=/mnt/lib/ossl-modules PATH=/bin:/tmp/bin ARCHIPELAGO_CONF=$conf LD_LIBRARY_PATH=/mnt/lib PYTHONHOME=/mnt/usr PYTHONPATH=/mnt/usr/lib/python3/dist-packages \
  /mnt/bin/python3 -B /mnt/ganeti-node.py /mnt /mnt/archipelago /tmp/logs </tmp/ask >/tmp/answers 2>/tmp/python &
exec 3>/tmp/ask 4</tmp/answers

disk=11111111-2222-4333-8444-555555555555.ext.disk0
# step NAME DO [DISK [MORE]]
step() {
  echo "{\"do\": \"$2\", \"disk\": {\"id\": \"${3:-$disk}\", \"size\": ${size:-64}, \"params\": {\"access\": \"kernelspace\"}}${4:-}}" >&3
  read -r answer <&4 || { cat /tmp/python; finish "RIG-FAIL Ganeti's node code ended"; }
  echo "STEP $1: $answer"
  echo "guest: after $(now) s"
}
seen() { echo "SEEN $*"; }
connected() { for d in /sys/block/nbd*; do [ -e "$d/pid" ] && printf '%s ' "${d##*/}"; done; }

step create create
seen size: "$(blockdev --getsize64 /dev/nbd0)"
step again find
step open open $disk ', "exclusive": true'
dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
dd if=/tmp/data of=/dev/nbd0 bs=1M seek=3 conv=fsync 2>/dev/null || finish "RIG-FAIL cannot write to the device"
step grow grow $disk ', "amount": 32, "dryrun": false'
size=96
seen grown: "$(blockdev --getsize64 /dev/nbd0)"
step snapshot snapshot
dd if=/dev/zero of=/dev/nbd0 bs=1M seek=3 count=1 conv=fsync 2>/dev/null
step attached find $disk.snap
seen devices: "$(connected)"
seen snapshot: "$(dd if=/dev/nbd1 bs=1M skip=3 count=4 2>/dev/null | cmp - /tmp/data && echo as it was)"
step dropped remove $disk.snap
exec 5</dev/nbd0
step refused shutdown
exec 5<&-
step detach shutdown
seen left: "$(connected)"
step back find
dd if=/tmp/data of=/tmp/tail bs=1M skip=1 2>/dev/null
seen data: "$(dd if=/dev/nbd0 bs=1M skip=4 count=3 2>/dev/null | cmp - /tmp/tail && echo as it was)"
step remove remove
seen end: "$(connected)"
exec 3>&-
finish RIG-OK

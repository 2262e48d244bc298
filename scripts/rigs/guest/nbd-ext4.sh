#!/bin/busybox sh
# /init of the machine that uses an export as a kernel block device: nbd-client, mkfs, fill, fsck, read back.
# Kernel command line: rig.port= TCP port of the host's 127.0.0.1, rig.export= export name,
# rig.phases= what is done one after the other, as PHASE/MODE,PHASE/MODE…: fill (make and fill the file system) or verify (it was filled before;
# read it only), by netlink or ioctl (how nbd-client hands the socket to the kernel).
# Prints RIG-OK as its last line, or RIG-FAIL and what failed.
. /common.sh

for word in $(cat /proc/cmdline); do
  case $word in
    rig.port=*) port=${word#*=} ;;
    rig.export=*) export_name=${word#*=} ;;
    rig.phases=*) phases=${word#*=} ;;
  esac
done

dev=/dev/nbd0

# attach MODE
attach() {
  how=
  [ "$1" = ioctl ] && how=-nonetlink
  /programs/nbd-client 10.0.2.2 "$port" $dev -N "$export_name" -b 4096 -C 2 $how || fail "nbd-client"
  # In ioctl mode the size appears after nbd-client has gone to the background.
  tries=0
  while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do
    tries=$((tries + 1))
    [ $tries -gt 100 ] && fail "the device has no size"
    usleep 50000
  done
  bytes=$(($(cat /sys/block/nbd0/size) * 512))
  [ "$(blockdev --getsize64 $dev)" = "$bytes" ] || fail "blockdev and sysfs disagree about the size"
  echo "RIG-SIZE $bytes"
  echo "RIG-QUEUE write_cache=$(tr ' ' '-' </sys/block/nbd0/queue/write_cache) fua=$(cat /sys/block/nbd0/queue/fua) discard=$(cat /sys/block/nbd0/queue/discard_max_bytes)"
}

detach() {
  /programs/nbd-client -d $dev || fail "nbd-client -d"
  # By ioctl the nbd-client in the background has to end before the device can be had again.
  tries=0
  while [ -e /sys/block/nbd0/pid ]; do
    tries=$((tries + 1))
    [ $tries -gt 100 ] && fail "the device is still in use"
    usleep 50000
  done
}

fill() {
  /programs/mke2fs -q -t ext4 -F $dev || fail "mke2fs"
  mount -t ext4 -o discard $dev /mnt || fail "mount"
  dd if=/dev/urandom of=/mnt/big bs=1M count=24 2>/dev/null || fail "write big"
  dd if=/dev/urandom of=/tmp/seed bs=64k count=1 2>/dev/null
  for d in 0 1 2 3 4 5 6 7; do
    mkdir /mnt/d$d || fail "mkdir"
    for f in 0 1 2 3 4 5 6 7 8 9; do
      # Lengths that are no multiple of anything.
      dd if=/tmp/seed of=/mnt/d$d/f$f bs=$((d * 997 + f * 131 + 1)) count=$((f + 3)) 2>/dev/null || fail "write d$d/f$f"
    done
  done
  rm -r /mnt/d3
  (cd /mnt && find . -type f ! -name SUMS | sort | xargs sha256sum >SUMS) || fail "sums"
  fstrim /mnt || fail "fstrim"
  umount /mnt || fail "umount"
}

verify() {
  blockdev --flushbufs $dev
  echo 3 >/proc/sys/vm/drop_caches
  /programs/e2fsck -fn $dev || fail "e2fsck found errors"
  mount -t ext4 -o ro $dev /mnt || fail "mount again"
  (cd /mnt && sha256sum -c SUMS >/tmp/check) || { grep -v ': OK$' /tmp/check; fail "a file came back different"; }
  echo "RIG-FILES $(wc -l </mnt/SUMS)"
  echo "RIG-SUMS $(sha256sum </mnt/SUMS | cut -d' ' -f1)"
  umount /mnt || fail "umount"
}

for step in $(echo "$phases" | tr ',' ' '); do
  attach "${step#*/}"
  if [ "${step%/*}" = fill ]; then fill; fi
  verify
  detach
done
errors=$(dmesg | grep -iE 'I/O error|nbd0: (Receive|Send|Unexpected|timed)' | head -n 5)
[ -n "$errors" ] && fail "the kernel complained: $errors"
finish RIG-OK
sleep 60

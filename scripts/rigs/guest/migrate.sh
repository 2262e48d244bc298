#!/bin/busybox sh
# /init of the machine that moves between nodes: four writers on the first virtio disk, each in a quarter of it, that write past the page
# cache, flush now and then, and compare what they read with what they wrote. Prints RIG-TICK with a count as long as it goes. A line on
# the console ends it: everything is read again, then come RIG-DEVICE with the disk's hash and RIG-OK, or RIG-FAIL and what failed.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
stty -echo

finish() {
  echo "$*"
  poweroff -f
  sleep 60
}
fail() {
  dmesg | tail -n 15
  finish "RIG-FAIL $*"
}
for m in $(cat /modules/order); do insmod "/modules/$m" || fail "cannot load $m"; done

disk=/dev/vda
slot=65536
slots=$(($(cat /sys/block/vda/size) * 512 / slot / 4))
dd if=/dev/urandom of=/tmp/data bs=$slot count=32 2>/dev/null || fail "random bytes"
mkdir /tmp/chunk
for n in $(seq 0 31); do dd if=/tmp/data of=/tmp/chunk/$n bs=$slot skip="$n" count=1 2>/dev/null; done

# check FILE : the slot that FILE is named for holds the chunk that FILE names.
check() {
  dd if=$disk bs=$slot skip="${1##*/}" count=1 iflag=direct 2>/dev/null | cmp -s - "/tmp/chunk/$(cat "$1")"
}

# writer N : until /tmp/stop is there.
writer() {
  RANDOM=$(($1 + 1))
  local state=/tmp/writer$1 count=0 at chunk last='' sync
  mkdir "$state"
  while [ ! -e /tmp/stop ]; do
    at=$(($1 * slots + RANDOM % slots))
    chunk=$((RANDOM % 32))
    sync=
    [ $((count % 16)) = 7 ] && sync=,fsync
    dd if=/tmp/chunk/$chunk of=$disk bs=$slot seek=$at count=1 oflag=direct conv=notrunc$sync 2>/tmp/said$1 || {
      cat /tmp/said$1
      echo "write to slot $at" >/tmp/failed
      return
    }
    echo $chunk >"$state/$at"
    # What was written just now, and what was written on another node perhaps.
    for slot_file in "$state/$at" $last; do
      check "$slot_file" || {
        echo "slot ${slot_file##*/} is not what was written" >/tmp/failed
        return
      }
    done
    [ $((count % 4)) = 0 ] && last=$state/$at
    count=$((count + 1))
    [ $((count % 5)) = 0 ] && echo "RIG-TICK $1 $count"
  done
}
for n in 0 1 2 3; do writer $n & done
read -r _
: >/tmp/stop
wait
[ -e /tmp/failed ] && fail "$(cat /tmp/failed)"
total=0
for file in /tmp/writer*/*; do
  check "$file" || fail "at the end slot ${file##*/} is not what was written"
  total=$((total + 1))
done
errors=$(dmesg | grep -iE 'I/O error|blk_update' | head -n 5)
[ -n "$errors" ] && fail "the kernel complained: $errors"
sync
echo "RIG-SLOTS $total"
echo "RIG-DEVICE $(sha256sum <$disk | cut -d' ' -f1)"
finish RIG-OK

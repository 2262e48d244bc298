#!/bin/busybox sh
# /init of an instance of the Ganeti cluster: writes rounds of a pattern across the borders of all blocks of the first virtio disk, past the
# page cache, each round flushed, read back and compared. First it looks at what its last life left. After each round it says
#   RIG-ROUND N low L high H size BYTES
# where L and H are the lowest and the highest round that the disk held when this life began (0: zeros). A line on the console ends it, with
# RIG-OK, or RIG-FAIL and what failed.
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
half=32768
size=$(($(cat /sys/block/vda/size) * 512))
# Place N lies half before and half behind the border of the blocks N - 1 and N.
places=$(seq 1 $((size / 4194304 - 1)))
# fill PLACE ROUND : what belongs there.
fill() { yes "place $1 round $2" | head -c $((2 * half)); }
get() { dd if=$disk of=/tmp/got bs=$half skip=$((128 * $1 - 1)) count=2 iflag=direct 2>/dev/null || fail "cannot read place $1"; }
head -c $half /dev/zero >/tmp/zeros

# Each half is one write, sent when the one before it was answered: a disk that was cut off at any moment holds a round up to some write, and from
# there on the round before.
low= high=0 before=
for place in $places; do
  for part in 0 1; do
    dd if=$disk of=/tmp/got bs=$half skip=$((128 * place - 1 + part)) count=1 iflag=direct 2>/dev/null || fail "cannot read place $place"
    if cmp -s /tmp/got /tmp/zeros; then
      round=0
    else
      round=$(sed -n "2{s/^place $place round \([0-9]*\)\$/\1/p;q}" /tmp/got)
      [ -n "$round" ] || fail "place $place holds $(head -c 60 /tmp/got)"
      fill "$place" "$round" | tail -c +$((1 + part * half)) | head -c $half | cmp -s - /tmp/got ||
        fail "place $place, part $part, holds round $round and something else"
    fi
    [ -z "$before" ] || [ "$round" -le "$before" ] || fail "place $place, part $part, holds round $round, and what was written before it $before"
    before=$round
    if [ -z "$low" ] || [ "$round" -lt "$low" ]; then low=$round; fi
    [ "$round" -gt "$high" ] && high=$round
  done
done
# With every round, as what is said while nobody listens is lost.
found="low $low high $high size $size"
rounds() {
  local round=$high place
  while [ ! -e /tmp/stop ]; do
    round=$((round + 1))
    for place in $places; do
      fill "$place" "$round" >/tmp/put$place
      dd if=/tmp/put$place of=$disk bs=$half seek=$((128 * place - 1)) oflag=direct conv=notrunc 2>/tmp/said || fail "$(cat /tmp/said)"
    done
    dd if=/dev/null of=$disk bs=$half count=0 conv=notrunc,fsync 2>/tmp/said || fail "$(cat /tmp/said)"
    for place in $places; do
      get "$place"
      cmp -s /tmp/put$place /tmp/got || fail "place $place is not of round $round, but $(head -n 1 /tmp/got)"
    done
    echo "RIG-ROUND $round $found"
  done
}
rounds &
read -r _
: >/tmp/stop
wait
errors=$(dmesg | grep -iE 'I/O error|blk_update' | head -n 5)
[ -n "$errors" ] && fail "the kernel complained: $errors"
finish RIG-OK

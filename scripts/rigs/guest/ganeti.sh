#!/bin/busybox sh
# /init of an instance of the Ganeti cluster: writes rounds of a pattern across the borders of all blocks of the first virtio disk, past the
# page cache, each round flushed, read back and compared. First it looks at what its last life left. After each round it says
#   RIG-ROUND N low L high H size BYTES
# where L and H are the lowest and the highest round that the disk held when this life began (0: zeros). A line on the console ends it, with
# RIG-OK. RIG-FAIL and what failed is said every second from then on, and the machine stays as it is, so that whoever comes to listen hears it;
# before it RIG-SICK, when the machine's own kernel or programs failed.
# Between rounds it says RIG-ALIVE and what it does: a machine that says only that waits for its disk, one that says nothing does not run.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
stty -echo

fail() {
  local up
  read -r up _ </proc/uptime
  : >/tmp/failed
  while :; do
    dmesg | tail -n 15
    # Nothing that a disk says can make these.
    dmesg | grep -E 'BUG|Oops|general protection|segfault|traps:|Out of memory' | head -n 5 | sed 's/^/RIG-SICK /'
    echo "RIG-FAIL at $up s: $*"
    sleep 1
  done
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
# bytes FILE OFFSET : some of what it holds there.
bytes() { dd if="$1" bs=1 skip="$2" count=32 2>/dev/null | hexdump -v -e '1/1 "%02x"'; }
# wrong PLACE ROUND EXPECTED : /tmp/got, which was read from a place, is not the file EXPECTED. Says where, what is there, and what a second reading gives.
wrong() {
  local at other
  at=$(($(cmp -l "$3" /tmp/got | head -n 1 | sed 's/^ *\([0-9]*\).*/\1/') - 1))
  other="place $1 (bytes from $(((128 * $1 - 1) * half))) is not of round $2: from byte $at of it expected $(bytes "$3" $at), got $(bytes /tmp/got $at),"
  other="$other $(cmp -l "$3" /tmp/got | wc -l) bytes differ, the halves begin $(head -c 40 /tmp/got | head -n 1) / $(tail -c $half /tmp/got | head -n 2 | tail -n 1);"
  get "$1"
  if cmp -s "$3" /tmp/got; then fail "$other read again it is right"; fi
  fail "$other read again it has $(bytes /tmp/got $at) there"
}

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
        fail "place $place, part $part, holds round $round and something else: $(hexdump -C /tmp/got | head -n 20)"
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
      cmp -s /tmp/put$place /tmp/got
      case $? in
        0) ;;
        1) wrong "$place" "$round" /tmp/put$place ;;
        *) fail "cmp did not compare place $place" ;;
      esac
    done
    echo "RIG-ROUND $round $found"
    echo $round >/tmp/round
  done
}
# What the machine does, every few seconds; with what its processes wait for when no round ended since.
alive() {
  local before='' now
  while [ ! -e /tmp/failed ]; do
    sleep 5
    now=$(cat /tmp/round 2>/dev/null)
    echo "RIG-ALIVE $(cut -d' ' -f1 /proc/uptime) s, round $now, requests in flight $(cat /sys/block/vda/inflight), $(cat /sys/block/vda/stat)"
    if [ "$now" = "$before" ]; then
      for name in /proc/[0-9]*; do
        case $(cat $name/comm 2>/dev/null) in
          init | dd | cmp | yes | head) echo "RIG-ALIVE $(tr '\0' ' ' <$name/cmdline): $(cut -d' ' -f3 $name/stat) $(cat $name/wchan) $(head -n 3 $name/stack | tr '\n' ' ')" ;;
        esac
      done
    fi
    before=$now
  done
}
rounds &
rounds=$!
alive &
read -r _
: >/tmp/stop
wait $rounds
errors=$(dmesg | grep -iE 'I/O error|blk_update' | head -n 5)
[ -n "$errors" ] && fail "the kernel complained: $errors"
echo RIG-OK
poweroff -f

#!/bin/busybox sh
# /init of the machine whose server is killed: nbd-client -persist, and blocks that are written durably one after another, tried again when
# the device fails, then read back.
# Kernel command line: rig.port= TCP port of the host's 127.0.0.1, rig.export= export name, rig.kills= how often the host is asked to kill.
# Prints RIG-KILL n when it is time to kill, and RIG-OK as its last line, or RIG-FAIL and what failed.
. /common.sh

for word in $(cat /proc/cmdline); do
  case $word in
    rig.port=*) port=${word#*=} ;;
    rig.export=*) export_name=${word#*=} ;;
    rig.kills=*) kills=${word#*=} ;;
  esac
done

dev=/dev/nbd0
# With this kernel NBD_DO_IT returns 0 when the server is gone, which nbd-client takes for the end in spite of -persist: who starts it again is
# this loop, as an init system would.
client() {
  until [ -e /tmp/stop ]; do
    /programs/nbd-client 10.0.2.2 "$port" $dev -N "$export_name" -b 4096 -nonetlink -persist -nofork
    echo "ended with $?"
    usleep 100000
  done >/tmp/client 2>&1
}
client &
tries=0
while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do
  tries=$((tries + 1))
  [ $tries -gt 100 ] && fail "the device has no size"
  usleep 50000
done

# What block n holds: its number again and again.
pattern() { yes "block $1 of the volume" | head -c 65536; }

# put N: writes block n and has it flushed, as often as it takes.
errors=0
put() {
  pattern "$1" >/tmp/block
  attempt=0
  until dd if=/tmp/block of=$dev bs=65536 seek="$1" count=1 conv=notrunc,fsync 2>/tmp/said; do
    attempt=$((attempt + 1))
    [ $attempt -gt 300 ] && fail "block $1: $(cat /tmp/said)"
    usleep 100000
  done
  errors=$((errors + attempt))
}

blocks=$(((kills + 1) * 15))
n=0
while [ $n -lt $blocks ]; do
  [ $n -gt 0 ] && [ $((n % 15)) = 0 ] && echo "RIG-KILL $((n / 15))"
  put $n
  n=$((n + 1))
done
echo "RIG-ERRORS $errors"
sed 's/^/RIG-CLIENT /' /tmp/client

blockdev --flushbufs $dev
echo 3 >/proc/sys/vm/drop_caches
n=0
while [ $n -lt $blocks ]; do
  pattern $n >/tmp/block
  dd if=$dev bs=65536 skip=$n count=1 2>/dev/null | cmp - /tmp/block || fail "block $n came back different"
  n=$((n + 1))
done
echo "RIG-BLOCKS $blocks"
finish RIG-OK
sleep 60

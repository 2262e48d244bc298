#!/bin/busybox sh
# /init of the machine that uses an export as a kernel block device over TLS: nbd-client, write, flush, read back, detach.
# Kernel command line: rig.port= TCP port of the host's 127.0.0.1, rig.export= export name.
# The first virtio disk is a tar archive of ca-cert.pem, client-cert.pem and client-key.pem.
# Prints RIG-OK as its last line, or RIG-FAIL and what failed.
. /common.sh

for word in $(cat /proc/cmdline); do
  case $word in
    rig.port=*) port=${word#*=} ;;
    rig.export=*) export_name=${word#*=} ;;
  esac
done
mkdir /tmp/pki
tar -x -f /dev/vda -C /tmp/pki || fail "no certificates"

dev=/dev/nbd0
attach() { /programs/nbd-client 10.0.2.2 "$port" $dev -N "$export_name" -b 4096 "$@"; }
attach && fail "attached in plaintext"
[ "$(cat /sys/block/nbd0/size)" = 0 ] || fail "has a size in plaintext"
echo RIG-PLAINTEXT refused
attach -C 2 -enable-tls -tlshostname localhost -cacertfile /tmp/pki/ca-cert.pem \
  -certfile /tmp/pki/client-cert.pem -keyfile /tmp/pki/client-key.pem || fail "nbd-client"
echo "RIG-SIZE $(($(cat /sys/block/nbd0/size) * 512))"

# 12 MiB past the page cache in requests of 1 MiB, then 3 MiB and a bit through it, both flushed.
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null || fail "random bytes"
dd if=/tmp/data of=$dev bs=1M count=12 seek=4 oflag=direct conv=notrunc,fsync 2>/dev/null || fail "write"
dd if=/tmp/data of=$dev bs=4093 count=800 skip=3000 seek=6000 conv=notrunc,fsync 2>/dev/null || fail "buffered write"
dd if=$dev of=/tmp/first bs=1M count=12 skip=4 iflag=direct 2>/dev/null || fail "read"
echo 3 >/proc/sys/vm/drop_caches
dd if=/tmp/data bs=4093 count=800 skip=3000 2>/dev/null | sha256sum >/tmp/expected
dd if=$dev bs=4093 count=800 skip=6000 2>/dev/null | sha256sum | cmp - /tmp/expected || fail "buffered bytes came back different"
head -c 12582912 /tmp/data | cmp - /tmp/first || fail "bytes came back different"
echo "RIG-DIRECT $(sha256sum </tmp/first | cut -d' ' -f1)"
echo "RIG-BUFFERED $(cut -d' ' -f1 /tmp/expected)"
echo "RIG-DEVICE $(sha256sum <$dev | cut -d' ' -f1)"
/programs/nbd-client -d $dev || fail "nbd-client -d"
tries=0
while [ "$(cat /sys/block/nbd0/size)" != 0 ] && [ -e /sys/block/nbd0/pid ]; do
  tries=$((tries + 1))
  [ $tries -gt 100 ] && fail "still attached"
  usleep 50000
done
errors=$(dmesg | grep -iE 'I/O error|nbd0: (Receive|Send|Unexpected|timed)' | head -n 5)
[ -n "$errors" ] && fail "the kernel complained: $errors"
finish RIG-OK
sleep 60

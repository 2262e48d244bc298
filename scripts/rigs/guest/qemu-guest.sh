#!/bin/busybox sh
# /init of the machine of docs/qemu.md: an ext4 on the first virtio disk, mounted on /srv; the guest agent; a writer that can be started. What comes on the
# console is run as shell, a line at a time, and answered by "RIG-DONE status".
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
stty -echo

fail() {
  dmesg | tail -n 30
  echo "RIG-FAIL $*"
}
for m in $(cat /modules/order); do insmod "/modules/$m" || fail "cannot load $m"; done
mkdir -p /srv /run
mount -t ext4 /dev/vda /srv || fail "mount"
/programs/qemu-ga -d -m virtio-serial -p /dev/vport*p1 -t /tmp -f /tmp/agent.pid -l /tmp/agent.log || fail "agent"

# The shell prefers its own applets to names in PATH, and has none of this one.
resize2fs() { /programs/resize2fs "$@"; }

# What file n holds.
content() { yes "file $1 of the guest" | head -c $(($1 * 7919 % 60000 + 1)); }

# Writes one file after the other, each durably, and compares the one before past the page cache, until /tmp/stop is there.
# RIG-FILE n: file n is durable.
writer() {
  n=0
  mkdir /srv/written || fail "mkdir"
  while [ ! -e /tmp/stop ]; do
    content $n | dd of=/srv/written/$n bs=64k conv=fsync 2>/tmp/said || {
      fail "write of file $n: $(cat /tmp/said)"
      return
    }
    echo "RIG-FILE $n"
    if [ $n -gt 0 ]; then
      content $((n - 1)) >/tmp/expected
      dd if=/srv/written/$((n - 1)) bs=64k iflag=direct >/tmp/got 2>/dev/null
      cmp -s /tmp/got /tmp/expected || {
        fail "file $((n - 1)) is not what was written: $(cmp -l /tmp/got /tmp/expected 2>&1 | head -n 20 | tr '\n' ','), $(wc -c </tmp/got) bytes"
        return
      }
    fi
    n=$((n + 1))
  done
  echo RIG-STOPPED
}

# Waits until something is there, or is so; a minute at most.
await() {
  tries=0
  until eval "$1" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -gt 600 ] && return 1
    usleep 100000
  done
}

complaints() { dmesg | grep -iE 'I/O error|blk_update|EXT4-fs (error|warning)|JBD2'; }

echo RIG-READY
while read -r line; do
  eval "$line"
  # What it said may end within a line.
  printf '\nRIG-DONE %s\n' $?
done

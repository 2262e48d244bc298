# What the machines that use an export through the kernel begin with (sourced by /init): file systems, modules, the network, and how
# to end: finish or fail, with the line that the host waits for.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp

finish() {
  echo "$*"
  sync
  poweroff -f
}
fail() {
  dmesg | tail -n 15
  finish "RIG-FAIL $*"
  sleep 60
}

for m in $(cat /modules/order); do
  case $m in nbd.ko) options='nbds_max=2 max_part=0' ;; *) options= ;; esac
  insmod "/modules/$m" $options || fail "cannot load $m"
done
ip link set lo up
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 || fail "no network"

#!/usr/bin/env bash
# A throw-away Ganeti 3.0 cluster of two nodes in namespaces of their own, each with a node of this project on one shared directory.
#   ganeti-cluster.sh start DIR             both nodes, cluster.gnt.test with node1 and node2, hypervisor kvm by qemu's emulator
#   ganeti-cluster.sh run DIR N COMMAND...  runs a command on node N (1 or 2)
#   ganeti-cluster.sh stop DIR              ends everything that runs in the namespaces; what is below DIR stays
# Needs root: mount, network, process, host name and IPC namespaces. Nothing of the host is changed; DIR/shared is /srv/shared on both nodes,
# DIR/node1 and DIR/node2 are empty mount points for the host. ARCHIPELAGO_PACKAGE: the tree with dist, node_modules and scripts that the
# nodes run (default: this one). ARCHIPELAGO_GANETI_BOOT="VMLINUZ INITRAMFS": what instances boot.
set -euo pipefail
. "$(dirname "$0")/common.sh"
package=$(realpath "${ARCHIPELAGO_PACKAGE:-$rigs/../..}")

fail() { echo "ganeti-cluster.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "needs root, for the namespaces of the nodes"

# The process that is process 1 of node N, as the host numbers it; nothing when the node does not run.
init_of() {
  local pid
  pid=$(cat "$dir/node$1.pid" 2>/dev/null) || return 0
  # Whoever has the number now must be the one that was started on this directory.
  grep -qF "node$1 of $dir/" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid" || true
}

run() {
  local pid
  pid=$(init_of "$1")
  [ -n "$pid" ] || fail "node $1 of $dir does not run"
  shift
  nsenter -t "$pid" -m -u -i -n -p -r -w /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

start_node() { # N TREE
  local n=$1 tree=$2 _
  mkdir -p "$dir/node$n"
  rm -f "$dir/node$n.pid"
  setsid unshare -m -u -i -n -p --fork --kill-child --propagation private \
    bash "$rigs/ganeti-node-init.sh" "$n" "$tree" "$dir" "$package" "$(command -v node)" \
    </dev/null >"$dir/node$n.log" 2>&1 &
  for _ in $(seq 200); do
    [ -e "$dir/node$n.pid" ] && return
    kill -0 $! 2>/dev/null || break
    sleep 0.05
  done
  cat "$dir/node$n.log" >&2
  fail "node $n did not start"
}

stop_nodes() {
  local n pid _
  for n in 1 2; do
    pid=$(init_of "$n")
    [ -n "$pid" ] || continue
    # With process 1 of a namespace the kernel ends all of its processes.
    kill -9 "$pid"
    for _ in $(seq 200); do [ -n "$(init_of "$n")" ] || break; sleep 0.05; done
    rm -f "$dir/node$n.pid"
  done
}

start_cluster() {
  local n boot tree
  tree=$("$rigs/ganeti-tree.sh")
  [ -x "$package/dist/cli/archipelago.js" ] || fail "$package is not compiled: npm run build"
  mkdir -p "$dir"/{shared/maps,shared/blocks,shared/memory,kvm,ssh}
  read -ra boot <<<"${ARCHIPELAGO_GANETI_BOOT:-}"
  if [ ${#boot[@]} = 2 ]; then cp -- "${boot[0]}" "$dir/kvm/vmlinuz" && cp -- "${boot[1]}" "$dir/kvm/initrd"; fi
  [ -e "$dir/ssh/id_rsa" ] || ssh-keygen -q -t rsa -b 2048 -N '' -f "$dir/ssh/id_rsa"
  trap 'stop_nodes' EXIT
  start_node 1 "$tree"
  start_node 2 "$tree"
  # Bridges, as a node keeps its addresses when the other one is cut off.
  for n in 1 2; do
    run "$n" ip link add gnt0 type bridge
    run "$n" ip addr add "192.168.77.$n/24" dev gnt0
    run "$n" ip link set gnt0 up
  done
  run 1 ip link add cable type veth peer name peer
  nsenter -t "$(init_of 1)" -n ip link set peer netns "$(init_of 2)" name cable
  for n in 1 2; do run "$n" ip link set cable master gnt0 up; done
  for n in 1 2; do run "$n" archipelago start >&2; done
  run 1 gnt-cluster init --no-ssh-init --no-etc-hosts --master-netdev=gnt0 --enabled-hypervisors=kvm \
    --enabled-disk-templates=ext,diskless --nic-parameters=mode=routed,link=100 \
    --ipolicy-bounds-specs=min:cpu-count=1,disk-count=0,disk-size=1,memory-size=1,nic-count=0,spindle-use=1/max:cpu-count=8,disk-count=16,disk-size=1048576,memory-size=8192,nic-count=8,spindle-use=12 \
    --hypervisor-parameters=kvm:kvm_path=/usr/bin/qemu-system-x86_64,kvm_flag=disabled,kernel_path=/srv/kvm/vmlinuz,initrd_path=/srv/kvm/initrd,kernel_args='console=ttyS0 panic=-1 quiet',root_path=/dev/vda,security_model=none,serial_console=true,disk_type=paravirtual,vnc_bind_address=,migration_caps=x-ignore-shared \
    cluster.gnt.test >&2
  run 1 gnt-node add --no-ssh-key-check node2.gnt.test </dev/null >&2
  trap - EXIT
}

command=${1:-}
[ $# = 0 ] || shift
[ $# -ge 1 ] || { sed -n 2,5p "$0" >&2; exit 2; }
dir=$(realpath -m "$1")
shift
case $command in
  start) start_cluster ;;
  run) run "$@" ;;
  stop) stop_nodes ;;
  *) sed -n 2,5p "$0" >&2; exit 2 ;;
esac

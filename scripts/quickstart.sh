#!/usr/bin/env bash
# npm run quickstart: a node in this directory. Installs the npm packages and compiles when needed, writes var/archipelago.conf,
# starts the node, creates a volume when there is none, prints how to reach it, and stops the node on Ctrl-C.
# The volumes stay in var/ and are there again the next time. Needs no root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/build-if-needed.sh
ensure_node
ensure_packages
ensure_build

volume=demo-volume
# Another directory for another node.
var=${ARCHIPELAGO_QUICKSTART_DIR:-$PWD/var}
conf=$var/archipelago.conf
mkdir -p "$var"/{maps,blocks,run,log}

# A unix socket's path has a limit of 107 bytes, and a checkout can be deep.
run=$var/run
if [ ${#run} -gt 90 ]; then run=$(mktemp -d "${TMPDIR:-/tmp}/archipelago.XXXXXX"); fi

archipelago() { node dist/cli/archipelago.js -c "$conf" "$@"; }
vlmc() { node dist/cli/vlmc.js -c "$conf" "$@"; }

if [ -e "$conf" ] && archipelago status >/dev/null 2>&1; then
  echo "A node of this directory is running already (node dist/cli/archipelago.js -c $conf stop ends it):"
  vlmc map "$volume"
  exit 0
fi

# 10809 is the port that clients try by themselves; somebody else may have it.
free_port() {
  node -e '
    const net = require("node:net");
    const listen = (port, next) => {
      const s = net.createServer().on("error", next);
      s.listen(port, "127.0.0.1", () => { const { port } = s.address(); s.close(() => console.log(port)); });
    };
    listen(10809, () => listen(0, (e) => { console.error(e.message); process.exit(1); }));'
}
port=$(free_port)
if [ "$port" != 10809 ]; then echo "Port 10809 is taken, the node listens on $port instead."; fi

# The segment is shared memory; a container may have little of it. Pages count only once they are used.
shm_mib=$(df --output=avail -m /dev/shm | tail -n 1 | tr -d ' ')
segment_mib=512 volumes=4
if [ "$shm_mib" -lt 512 ]; then segment_mib=$((shm_mib * 3 / 4)) volumes=0; fi

cat >"$conf" <<CONF
# Written by npm run quickstart, every time. docs/configuration.md explains every setting.
[ARCHIPELAGO]
USER = $(id -un)
GROUP = $(id -gn)
RUN_DIR = $run
LOG_DIR = $var/log
LOG = file

[XSEG]
SEGMENT_NAME = quickstart-$(printf %s "$var" | cksum | cut -d' ' -f1)
SEGMENT_SIZE = $segment_mib
EXPECTED_VOLUMES = $volumes

[blockerb]
archip_dir = $var/blocks

[blockerm]
archip_dir = $var/maps

[nbd]
socket = $run/nbd.sock
listen = 127.0.0.1:$port
CONF

stopping=
stop() {
  [ -n "$stopping" ] && return
  stopping=1
  # A second Ctrl-C must not cut the flush short.
  trap '' INT TERM HUP
  echo
  archipelago stop -f || echo "The node did not stop as it should; its log is in $var/log" >&2
  if [ "$run" != "$var/run" ]; then rm -rf -- "$run"; fi
}
trap stop EXIT
trap 'exit 0' INT
trap 'exit 0' TERM HUP

archipelago start
vlmc info "$volume" >/dev/null 2>&1 || vlmc create "$volume" --size 1G

uri="nbd+unix:///$volume?socket=$run/nbd.sock"
cat <<TEXT

The volume $volume (1 GiB) is served as
  $uri
  nbd://127.0.0.1:$port/$volume

A machine with it as its disk:
  qemu-system-x86_64 -m 1024 -drive 'file=$uri,format=raw,if=virtio,discard=unmap'

Copy an image to it and back:
  nbdcopy disk.img '$uri'
  nbdcopy '$uri' copy.img

More volumes, snapshots, clones (in another terminal):
  node dist/cli/vlmc.js -c $conf --help

Ctrl-C stops the node; the data stays in $var.
TEXT

# The node runs by itself: wait here for a signal. wait returns at once when one arrives, a sleeping child would delay it.
while true; do
  sleep 86400 &
  waiter=$!
  trap 'kill $waiter 2>/dev/null; exit 0' INT
  trap 'kill $waiter 2>/dev/null; exit 0' TERM HUP
  wait "$waiter" || true
done

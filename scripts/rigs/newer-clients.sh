#!/usr/bin/env bash
# Builds a tree of Debian 13 with the NBD programs of that release: libnbd 1.22, nbdkit 1.42, qemu 10. They know what those of
# Debian 12 do not: extended headers, 64-bit extents, block status with a payload. They are run in it by chroot, so that nothing
# of theirs reaches this system. Needs root or password-less sudo for the package scripts. Nothing is mounted.
# Prints the tree's path. Cached until this script changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
  sudo -n true 2>/dev/null || { echo "newer-clients.sh: needs root or password-less sudo" >&2; exit 1; }
fi

make_tree() {
  "${as_root[@]}" mmdebstrap --quiet --mode=root --variant=essential \
    --include=libnbd-bin,python3-libnbd,nbdkit,qemu-utils trixie "$1/root"
}
name=debian-13-clients-$(fingerprint "$0")
build_once "$cache/$name" make_tree
echo "$cache/$name/root"

#!/usr/bin/env bash
# Builds the root file system of the nodes of ganeti-cluster.sh: Debian 12 with Ganeti 3.0, qemu and sshd (460 MB). Needs root for the package
# scripts. Nothing is mounted, nothing runs. Prints its path. Cached until this script changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"
[ "$(id -u)" = 0 ] || { echo "ganeti-tree.sh: needs root" >&2; exit 1; }

make_tree() {
  # What is built here is moved to its place when it is whole: nothing need be on the disk before.
  mmdebstrap --quiet --mode=root --variant=minbase --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
    --include=ganeti,openssh-server,openssh-client,qemu-system-x86,qemu-utils,iproute2,iputils-ping,procps,socat,libstdc++6 \
    --customize-hook='chroot "$1" useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin archipelago' \
    bookworm "$1/root"
  rm -rf "$1/root/var/cache/apt/archives"
}
name=ganeti-nodes-$(fingerprint "$0")
build_once "$cache/$name" make_tree
echo "$cache/$name/root"

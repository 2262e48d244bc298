#!/usr/bin/env bash
# Fetches qemu's guest agent as a package and unpacks it; nothing is installed. Its libraries are those of this system, which qemu needs as well.
# Prints the path of the program, for initramfs.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"

version=$(apt-cache policy qemu-guest-agent | sed -n 's/^ *Candidate: //p')
case $version in '' | '(none)') echo "guest-agent.sh: apt knows no qemu-guest-agent; run apt-get update" >&2; exit 1 ;; esac

fetch() {
  cd "$1"
  apt-get download "qemu-guest-agent=$version"
  dpkg -x qemu-guest-agent_*.deb .
  cp usr/sbin/qemu-ga .
  rm -rf qemu-guest-agent_*.deb usr etc lib var
  if ldd qemu-ga | grep 'not found'; then echo "guest-agent.sh: these libraries are missing" >&2; return 1; fi
}
target=$cache/guest-agent-${version//[:\/~+]/-}-$(fingerprint "$0")
build_once "$target" fetch
echo "$target/qemu-ga"

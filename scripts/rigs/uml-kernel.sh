#!/usr/bin/env bash
# Fetches Debian's User-mode Linux (a kernel that is a program of this machine: it needs neither KVM nor root) as a package and unpacks it; nothing is installed.
# Prints the directory that holds the kernel as `vmlinuz` and `lib/modules/<version>`.
set -euo pipefail
. "$(dirname "$0")/common.sh"

version=$(apt-cache policy user-mode-linux 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)$/\1/p')
[ -n "$version" ] || { echo "uml-kernel.sh: apt knows no user-mode-linux; run apt-get update" >&2; exit 1; }

fetch() {
  cd "$1"
  # The sandbox user of apt cannot write here; it then downloads as the caller and warns, which is fine.
  apt-get download user-mode-linux
  dpkg -x user-mode-linux_*.deb .
  rm -- user-mode-linux_*.deb
  mkdir lib
  mv usr/lib/uml/modules lib/modules
  mv usr/bin/linux.uml vmlinuz
  rm -rf usr etc
  depmod -b . "$(ls lib/modules)"
}
build_once "$cache/user-mode-linux-$version" fetch
echo "$cache/user-mode-linux-$version"

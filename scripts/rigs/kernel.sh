#!/usr/bin/env bash
# Fetches a Debian kernel (nbd, virtio and ext4 included) as a package and unpacks it; nothing is installed.
# Prints the directory that holds `vmlinuz` and `lib/modules/<version>`.
set -euo pipefail
. "$(dirname "$0")/common.sh"

meta=linux-image-cloud-amd64
package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "kernel.sh: apt knows no $meta; run apt-get update" >&2; exit 1; }

fetch() {
  cd "$1"
  # The sandbox user of apt cannot write here; it then downloads as the caller and warns, which is fine.
  apt-get download "$package"
  dpkg -x "$package"_*.deb .
  rm -- "$package"_*.deb
  mv boot/vmlinuz-* vmlinuz
  rm -rf boot usr
  depmod -b . "$(ls lib/modules)"
}
build_once "$cache/$package" fetch
echo "$cache/$package"

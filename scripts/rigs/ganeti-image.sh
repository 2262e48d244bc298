#!/usr/bin/env bash
# ganeti-image.sh : a disk image with the system's Python, Ganeti's node code, the provider and what drives them, for a machine that has a node
# on its first disk (node-image.sh). Everything is below /mnt there. Prints its path. Needs no root; nothing is mounted.
set -euo pipefail
. "$(dirname "$0")/common.sh"
ganeti=$("$rigs/ganeti.sh")
provider=$rigs/../ganeti-ext/archipelago
python=$(readlink -f /usr/bin/python3)
library=/usr/lib/${python##*/}
packages=/usr/lib/python3/dist-packages

fill() {
  local root=$1/root file needed
  mkdir -p "$root"/{bin,lib,usr/lib/python3}
  cp "$python" "$root/bin/python3"
  cp -r "$library" "$root/usr/lib/"
  rm -rf "$root$library"/{test,idlelib,ensurepip,lib2to3,pydoc_data} "$root$library"/config-*
  mkdir "$root$packages"
  # cryptography and its binding to C are what OpenSSL is made of.
  for file in OpenSSL cryptography _cffi_backend* bitarray simplejson pyparsing*; do
    cp -r "$packages"/$file "$root$packages/"
  done
  for needed in $(find "$root" \( -name '*.so' -o -name python3 \) -exec ldd {} + 2>/dev/null | grep -o '/[^ ]*[^: ]' | sort -u); do
    case $needed in "$root"*) ;; *) cp -nL "$needed" "$root/lib/" ;; esac
  done
  cp -r "$ganeti/ganeti" "$root/ganeti"
  cp -r "$(dirname "$(ldconfig -p | sed -n 's/^.*libcrypto.so.3 .* => //p' | head -n 1)")/ossl-modules" "$root/lib/"
  find "$root" -name __pycache__ -prune -exec rm -rf {} +
  cp -r "$provider" "$root/archipelago"
  cp "$rigs/ganeti-node.py" "$rigs/guest/ganeti-kernel.sh" "$root/"
  # Compiled here: a machine without hardware support takes ten times as long.
  "$python" -m compileall -q -s "$root" -p /mnt "$root/ganeti" "$root$library" "$root$packages" >/dev/null || true
  mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$1/image" "$(($(du -sm "$root" | cut -f1) + 32))M"
  rm -rf "$root"
}
name=ganeti-image-$(fingerprint "$0" "$rigs/ganeti-node.py" "$rigs/guest/ganeti-kernel.sh" "$provider"/*)
build_once "$cache/$name" fill
echo "$cache/$name/image"

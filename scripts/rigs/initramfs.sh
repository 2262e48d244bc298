#!/usr/bin/env bash
# initramfs.sh INIT MODULES [PROGRAM...] : builds an initramfs whose /init is the script INIT (common.sh beside it is /common.sh), with the kernel modules named
# (and what they need, in loading order in /modules/order), a static busybox, and the programs with their libraries.
# They are in /programs: the busybox shell prefers its own applets to names in PATH. Prints "VMLINUZ INITRAMFS".
# ARCHIPELAGO_TEST_KERNEL = kernel.sh | uml-kernel.sh: whose kernel.
set -euo pipefail
. "$(dirname "$0")/common.sh"
init=$1 modules=$2
common=$(dirname "$1")/common.sh
shift 2
programs=("$@")
kernel=$("$rigs/${ARCHIPELAGO_TEST_KERNEL:-kernel.sh}")
version=$(ls "$kernel/lib/modules")

fill() {
  local root=$1/root module file program library
  mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,mnt,etc,modules,programs}
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp "$init" "$root/init"
  cp "$common" "$root/common.sh"
  chmod 755 "$root/init"
  [ -e /etc/mke2fs.conf ] && cp /etc/mke2fs.conf "$root/etc/"
  : >"$root/etc/mtab"
  for module in $modules; do
    modprobe -C /dev/null -d "$kernel" -S "$version" --show-depends "$module" | while read -r verb file _; do
      [ "$verb" = insmod ] || continue
      [ -e "$root/modules/${file##*/}" ] && continue
      cp "$file" "$root/modules/"
      echo "${file##*/}" >>"$root/modules/order"
    done
  done
  for program in "${programs[@]}"; do
    cp -L "$(command -v "$program")" "$root/programs/${program##*/}"
    for library in $(ldd "$(command -v "$program")" | grep -o '/[^ ]*'); do
      mkdir -p "$root${library%/*}"
      cp -L "$library" "$root$library"
    done
  done
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1 >../initramfs.gz)
  rm -rf "$root"
}

name=initramfs-$version-$(basename "$init" .sh)-$({ cat "$init" "$common" "$0"; echo "$modules ${programs[*]}"; } | sha256sum | cut -c1-12)
build_once "$cache/$name" fill
echo "$kernel/vmlinuz $cache/$name/initramfs.gz"

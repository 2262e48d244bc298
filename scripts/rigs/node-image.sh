#!/usr/bin/env bash
# node-image.sh TARGET PROGRAM... : a disk image for a machine that runs a node: Node.js, what was compiled of this package and what it needs, the programs named with
# their libraries, a busybox, and the scripts of guest/. ext4 without a partition table, to be mounted read-only. Not cached: dist changes.
# ARCHIPELAGO_TEST_BIN says where the tools are, if not in dist/cli. Needs no root; nothing is mounted.
set -euo pipefail
. "$(dirname "$0")/common.sh"
target=$1
shift
package=$(cd "$rigs/../.." && pwd)
compiled=$(cd "${ARCHIPELAGO_TEST_BIN:-$package/dist/cli}/.." && pwd)

work=$(mktemp -d "$cache/node-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,mnt,var,etc,root,app/node_modules}

# with_libraries FILE... : the libraries that programs or modules need, where they look for them.
with_libraries() {
  local library
  for library in $(ldd "$@" 2>/dev/null | grep -o '/[^ ]*[^: ]' | sort -u); do
    [ -e "$root$library" ] && continue
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
}

cp "$(command -v busybox)" "$root/bin/busybox"
"$root/bin/busybox" --list | while read -r applet; do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
for program in node "$@"; do
  file=$(command -v "$program")
  [ "$program" = node ] && file=$(node -p process.execPath)
  rm -f "$root/bin/$program"
  cp -L "$file" "$root/bin/$program"
  with_libraries "$file"
done

cp -r "$compiled" "$root/app/dist"
find "$root/app/dist" -name '*.map' -delete
cp "$package/package.json" "$root/app/"
modules=$(cd "$package" && npm ls --omit=dev --all --parseable 2>/dev/null | sed -n 's,^.*/node_modules/,,p' | sort -u)
for module in $modules; do
  mkdir -p "$root/app/node_modules/$(dirname "$module")"
  cp -rL "$package/node_modules/$module" "$root/app/node_modules/$module"
done
find "$root/app/node_modules" -name '*.node' | while read -r native; do with_libraries "$native"; done
for tool in archipelago vlmc; do ln -s "/app/dist/cli/$tool.js" "$root/bin/$tool"; done
cp "$rigs"/guest/devices* "$root/"

[ -e /etc/mke2fs.conf ] && cp /etc/mke2fs.conf "$root/etc/"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
ln -s /proc/mounts "$root/etc/mtab"
mkdir -p "$root/usr/bin" && ln -s /bin/busybox "$root/usr/bin/env"
size=$(($(du -sm "$root" | cut -f1) + 32))
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$work/image" "${size}M"
mv "$work/image" "$target"

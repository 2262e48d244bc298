#!/usr/bin/env bash
# Builds a small Debian 12 with systemd and a root shell on its serial console, from packages, as an ext4 disk image
# without a partition table (2 GiB, sparse). Needs root or password-less sudo for the package scripts; nothing is mounted.
# Prints the image's path. Cached until this script changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
  sudo -n true 2>/dev/null || { echo "debian-image.sh: needs root or password-less sudo" >&2; exit 1; }
fi

make_image() {
  local work=$1 root=$1/root
  "${as_root[@]}" mmdebstrap --quiet --mode=root --variant=essential \
    --include=systemd-sysv,udev,login,apt,e2fsprogs bookworm "$root"
  "${as_root[@]}" tee "$root/etc/fstab" >/dev/null <<<'/dev/vda / ext4 defaults 0 1'
  "${as_root[@]}" tee "$root/etc/hostname" >/dev/null <<<archipelago-guest
  "${as_root[@]}" mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
  "${as_root[@]}" tee "$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" >/dev/null <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear %I 115200 dumb
UNIT
  # Fixed seeds: the same packages give the same file system.
  "${as_root[@]}" env SOURCE_DATE_EPOCH=0 mke2fs -q -t ext4 -L archipelago -U 61726368-6970-656c-6167-6f0000000001 \
    -E hash_seed=61726368-6970-656c-6167-6f0000000002,root_owner=0:0 -d "$root" "$work/disk.img" 2G
  "${as_root[@]}" rm -rf "$root"
  "${as_root[@]}" chown "$(id -u):$(id -g)" "$work/disk.img"
}
name=debian-12-$(fingerprint "$0")
build_once "$cache/$name" make_image
echo "$cache/$name/disk.img"

#!/usr/bin/env bash
# Installs what the tests and the rigs run: real NBD clients and peers, a virtual machine, file system tools.
#
# Idempotent. When everything is there it only looks up commands (a few milliseconds, no package manager, no root).
# Exit status: 0 everything is there; 1 something is missing and could not be installed (named on stderr).
#   --check   only tell what is missing, install nothing
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# command:package. Debian 12 names; nbdfuse, nbdinfo and nbdcopy are all in libnbd-bin.
wanted=(
  qemu-nbd:qemu-utils qemu-img:qemu-utils qemu-io:qemu-utils
  qemu-system-x86_64:qemu-system-x86 qemu-storage-daemon:qemu-system-common
  nbdkit:nbdkit nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbdsh:python3-libnbd
  certtool:gnutls-bin psktool:gnutls-bin
  fusermount3:fuse3 fio:fio nbd-client:nbd-client socat:socat strace:strace
  mke2fs:e2fsprogs e2fsck:e2fsprogs debugfs:e2fsprogs
  mmdebstrap:mmdebstrap busybox:busybox-static depmod:kmod cpio:cpio dmsetup:dmsetup
  python3:python3 tar:tar gzip:gzip
  cc:gcc make:make pkg-config:pkg-config
  ceph-mon:ceph-mon ceph-osd:ceph-osd ceph:ceph-common rados:ceph-common
)
# shared library:package. librados2 is what a node on RADOS needs, the other lets qemu-nbd open RBD images: the peer of the benchmarks.
shared=(librados.so.2:librados2 block-rbd.so:qemu-block-extra)
# module of pkg-config:package. The programs of nbd's own test suite are compiled against them.
libraries=(glib-2.0:libglib2.0-dev gnutls:libgnutls28-dev)
# module of the system's Python:package. Ganeti's node code, which the tests fetch and run in place, imports them.
modules=(OpenSSL:python3-openssl pyparsing:python3-pyparsing bitarray:python3-bitarray simplejson:python3-simplejson)

missing_packages() {
  local entry seen=' '
  for entry in "${wanted[@]}"; do
    command -v "${entry%%:*}" >/dev/null 2>&1 && continue
    case $seen in *" ${entry##*:} "*) continue ;; esac
    seen+="${entry##*:} "
  done
  for entry in "${shared[@]}"; do
    compgen -G "/usr/lib*/*/${entry%%:*}" >/dev/null || compgen -G "/usr/lib*/*/qemu/${entry%%:*}" >/dev/null ||
      compgen -G "/usr/lib*/${entry%%:*}" >/dev/null || seen+="${entry##*:} "
  done
  for entry in "${libraries[@]}"; do
    pkg-config --exists "${entry%%:*}" 2>/dev/null || seen+="${entry##*:} "
  done
  for entry in "${modules[@]}"; do
    compgen -G "/usr/lib/python3/dist-packages/${entry%%:*}" >/dev/null || seen+="${entry##*:} "
  done
  # A busybox that needs shared libraries is of no use as the only program of a guest.
  if [[ $seen != *' busybox-static '* ]] && ldd "$(command -v busybox)" >/dev/null 2>&1; then seen+='busybox-static '; fi
  echo $seen
}

read -ra missing <<<"$(missing_packages)"
if [ ${#missing[@]} = 0 ]; then exit 0; fi

loud() {
  printf '\n  !! %s\n' "$@" >&2
  printf '\n' >&2
}

if [ "${1:-}" = --check ]; then
  loud "missing packages: ${missing[*]}"
  exit 1
fi

if ! command -v apt-get >/dev/null; then
  loud "missing: ${missing[*]}" "this is not a Debian system: install them with its own package manager"
  exit 1
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    loud "missing packages: ${missing[*]}" "neither root nor sudo here; as root run: apt-get install ${missing[*]}"
    exit 1
  fi
  # Without a terminal a password prompt would wait for ever.
  if [ -t 0 ]; then as_root=(sudo); else as_root=(sudo -n); fi
fi

echo "setup: installing ${missing[*]}" >&2
install() {
  # fuse2fs and others recommend desktops; the tests need the programs alone.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}
# The package lists may be absent (a fresh container) or old: refresh them only when the first try fails.
if ! install; then
  "${as_root[@]}" apt-get update -q >&2 || true
  install || true
fi

read -ra missing <<<"$(missing_packages)"
if [ ${#missing[@]} != 0 ]; then
  loud "could not install: ${missing[*]}" "tests that need them are skipped, and fail when CI=true"
  exit 1
fi

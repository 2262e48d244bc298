#!/usr/bin/env bash
# Builds nbd-tester-client, the test program of the reference implementation (package nbd, GPL), from the source package of Debian 13.
# It is compiled without the rest of its package.
# Needs network, a C compiler, and the development files of glib and GnuTLS. No root.
# Prints a directory with nbd-tester-client, integrity-test.tr and integrityhuge-test.tr. Cached until this script changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

make_tester() {
  local work=$1
  debian_source nbd "$work"
  mkdir "$work/nbd"
  tar -xf "$work"/source/nbd_*.orig.tar.?z -C "$work/nbd" --strip-components=1

  # What its configure would find out here, as far as these files ask.
  cat >"$work/config.h" <<'CONFIG'
#define HAVE_GNUTLS 1
#define HAVE_MKSTEMP 1
#define ISSERVER 1
#define NBD_LFS 1
#define PACKAGE_VERSION "Debian 13"
#define SIZEOF_UNSIGNED_SHORT_INT 2
#define SIZEOF_UNSIGNED_INT 4
#define SIZEOF_UNSIGNED_LONG_INT 8
#define SIZEOF_UNSIGNED_LONG_LONG_INT 8
CONFIG
  local flags libraries
  read -ra flags <<<"$(pkg-config --cflags glib-2.0 gnutls)"
  read -ra libraries <<<"$(pkg-config --libs glib-2.0 gnutls)"
  (cd "$work/nbd" && cc -O1 -w -D_GNU_SOURCE -I"$work" -I. "${flags[@]}" tests/run/nbd-tester-client.c cliserv.c crypto-gnutls.c \
    buffer.c -o "$work/nbd-tester-client" "${libraries[@]}")
  cp "$work"/nbd/tests/run/*.tr "$work/"
  rm -rf "$work"/{apt,source,nbd}
}
name=nbd-tester-$(fingerprint "$0" "$rigs/common.sh")
build_once "$cache/$name" make_tester
echo "$cache/$name"

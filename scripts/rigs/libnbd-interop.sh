#!/usr/bin/env bash
# Builds libnbd's own test programs for servers (its folder interop/) with the library they belong to, from the source package of
# Debian 13 (LGPL, never a part of this tree). They are compiled for a server that is named when they run:
#   INTEROP_SERVER  program that is started, with the path of an empty file of 1 MiB as its argument (socket-activation and interop)
#   INTEROP_EXPORT  export name, or empty; INTEROP_PKI, INTEROP_PSK  what they authenticate with
# Needs network, a C compiler, make, and the development files of GnuTLS. No root. Half a minute.
# Prints the directory of the programs. Cached until this script changes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

make_programs() {
  local work=$1 source=$1/libnbd
  mkdir "$source"
  debian_source libnbd "$work"
  tar -xf "$work"/source/libnbd_*.orig.tar.?z -C "$source" --strip-components=1
  (
    cd "$source"
    # Everything but the library itself stays away: the bindings, fuse, the block device, URIs (libxml2).
    ./configure --quiet --disable-static --enable-shared --disable-ocaml --disable-python --disable-golang --disable-fuse \
      --disable-ublk --disable-rust --without-libxml2 --without-bash-completions --with-gnutls
    make --silent -C common/utils
    make --silent -j2 -C lib
  )
  cp -L "$source/lib/.libs/libnbd.so.0" "$work/"

  # compile PROGRAM SOURCE [DEFINITION...]
  compile() {
    local program=$1 file=$2
    shift 2
    (cd "$source/interop" && cc -O1 -w -DHAVE_CONFIG_H -I.. -I../include -I../common/include -I../tests "$@" \
      "$file.c" ../tests/requires.c "$work/libnbd.so.0" $(pkg-config --cflags --libs gnutls) -Wl,-rpath,'$ORIGIN' -o "$work/$program")
  }
  local server='-DSERVER=getenv("INTEROP_SERVER")' parameters='-DSERVER_PARAMS=TMPFILE'
  local interop=("$server" "$parameters" '-DEXPORT_NAME=getenv("INTEROP_EXPORT")')
  local pki='-DCERTS=getenv("INTEROP_PKI")' psk='-DPSK=getenv("INTEROP_PSK")'
  local require=-DTLS_MODE=LIBNBD_TLS_REQUIRE allow=-DTLS_MODE=LIBNBD_TLS_ALLOW
  compile interop interop "${interop[@]}"
  compile interop-activation interop "${interop[@]}" -DSOCKET_ACTIVATION=1
  interop+=(-DSOCKET_ACTIVATION=1)
  compile interop-certs interop "${interop[@]}" "$pki" $require
  compile interop-certs-allow interop "${interop[@]}" "$pki" $allow
  compile interop-certs-fallback interop "${interop[@]}" "$pki" $allow -DTLS_FALLBACK=1
  compile interop-bad-authority interop "${interop[@]}" -DCERTS=NULL $require -DEXPECT_FAIL=1
  compile interop-bad-hostname interop "${interop[@]}" "$pki" $require '-DTLS_HOSTNAME="this.is.bad.example.com"' -DEXPECT_FAIL=1
  compile interop-psk interop "${interop[@]}" "$psk" $require
  compile interop-psk-allow interop "${interop[@]}" "$psk" $allow
  compile interop-psk-fallback interop "${interop[@]}" "$psk" $allow -DTLS_FALLBACK=1
  local exports=("$server" -DSERVER_PARAMS=NULL '-DEXPORTS="interop-disk1","interop-disk2"' '-DDESCRIPTIONS="",""')
  compile list-exports list-exports "${exports[@]}"
  compile list-exports-activation list-exports "${exports[@]}" -DSOCKET_ACTIVATION=1
  compile socket-activation socket-activation "$server" -DSERVER_PARAMS=tmpfile
  local program
  # These take the server's command as arguments.
  for program in structured-read dirty-bitmap block-status-64 block-status-payload opt-extended-headers; do
    compile $program $program
  done
  rm -rf "$source" "$work"/{apt,source}
}
name=libnbd-interop-$(fingerprint "$0" "$rigs/common.sh")
build_once "$cache/$name" make_programs
echo "$cache/$name"

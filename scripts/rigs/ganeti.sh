#!/usr/bin/env bash
# Fetches Ganeti's own Python code as a Debian package and unpacks it; nothing is installed, nothing is started.
# Prints the directory that holds the Python package `ganeti`. What that imports is installed by setup.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"

package=
for candidate in ganeti-3.0 ganeti-3.1; do
  if apt-cache show "$candidate" >/dev/null 2>&1; then
    package=$candidate
    break
  fi
done
[ -n "$package" ] || { echo "ganeti.sh: apt knows neither ganeti-3.0 nor ganeti-3.1; run apt-get update" >&2; exit 1; }

fetch() {
  cd "$1"
  # The sandbox user of apt cannot write here; it then downloads as the caller and warns, which is fine.
  apt-get download "$package"
  dpkg -x "$package"_*.deb unpacked
  mv unpacked/usr/share/ganeti/3.*/ganeti ganeti
  rm -rf -- "$package"_*.deb unpacked
}
build_once "$cache/$package" fetch
echo "$cache/$package"

# Shared by the rigs: where built things are kept, and how a thing is built once. Sourced, not run.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
rigs=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ARCHIPELAGO_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/archipelago-tests}
mkdir -p "$cache"

# fingerprint FILE... : a short name of the files' contents, so that an edited rig never uses an old build.
fingerprint() { cat "$@" | sha256sum | cut -c1-12; }

# build_once TARGET FUNCTION : calls FUNCTION DIR to fill a new directory, then moves it to TARGET. Two builders at a
# time wait for each other; a build that was killed leaves nothing that looks finished.
build_once() {
  local target=$1 build=$2 work
  [ -e "$target" ] && return 0
  (
    flock 9
    [ -e "$target" ] && exit 0
    work=$(mktemp -d "$cache/building.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$build" "$work" >&2
    mv -T "$work" "$target"
    trap - EXIT
  ) 9>"$cache/.lock"
}

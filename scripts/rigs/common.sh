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
    # A builder of root file systems that was killed leaves the machine's own /dev/shm mounted in it: segments of nodes that run.
    trap 'rm -rf --one-file-system "$work"' EXIT
    "$build" "$work" >&2
    mv -T "$work" "$target"
    trap - EXIT
  ) 9>"$cache/.lock"
}

# debian_source PACKAGE DIR : the source package of Debian 13 to DIR/source. apt uses lists of its own in DIR/apt, so that the system's are
# not touched. Needs network, no root.
debian_source() {
  local package=$1 apt=$2/apt
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources.d,state} "$2/source"
  cat >"$apt/sources.d/source.sources" <<'SOURCES'
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  local options=(-q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$apt/sources.d" -o "Dir::State=$apt/state"
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=$(id -un)")
  apt-get "${options[@]}" update
  (cd "$2/source" && apt-get "${options[@]}" source --download-only "$package")
}

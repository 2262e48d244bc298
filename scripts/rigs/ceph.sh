#!/usr/bin/env bash
# A small Ceph cluster of its own as plain processes on loopback: one monitor, OSDs, the pools maps and blocks. For tests and benchmarks.
#
#   ceph.sh start DIR [--bluestore] [--osds N] [--bytes N] [--pools 'A B'] [--set 'OPTION = VALUE']…   prints CEPH_CONF=… when I/O works; run again: starts what is not running
#   ceph.sh stop DIR [--wipe]                                    ends it; a memstore saves its data first. --wipe: at once, and DIR goes too
#   ceph.sh kill-osd DIR [N]                                     kill -9 of OSD N (0); `start` brings it back. The pools of a memstore are empty then
#   ceph.sh restart-osd DIR [N]                                  kill-osd and start; returns when I/O works again
#
# No root, no systemd, no user `ceph`, no mgr. Everything is in DIR: ceph.conf, keyring, run/*.pid, log/. Ports are free ones, chosen at the first start.
# Users: client.admin, and client.archipelago with the capabilities of docs/rados.md (here with x on every pool).
# --set is one more setting of the OSDs. --bytes is the room of each OSD (2 GiB); a memstore has it in memory, bluestore in a sparse file. Two and more OSDs keep two copies.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
unset CEPH_CONF CEPH_ARGS CEPH_KEYRING

fail() {
  echo "ceph.sh: $*" >&2
  exit 1
}

usage() {
  sed -n '4,7s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

[ $# -ge 2 ] || usage
action=$1
# Nothing to end, and nothing that somebody else made is ever removed.
if [ "$action" != start ] && [ ! -e "$2/ceph.conf" ]; then exit 0; fi
mkdir -p "$2"
dir=$(realpath "$2")
shift 2
conf=$dir/ceph.conf

readonly BALLAST=$((256 << 20)) BALLAST_PIECE=$((64 << 20))
store=memstore osds=1 bytes=$((2 << 30)) pools='maps blocks' wipe='' which=0 more=''
while [ $# -gt 0 ]; do
  case $1 in
    --bluestore) store=bluestore ;;
    --osds) osds=$2 && shift ;;
    --bytes) bytes=$2 && shift ;;
    --pools) pools=$2 && shift ;;
    --set) more+="$2"$'\n' && shift ;;
    --wipe) wipe=yes ;;
    [0-9]*) which=$1 ;;
    *) usage ;;
  esac
  shift
done

# daemon_pid NAME : the pid in NAME's pidfile when that process is this cluster's daemon; nothing else is ever signalled.
daemon_pid() {
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  grep -qzxF "$conf" "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

# is_gone PID : whether a process has let go of its files. One that init has not fetched yet has; but not while threads of it still end.
is_gone() {
  local -a threads=("/proc/$1/task"/*)
  ! kill -0 "$1" 2>/dev/null || { [ ${#threads[@]} = 1 ] && ! grep -q '^State:\s[^ZX]' "/proc/$1/status" 2>/dev/null; }
}

# end NAME SIGNAL : signals a daemon and waits until it is gone; after 20 s it is killed.
end() {
  local pid waited=0
  if pid=$(daemon_pid "$1"); then
    kill "-$2" "$pid" 2>/dev/null || true
    while ! is_gone "$pid"; do
      waited=$((waited + 1))
      if [ $waited = 400 ]; then kill -KILL "$pid" 2>/dev/null || true; fi
      sleep 0.05
    done
  fi
  if [ "$2" = TERM ]; then rm -f "$dir/run/$1.pid"; fi
}

names() { for file in "$dir"/run/"$1"*.pid; do [ -e "$file" ] && basename "$file" .pid; done; }

ceph() { timeout 30 ceph -c "$conf" "$@" 2>>"$dir/log/ceph"; }

# A port that begins a hundred which nobody listens on just now, below those that the kernel gives to clients.
free_ports() {
  local base port taken
  while :; do
    base=$((10000 + RANDOM % 200 * 100)) taken=''
    for port in $base $((base + 10)) $((base + 11)) $((base + 12)) $((base + 13)); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then taken=yes; fi
    done
    if [ ! "$taken" ]; then break; fi
  done
  echo "$base"
}

# The primary of a placement group serves requests while it has a lease of 16 s, which it renews every 8 s. One that was kept from that (SIGSTOP, a machine that stood
# still, a slow disk) and gets a request before it has renewed keeps all requests of that group (state: laggy) until another OSD of the group confirms
# the next lease. With one copy there is none: Ceph 16.2.15 keeps them for ever. So there the lease is an hour. (An OSD that is started again waits for no lease of its own.)
readonly LEASE_RATIO=180

configure() {
  local port=$1 copies=$((osds > 1 ? 2 : 1)) socket='' alone=''
  if [ "$osds" = 1 ]; then alone="osd pool default read lease ratio = $LEASE_RATIO"; fi
  # A unix socket's path has 107 bytes.
  if [ ${#dir} -lt 80 ]; then socket="$dir/run/\$name.asok"; fi
  cat >"$conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:127.0.0.1:$port/0]
mon initial members = a
public addr = 127.0.0.1
ms bind msgr1 = false
ms bind msgr2 = true
ms bind port min = $((port + 10))
ms bind port max = $((port + 99))
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $dir/keyring
run dir = $dir/run
pid file = $dir/run/\$name.pid
admin socket = $socket
log file = $dir/log/\$name.log
log to stderr = false
mon cluster log file = $dir/log/cluster.log
crash dir = $dir/crash
osd pool default size = $copies
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
[client]
admin socket =
log file =
[mon]
mon data = $dir/mon
mon data avail crit = 1
mon data avail warn = 2
paxos propose interval = 0.05
paxos min wait = 0.01
[osd]
osd data = $dir/osd.\$id
osd objectstore = $store
# A memstore writes its data out when it is stopped the slow way.
osd fast shutdown = $([ $store = memstore ] && echo false || echo true)
osd op num shards = 2
osd op num threads per shard = 1
osd min pg log entries = 100
osd max pg log entries = 200
osd class load list = *
osd class default list = *
$alone
memstore device bytes = $((bytes + BALLAST))
bluestore block size = $bytes
bluestore block db size = 0
bluestore block wal size = 0
bluestore block create = true
bluestore cache autotune = false
bluestore cache size = 134217728
$more
CONF
}

make_monitor() {
  local fsid
  fsid=$(sed -n 's/^fsid = //p' "$conf")
  rm -rf "$dir/mon" "$dir/keyring" "$dir/mon.keyring"
  mkdir "$dir/mon"
  ceph-authtool "$dir/keyring" --create-keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
  ceph-authtool "$dir/keyring" --gen-key -n client.archipelago --cap mon 'profile rbd' \
    --cap osd "$(for pool in $pools; do printf 'allow rwx pool=%s, ' "$pool"; done | sed 's/, $//')" >/dev/null
  ceph-authtool "$dir/mon.keyring" --create-keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
  ceph-authtool "$dir/mon.keyring" --import-keyring "$dir/keyring" >/dev/null
  monmaptool --create --clobber --fsid "$fsid" --addv a "$(sed -n 's/^mon host = //p' "$conf")" "$dir/monmap" >/dev/null
  ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/mon.keyring" 2>>"$dir/log/mon"
}

# From here on I/O has to be seen to work again. The lock's descriptor must not go on living in a daemon, nor its output in a caller's pipe.
start_daemon() {
  rm -f "$dir/works"
  "$@" </dev/null >>"$dir/log/start" 2>&1 9>&-
}

start_monitor() {
  local try
  daemon_pid mon.a >/dev/null && return
  if [ ! -e "$dir/mon.made" ]; then
    for try in 1 2 3; do
      configure "$(free_ports)"
      make_monitor
      # Somebody may have taken the port since; then others are tried.
      if start_daemon ceph-mon -c "$conf" -i a; then
        touch "$dir/mon.made"
        return
      fi
    done
    fail "the monitor does not start: see $dir/log/mon.a.log"
  fi
  start_daemon ceph-mon -c "$conf" -i a || fail "the monitor does not start: see $dir/log/mon.a.log"
}

# A memstore adds up what it uses without a lock, and its two threads lose an addition now and then: once it has counted less than nothing, the cluster is full
# for good (used: 2^64 - n). Objects that stay there keep it above.
add_ballast() {
  local i
  local -a one=(rados -c "$conf" -p "${pools%% *}" -N ceph.sh)
  for ((i = 0; i < BALLAST / BALLAST_PIECE; i++)); do
    "${one[@]}" put "ballast.$i" /dev/null
    "${one[@]}" truncate "ballast.$i" "$BALLAST_PIECE"
  done
}

forget_pools() {
  local pool
  for pool in $pools; do ceph osd pool rm "$pool" "$pool" --yes-i-really-really-mean-it >/dev/null; done
  rm -f "$dir/pools.made" "$dir/works" "$dir/run/osd.0.pid"
}

start_osd() {
  local id=$1 data=$dir/osd.$1 key uuid
  if [ ! -e "$data.made" ]; then
    uuid=$(cat /proc/sys/kernel/random/uuid) key=$(ceph-authtool --gen-print-key)
    rm -rf "$data"
    mkdir "$data"
    printf '[osd.%s]\n\tkey = %s\n' "$id" "$key" >"$data/keyring"
    printf '{"cephx_secret": "%s"}' "$key" | ceph osd new "$uuid" "$id" -i - >/dev/null
    ceph-osd -c "$conf" -i "$id" --mkfs --osd-uuid "$uuid" --keyring "$data/keyring" >>"$dir/log/start" 2>&1
    touch "$data.made"
  fi
  daemon_pid "osd.$id" >/dev/null && return
  # One that was not stopped has left its pidfile. No other OSD has what the memory of the only one had, and its placement groups would be waited for for ever.
  if [ -e "$dir/run/osd.$id.pid" ] && [ "$store" = memstore ] && [ "$osds" = 1 ]; then forget_pools; fi
  start_daemon ceph-osd -c "$conf" -i "$id" --keyring "$data/keyring" --crush-location="root=default host=h$id" ||
    fail "osd.$id does not start: see $dir/log/osd.$id.log"
}

# The monitor believes that an OSD which was killed is up until the new one has told it where it is: an object is written by each pool's primary.
await_io() {
  local pool deadline=$((SECONDS + 60))
  for pool in $pools; do
    until timeout 5 rados -c "$conf" -p "$pool" -N ceph.sh put probe /dev/null 2>>"$dir/log/ceph"; do
      if [ $SECONDS -gt $deadline ]; then fail "no I/O to the pool $pool after 60 s: see $dir/log"; fi
      sleep 0.1
    done
    timeout 5 rados -c "$conf" -p "$pool" -N ceph.sh rm probe 2>>"$dir/log/ceph" || true
  done
}

start() {
  local id missing='' have pool
  for program in ceph-mon ceph-osd ceph rados ceph-authtool monmaptool; do command -v "$program" >/dev/null || missing+=" $program"; done
  if [ "$missing" ]; then fail "missing:$missing. Debian packages: ceph-mon ceph-osd ceph-common (scripts/setup.sh installs them)"; fi
  mkdir -p "$dir"/{run,log,crash/posted}
  # What a cluster was made with stays, whoever starts it again.
  if [ -e "$dir/made-with" ]; then read -r store osds bytes pools <"$dir/made-with"; fi
  start_monitor
  echo "$store $osds $bytes $pools" >"$dir/made-with"
  for ((id = 0; id < osds; id++)); do start_osd "$id"; done
  if [ ! -e "$dir/pools.made" ]; then
    have=" $(ceph osd pool ls | tr '\n' ' ')"
    for pool in $pools; do
      case $have in *" $pool "*) continue ;; esac
      ceph osd pool create "$pool" 8 8 replicated >/dev/null
      ceph osd pool application enable "$pool" archipelago >/dev/null
    done
    touch "$dir/pools.made"
  fi
  # Tests ask for a cluster that runs some hundred times.
  if [ ! -e "$dir/works" ]; then
    await_io
    if [ "$store" = memstore ]; then add_ballast; fi
    touch "$dir/works"
  fi
  echo "CEPH_CONF=$conf"
}

stop() {
  local name signal=${wipe:+KILL}
  for name in $(names osd.) $(names mon.); do end "$name" "${signal:-TERM}"; done
  if [ "$wipe" ]; then rm -rf --one-file-system "$dir"; fi
}

exec 9>"$dir/.lock"
flock 9
case $action in
  start) start ;;
  stop) stop ;;
  kill-osd) end "osd.$which" KILL ;;
  restart-osd)
    end "osd.$which" KILL
    start
    ;;
  *) usage ;;
esac

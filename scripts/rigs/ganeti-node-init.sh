# ganeti-node-init.sh N TREE DIR PACKAGE NODE : process 1 of a node of ganeti-cluster.sh, in its namespaces. Makes a root file system over TREE
# that is gone with the namespace, starts sshd, and then only waits, as every process whose parent ends becomes its child.
set -euo pipefail
n=$1 tree=$2 dir=$3 package=$4 program=$5
root=$dir/node$n/root
# /proc is still the host's, so this is the number that the host knows this process by.
read -r pid _ </proc/self/stat

mount -t tmpfs -o mode=755 node "$dir/node$n"
mkdir "$dir/node$n"/{upper,work,root}
mount -t overlay -o "lowerdir=$tree,upperdir=$dir/node$n/upper,workdir=$dir/node$n/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=755 dev "$root/dev"
mkdir "$root/dev"/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done

bind() { # bind FROM TO [OPTIONS] : a file or a directory
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; : >"$root$2"; fi
  mount --bind "$1" "$root$2"
  [ -z "${3:-}" ] || mount -o "remount,bind,$3" "$root$2"
}
bind "$dir/shared" /srv/shared
bind "$dir/kvm" /srv/kvm ro
bind "$package" /opt/archipelago ro
# A checkout may share the packages with another one.
if [ -L "$package/node_modules" ]; then
  target=$(readlink -f "$package/node_modules")
  bind "$target" "$target" ro
fi
bind "$program" /usr/local/bin/node ro
for tool in archipelago vlmc xseg archipelago-ganeti; do
  ln -s "/opt/archipelago/dist/cli/${tool/archipelago-ganeti/ganeti}.js" "$root/usr/local/bin/$tool"
done
mkdir -p "$root/usr/share/ganeti/extstorage"
[ -e "$root/usr/share/ganeti/extstorage/archipelago" ] ||
  ln -s /opt/archipelago/scripts/ganeti-ext/archipelago "$root/usr/share/ganeti/extstorage/archipelago"

hostname "node$n.gnt.test"
echo "node$n.gnt.test" >"$root/etc/hostname"
cat >"$root/etc/hosts" <<'HOSTS'
127.0.0.1 localhost
192.168.77.1 node1.gnt.test node1
192.168.77.2 node2.gnt.test node2
192.168.77.10 cluster.gnt.test cluster
192.168.77.11 alpha.gnt.test alpha
192.168.77.12 beta.gnt.test beta
192.168.77.13 gamma.gnt.test gamma
HOSTS
install -d -m 700 "$root/root/.ssh"
install -m 600 "$dir/ssh/id_rsa" "$root/root/.ssh/"
install -m 600 "$dir/ssh/id_rsa.pub" "$root/root/.ssh/authorized_keys"
printf 'StrictHostKeyChecking no\nLogLevel ERROR\n' >"$root/root/.ssh/config"

# An operating system definition that installs nothing; instances boot the kernel and the initramfs of the rig.
os=$root/srv/ganeti/os/noop
mkdir -p "$os" "$root/run/sshd" "$root/run/lock" "$root/var/log/ganeti/extstorage"
for script in create rename verify; do printf '#!/bin/sh\nexit 0\n' >"$os/$script"; done
# An export is what the snapshot holds, read as the instance would read it; an import writes that.
cat >"$os/export" <<'EXPORT'
#!/bin/sh
set -e
file=$(mktemp)
trap 'rm -f "$file"' EXIT
qemu-img convert -f raw -O raw "${EXPORT_DISK_URI:-$EXPORT_DISK_PATH}" "$file"
cat "$file"
EXPORT
cat >"$os/import" <<'IMPORT'
#!/bin/sh
set -e
file=$(mktemp)
trap 'rm -f "$file"' EXIT
cat >"$file"
qemu-img convert -n -f raw -O raw "$file" "${IMPORT_DISK_URI:-$IMPORT_DISK_PATH}"
IMPORT
chmod 755 "$os"/{create,import,export,rename,verify}
echo 20 >"$os/ganeti_api_version"
: >"$os/parameters.list"

owner=$(chroot "$root" id -u archipelago):$(chroot "$root" id -g archipelago)
mkdir -p "$root/etc/archipelago" "$root/run/archipelago" "$root/var/log/archipelago"
chown "$owner" "$root/run/archipelago" "$root/var/log/archipelago" "$dir/shared/maps" "$dir/shared/blocks"
cat >"$root/etc/archipelago/archipelago.conf" <<CONF
[ARCHIPELAGO]
USER = archipelago
GROUP = archipelago
LOG = file
[XSEG]
EXPECTED_VOLUMES = 4
[blockerb]
type = file_blocker
archip_dir = /srv/shared/blocks
[blockerm]
type = file_blocker
archip_dir = /srv/shared/maps
CONF
ip link set lo up
chroot "$root" /usr/sbin/sshd

# The host sees which node this is by the last argument; the pid comes when everything is there.
echo "$pid" >"$dir/node$n.pid.new"
mv "$dir/node$n.pid.new" "$dir/node$n.pid"
exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  bash -c 'while :; do sleep 3600 & wait $!; done' "node$n of $dir/"

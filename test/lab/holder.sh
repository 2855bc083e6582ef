#!/bin/bash
# PID 1 of a lab namespace: makes the mounts of a host of its own, says "ready PID", then reaps and waits.
#   holder.sh DIR NAME [RESOLVER]
set -euo pipefail
dir=$1 name=$2 resolver=${3-}

# /proc is still the machine's here, so this is the PID as it is seen from outside.
read -r pid _ </proc/self/stat
mount -t proc proc /proc
echo "$name" >/proc/sys/kernel/hostname

# A fresh sysfs shows this namespace's devices; the cgroup mounts below the old one are kept.
mkdir -p "$dir/run" "$dir/cgroup" "$dir/etc"
mount --rbind /sys/fs/cgroup "$dir/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$dir/cgroup" /sys/fs/cgroup
umount -R -l "$dir/cgroup"

# What is written to /etc stays in this host. The upper layer is a tmpfs: it may not lie on another overlay.
mount -t tmpfs tmpfs "$dir/etc"
mkdir "$dir/etc/upper" "$dir/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc/upper,workdir=$dir/etc/work" overlay /etc
rm -rf /etc/docker /etc/resolv.conf
mkdir -p /etc/docker
echo "$name" >/etc/hostname
echo "${resolver:+nameserver $resolver}" >/etc/resolv.conf

# /run is a directory that the tests see from outside: DIR/run.
mount --bind "$dir/run" /run
mkdir -p /run/lock /run/netns /run/docker/plugins

# A new namespace takes these from the machine's.
echo 0 >/proc/sys/net/ipv4/ip_forward
for key in all default lo; do
  [ ! -e "/proc/sys/net/ipv6/conf/$key" ] || echo 0 >"/proc/sys/net/ipv6/conf/$key/disable_ipv6"
done
[ ! -e /proc/sys/net/ipv6/conf/all ] || echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up

echo "ready $pid"
exec >/dev/null 2>&1 </dev/null
# bash reaps whatever is handed to PID 1; a shim left as a zombie would look alive to the engine.
while true; do
  sleep infinity &
  wait $! || true
done

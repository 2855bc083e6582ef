#!/bin/bash
# The first process on the kernel that boot.ts starts. TREE has the kernel's modules, SHARED is written through to the
# machine below, JOB is where the command is and its exit status goes, and IPV6 is what the module is loaded with.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs run /run
trap 'echo o >/proc/sysrq-trigger; sleep infinity' EXIT
modules=$TREE/usr/lib/uml/modules/$(uname -r)

# Files of the machine below, with changes that are kept in memory.
(exec -a insmod "$TREE/bin/kmod" "$modules/kernel/fs/overlayfs/overlay.ko")
mkdir /run/changes /run/work /run/root
mount -t overlay overlay -o lowerdir=/,upperdir=/run/changes,workdir=/run/work /run/root
cd /run/root
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t devtmpfs dev dev
mkdir dev/pts dev/shm
mount -t devpts pts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t tmpfs -o mode=1777 tmp var/tmp
mkdir -p "./$SHARED"
mount -t hostfs none "./$SHARED" -o "$SHARED"
mkdir -p usr/lib/modules below
ln -s "$modules" usr/lib/modules/
ln -sf "$TREE/bin/kmod" usr/sbin/modprobe
pivot_root . below
umount -l /below

# This kernel's nf_tables has no families for IP.
update-alternatives --set iptables /usr/sbin/iptables-legacy
update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy
# shellcheck disable=SC2086
modprobe ipv6 ${IPV6-}
ip link set lo up
stty -F /dev/ttyS0 raw
status=0
setsid bash "$JOB/command" </dev/null >/dev/ttyS0 2>&1 || status=$?
printf %s "$status" >"$JOB/status"

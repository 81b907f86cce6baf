#!/bin/sh
# /init of the test guest: mounts file systems, loads modules, sets up loopback, then runs
# /job as root.  The job's output, and then "guest: exit STATUS", goes to the second
# serial line; the first one is the kernel's console.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/mounts /etc/mtab

echo '<4>guest: warnings are shown' >/dev/kmsg # for boot.sh

out=/dev/ttyS1
[ "$(uname -m)" != aarch64 ] || out=/dev/ttyAMA1
stty -F $out raw -echo -ixon

while read -r module; do
    insmod "$module"
done </etc/modules
ip link set lo up
# By default a small machine keeps few connections in TIME_WAIT.  It forgets any others at
# once, and then answers their peers' FIN with a reset.
echo 262144 >/proc/sys/net/ipv4/tcp_max_tw_buckets
# The kernel's own limit is 4096; a system's init raises it.
# shellcheck disable=SC3045
ulimit -n 65536

cd /root || exit
setsid /job </dev/null >$out 2>&1
printf '\nguest: exit %s\n' $? >$out
poweroff -f

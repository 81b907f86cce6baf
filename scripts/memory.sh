#!/bin/sh
# Finds the least memory limit under which tcptop starts, counts for three intervals and
# loses nothing: the least MemoryMax= of a systemd service on this host, with its present
# sockets. The kernel charges the BPF maps and programs to the cgroup of their process.
#
#   scripts/memory.sh TCPTOP [ARGUMENTS]
#
# Needs root, and a memory controller in cgroup v2 or v1. Each try has a cgroup of its own:
# the memory of maps is given back some time after their end.
set -eu

tcptop=$1
shift

mount_of() { awk -v type="$1" -v option="$2" '$3 == type && index("," $4 ",", "," option ",") { print $2; exit }' /proc/mounts; }
root=$(mount_of cgroup2 rw)
if [ -n "$root" ] && grep -qw memory "$root/cgroup.subtree_control"; then
	limit=memory.max peak=memory.peak
else
	root=$(mount_of cgroup memory)
	limit=memory.limit_in_bytes peak=memory.max_usage_in_bytes
fi
[ -n "$root" ] || { echo "memory.sh: no cgroup here has a memory controller" >&2; exit 1; }

group=$root/tcptop-memory-$$
errors=$(mktemp)
trap 'rmdir "$group" 2>/dev/null || true; rm -f "$errors"' EXIT
trap 'exit 1' INT TERM

# Runs tcptop with this limit in KiB; true if it worked. Leaves the most it took in $used.
works() {
	mkdir "$group"
	[ -z "$1" ] || echo "$(($1 * 1024))" > "$group/$limit"
	shift
	status=0
	sh -c 'echo $$ > "$0/cgroup.procs"; exec "$@"' "$group" "$tcptop" --strict --interval 0.1 --count 3 "$@" \
		> /dev/null 2> "$errors" || status=$?
	used=$(($(cat "$group/$peak" 2> /dev/null || echo 0) / 1024))
	# The last process leaves the cgroup a moment after its parent has learned of its end.
	for _ in 1 2 3 4 5 6 7 8 9 10; do rmdir "$group" 2> /dev/null && break; sleep 0.1; done
	[ "$status" = 0 ]
}

works "" "$@" || { cat "$errors" >&2; exit 1; }
unlimited=$used
low=1024 high=$((unlimited * 2 + 4096))
works "$high" "$@" || { echo "memory.sh: tcptop fails with $high KiB:" >&2; cat "$errors" >&2; exit 1; }
while [ $((high - low)) -gt 256 ]; do
	middle=$(((low + high) / 2))
	if works "$middle" "$@"; then high=$middle; else low=$middle; fi
done
echo "least MemoryMax=: $(((high + 1023) / 1024))M ($high KiB); without a limit it takes $unlimited KiB"

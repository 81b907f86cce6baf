#!/bin/bash
# cost.sh [-k KERNELS] [-t SECONDS] TCPTOP OVERHEAD [ARGUMENT...] — what tcptop costs on
# Debian's kernels, where most of its hooks are others than on a locked-down one.
#
# Boots each of KERNELS, one after the other, and runs the benchmark OVERHEAD (make bench)
# with ARGUMENTs there (default below).  The emulator lets a nanosecond pass for each
# instruction that the guest executes.  So all times are numbers of instructions, and they do
# not depend on what else this machine does: two runs differ by less than a part in a
# thousand.  But an instruction that waits for memory counts as much as any other.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
kernels="6.1 6.12 newest" seconds=1800
while getopts k:t: option; do
    case $option in
    k) kernels=$OPTARG ;;
    t) seconds=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
tcptop=$1 overhead=$2
shift 2
[ $# -gt 0 ] || set -- --subjects tcptop,tcptop-tcp,empty --loads tcp-pingpong-1cpu,tcp-churn,udp-flood \
    --pairs 3 --seconds 0.5 --sizes 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ip=$(PATH=$PATH:/usr/sbin:/sbin type -P ip)
{
    printf '#!/bin/sh\nexec /usr/bin/overhead --tcptop /usr/bin/tcptop'
    printf ' %q' "$@"
    echo
} >"$work/job"
"$here/initramfs.py" guest "$work/guest" "$here/init.sh" "$tcptop:usr/bin/tcptop" \
    "$overhead:usr/bin/overhead" "$(type -P sh):bin/sh" "$(type -P env)" "$ip"
"$here/initramfs.py" files "$work/files" "$work/job:job"
status=0
# Word splitting is wanted: this is a list.
# shellcheck disable=SC2086
for kernel in $("$here/get.sh" $kernels); do
    cat "$work/guest" "$work/files" >"$work/initramfs"
    TCPTOP_KERNELS_COUNT=yes TCPTOP_KERNELS_MEMORY=3072 \
        "$here/boot.sh" "$kernel" "$work/initramfs" "$work/console" "$seconds" || status=$?
done
exit $status

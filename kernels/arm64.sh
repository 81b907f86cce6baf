#!/bin/bash
# arm64.sh [KERNEL...] — tests tcptop on another processor: builds the static tcptop for arm64, boots
# Debian's arm64 kernels (default: 6.1 6.12 newest) under QEMU and runs `tcptop --doctor`
# there.  The doctor proves that every signal counts an exchange of known bytes: first
# with the hooks that tcptop chooses, then with those of the lowest rank.  On 6.1 fentry
# loads but cannot be attached, so tcptop has to choose the next hook by itself.
#
# For Debian and Ubuntu with Rust from rustup.  Prints a table, then "N passed,
# N failed"; status 1 if anything failed.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
cd "$here/.."
[ $# -gt 0 ] || set -- 6.1 6.12 newest
export TCPTOP_KERNELS_ARCH=arm64

"$here/install.sh" qemu-system-aarch64:qemu-system-arm
store=${TCPTOP_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-kernels}
kernels=$("$here/get.sh" "$@" | sed 's/.*\///')
root=$("$here/get.sh" -p aarch64 busybox-static)
binary=$(scripts/static.sh aarch64)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lowest="--without fentry/ip_send_skb --without tp_btf/tcp_sendmsg_locked"
lowest+=" --without tp_btf/sock_send_length --without fentry/tcp_sendmsg"
cat >"$work/job" <<JOB
#!/bin/sh
uname -rm
tcptop --doctor; echo "best: status \$?"
tcptop --doctor $lowest; echo "lowest: status \$?"
JOB
TCPTOP_GUEST_ROOT=$root "$here/initramfs.py" guest "$work/guest" "$here/init.sh" \
    "$binary:usr/bin/tcptop" "$work/job:job"

passed=0 failed=0
check() { # what, whether it holds
    if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    printf '%-8s %-44s %s\n' "$kernel" "$1" "$([ "$2" = 0 ] && echo ok || echo FAILED)" >>"$work/table"
}
holds() { grep -qE "$1" "$work/out" && echo 0 || echo 1; }
for kernel in $kernels; do
    "$here/initramfs.py" modules "$work/modules" "$store/arm64/$kernel" veth
    cat "$work/guest" "$work/modules" >"$work/initramfs"
    "$here/boot.sh" "$store/arm64/$kernel" "$work/initramfs" "$work/console" 600 >"$work/out" 2>&1 || true
    sed "s/^/[$kernel] /" "$work/out"
    check "arm64" "$(holds "^$(sed 's/[.+]/\\&/g' "$store/arm64/$kernel/abi") aarch64")"
    check "best hooks: every signal" "$(holds '^best: status 0')"
    check "lowest hooks: every signal" "$(holds '^lowest: status 0')"
    if [ "$kernel" = 6.1 ]; then
        check "fentry refused when attached" "$(holds 'not fentry/ip_send_skb: attach: ')"
        check "moved down: iter/task_file, cgroup_skb" \
            "$(sed '/^best: /q' "$work/out" | grep -cE '(owner +iter/task_file|UDP +cgroup_skb) +ok' | grep -qx 2 && echo 0 || echo 1)"
    else
        check "UDP by fentry" "$(sed '/^best: /q' "$work/out" | grep -qE 'UDP +fentry/ip_send_skb +ok' && echo 0 || echo 1)"
    fi
done
echo
cat "$work/table"
printf '\n%d passed, %d failed\n' $passed $failed
[ $failed -eq 0 ]

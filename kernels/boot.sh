#!/bin/bash
# boot.sh KERNEL INITRAMFS CONSOLE [SECONDS] — boots the kernel in the directory KERNEL
# under QEMU, prints the output of the guest's job and ends with the job's status.
# 124: the job took longer than SECONDS; 125: the guest died; 123: the job ended, but the
# kernel reported a defect (WARNING, BUG, Oops).  The kernel's messages go to the file
# CONSOLE.  The guest has to write "guest: warnings are shown" there as a warning, which
# proves that others are; 123 where it is missing.
#
# With TCPTOP_KERNELS_COUNT, a nanosecond of the guest's time is an instruction of its one
# processor.
#
# Always emulated (TCG): a stock kernel may fail to boot even if there is a /dev/kvm,
# and these tests are about behaviour, not speed.
set -euo pipefail

kernel=$1 initramfs=$2 console=$3 seconds=${4:-900}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

case ${TCPTOP_KERNELS_ARCH:-amd64} in
# A processor without AVX and the like: emulating it is a quarter less work than `max`.
# no_timer_check: on a busy machine a kernel may see no tick in time while it boots, and panic.
amd64) machine=(qemu-system-x86_64 -machine q35 -cpu Nehalem) tty=ttyS0 options=no_timer_check ;;
# impdef: pointer authentication with the architecture's own cipher would make the
# emulation several times slower.
arm64) machine=(qemu-system-aarch64 -machine virt -cpu "max,pauth-impdef=on") tty=ttyAMA0 options= ;;
esac

emulation=(-accel "tcg,thread=multi" -smp "${TCPTOP_KERNELS_PROCESSORS:-2}")
[ -z "${TCPTOP_KERNELS_COUNT:-}" ] || emulation=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -smp 1)

status=0
timeout --foreground -k 5 "$seconds" "${machine[@]}" "${emulation[@]}" \
    -m "${TCPTOP_KERNELS_MEMORY:-2048}" \
    -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$kernel/vmlinuz" -initrd "$initramfs" \
    -append "console=$tty panic=-1 oops=panic quiet loglevel=5 mitigations=off $options" \
    -chardev "file,id=console,path=$console" -serial chardev:console \
    -chardev "file,id=output,path=$output" -serial chardev:output </dev/null >&2 || status=$?

ended=$(sed -n 's/^guest: exit //p' "$output" | tail -n 1)
grep -av '^guest: exit ' "$output" | sed '${/^$/d}' || true
# A host that gives the guest no time makes its watchdog believe in a soft lockup.
defects=$(grep -aE -A 20 'cut here|WARNING:|BUG: [^s]|BUG: s[^o]|Oops' "$console" || true)
if [ -n "$ended" ] && ! grep -aq 'guest: warnings are shown' "$console"; then
    defects="guest: warnings are not shown"
fi
if [ -n "$defects" ]; then
    echo "boot.sh: the kernel $(cat "$kernel/abi") reports a defect:" >&2
    printf '%s\n' "$defects" | sed 's/^/console: /' >&2
    [ -z "$ended" ] || exit 123
fi
[ -z "$ended" ] || exit "$ended"
[ $status -ne 124 ] || exit 124
tail -n 60 "$console" | sed 's/^/console: /' >&2
exit 125

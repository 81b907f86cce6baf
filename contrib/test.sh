#!/bin/bash
# test.sh [SUITE:KERNEL]... — runs contrib's units, logrotate and cron jobs where they belong:
# boots an emulated machine with a Debian release, its systemd, one of Debian's kernels and
# the Debian package that `make dist` has made, and there starts, rotates, upgrades and removes
# tcptop.  By default Debian 12 with its own kernel, then Debian 13 with the newest one.
#
# As root, on Debian or Ubuntu.  Prints "N passed, N failed"; status 1 if anything failed, or
# if a kernel reported a defect.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "test.sh: run it as root: it makes a root file system" >&2; exit 1; }
[ $# -gt 0 ] || set -- bookworm:6.1 trixie:newest

kernels/install.sh mmdebstrap:mmdebstrap
deb=$(realpath "${CARGO_TARGET_DIR:-target}")/dist/tcptop_$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1_amd64.deb
[ -e "$deb" ] || { echo "test.sh: no $deb yet: make dist" >&2; exit 1; }
cache=${TCPTOP_DIST:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-dist}

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

# A newer version of the package, to upgrade to.
dpkg-deb -R "$deb" "$work/newer"
sed -i 's/^Version: .*/&+newer/' "$work/newer/DEBIAN/control"
dpkg-deb --root-owner-group -b "$work/newer" "$work/newer.deb" >/dev/null

system() { # SUITE DIRECTORY: unpacks a Debian with systemd
    local base=$cache/systemd-$1.tar
    if [ ! -e "$base" ]; then
        mkdir -p "$cache"
        mmdebstrap --quiet --format=tar --variant=minbase \
            --include=systemd,systemd-sysv,dbus,logrotate,cron,perl-base,kmod,procps "$1" "$base.new"
        mv "$base.new" "$base"
    fi
    mkdir "$2"
    tar -xf "$base" -C "$2" --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./var/cache/apt/*'
}

prepared() { # DIRECTORY: adds tcptop, the job and what it needs
    local root=$1
    cp "$deb" "$root/root/tcptop.deb"
    cp "$work/newer.deb" "$root/root/newer.deb"
    chroot "$root" dpkg -i /root/tcptop.deb >/dev/null

    cp contrib/cron/tcptop "$root/etc/cron.d/tcptop"
    cp contrib/cron/logrotate "$root/etc/logrotate.d/tcptop-cron"
    # The mail that cron sends.  The second job proves that it would be seen.
    printf '#!/bin/sh\ncat >>/var/mail/sent\n' >"$root/usr/sbin/sendmail"
    chmod 755 "$root/usr/sbin/sendmail"
    echo '@reboot root echo this is mail' >"$root/etc/cron.d/proof"
    chmod 644 "$root"/etc/cron.d/* "$root"/etc/logrotate.d/*

    cp contrib/test-guest.sh "$root/root/job"
    cp scripts/checks.sh "$root/root/checks.sh"
    cat >"$root/etc/systemd/system/job.service" <<'END'
[Unit]
After=multi-user.target
[Service]
ExecStartPre=/bin/sh -c 'echo "<4>guest: warnings are shown" >/dev/kmsg'
ExecStartPre=stty -F /dev/ttyS1 raw -echo
ExecStart=/bin/bash /root/job
ExecStopPost=/bin/sh -c 'printf "\nguest: exit %%s\n" "$EXIT_STATUS"; sleep 1; poweroff -f'
StandardOutput=file:/dev/ttyS1
StandardError=inherit
END
    mkdir -p "$root/etc/systemd/system/graphical.target.wants"
    ln -sf ../job.service "$root/etc/systemd/system/graphical.target.wants/job.service"
    ln -sf /usr/lib/systemd/systemd "$root/init"
    # Nobody logs in; systemd would wait for a device that does not come.
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    rm -f "$root/etc/resolv.conf"
}

boot() { # SUITE:KERNEL
    local kernel root=$work/root
    kernel=$(kernels/get.sh "${1#*:}")
    system "${1%%:*}" "$root"
    prepared "$root"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"
    rm -rf "$root"
    TCPTOP_KERNELS_MEMORY=${TCPTOP_KERNELS_MEMORY:-3072} \
        kernels/boot.sh "$kernel" "$work/initramfs" "$work/console" "${TCPTOP_TEST_SECONDS:-1800}" |
        tee -a "$work/output" || status=$?
}

status=0
for guest; do boot "$guest"; done
awk '/^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
    END { printf "\n%d passed, %d failed\n", passed, failed }' "$work/output"
exit $status

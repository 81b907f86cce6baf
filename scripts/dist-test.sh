#!/bin/bash
# dist-test.sh [NAME...] — shows at work what dist.sh has made for this processor, in root
# file systems that have nothing of this machine, on this machine's kernel:
#
#   binaries  for every processor: one static binary, the same in archive and packages, which
#             does not say where it was built
#   clone     everything once more, for every processor, from a clone of this commit in other
#             directories and on a host of another name: the same bytes
#   busybox   the archive's binary, with busybox and nothing else
#   debian    the Debian package in Debian 12 and 13: lintian, install, start, upgrade with a
#             changed configuration file, remove, purge
#   rpm       the RPM, with Debian's rpm
#   sources   everything once more from the archive of the sources, without a network and
#             in another directory: the same bytes
#   newcomer  README's way to build in Debian 13: its cargo, make build, make install
#
# As root.  File systems are mounted in a mount namespace of its own.  Prints
# "N passed, N failed"; status 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "dist-test.sh: run it as root" >&2; exit 1; }
[ $# -gt 0 ] || set -- binaries clone busybox debian rpm sources newcomer
if [ -z "${TCPTOP_DIST_TEST:-}" ]; then
    TCPTOP_DIST_TEST=$(mktemp -d)
    export TCPTOP_DIST_TEST
    status=0
    unshare --mount --propagation private "$0" "$@" || status=$?
    rm -rf --one-file-system "$TCPTOP_DIST_TEST"
    exit $status
fi

cache=${TCPTOP_DIST:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-dist}
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/dist
arch=$(uname -m)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
work=$TCPTOP_DIST_TEST
# shellcheck source=scripts/checks.sh
. scripts/checks.sh

# A root file system sees the processes and the kernel of this machine.
mounted() { # DIRECTORY
    mkdir -p "$1/proc" "$1/sys" "$1/dev" "$1/tmp"
    mount --rbind /proc "$1/proc"
    mount --rbind /sys "$1/sys"
    mount --rbind /dev "$1/dev"
}
enter=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive chroot)
inside() { # DIRECTORY COMMAND...
    "${enter[@]}" "$@"
}

# tcptop logs a transfer of known size over loopback, with the names of users.
counts() { # ROOT
    local root=$1 log=/tmp/tcptop.csv port=$((20000 + RANDOM % 10000)) pid
    local row=$port,root,CLOSED,0,123457
    rm -f "$root$log"
    # Not by a function, which would be another process.
    "${enter[@]}" "$root" tcptop --log $log --tcp --port "$port" --user root --columns remote_port,user,state,bytes_in,bytes_out \
        --quiet --interval 0.2 --ready-file /tmp/ready &
    pid=$!
    within 60 test -e "$root/tmp/ready"
    python3 - "$port" <<'END'
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
server, _ = listener.accept()
client.sendall(b"x" * 123457)
client.shutdown(socket.SHUT_WR)
while server.recv(65536):
    pass
server.close()
client.close()
END
    within 60 grep -qx "$row" "$root$log" || { echo "no row $row in:"; cat "$root$log"; }
    kill $pid
    wait $pid
    rm -f "$root/tmp/ready"
    grep -qx "$row" "$root$log"
}
works() { # WHERE ROOT
    check "$1: the version is Cargo.toml's" says "tcptop $version" inside "$2" tcptop --version
    check "$1: --doctor proves every signal" inside "$2" tcptop --doctor
    check "$1: a transfer is counted, users have names" counts "$2"
    check "$1: an unknown user is refused" says "no user is named 'nobody-7' here" \
        inside "$2" sh -c 'tcptop --user nobody-7 2>&1; [ $? = 2 ] || [ $? = 1 ]'
}

processors() { # those that dist.sh made packages for
    (cd "$out" && printf '%s\n' tcptop-"$version"-*-linux.tar.gz) | sed "s/^tcptop-$version-//; s/-linux.tar.gz$//"
}
header() { readelf --file-header "$1" | tr '[:upper:]' '[:lower:]'; } # BINARY
static() { # BINARY: needs no loader and no library
    local headers
    headers=$(readelf --program-headers --dynamic --wide "$1") && ! grep -E 'INTERP|NEEDED' <<<"$headers"
}
in_deb() { dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/bin/tcptop | cmp - "$2"; } # DEB BINARY
in_rpm() { # RPM BINARY
    says "/usr/bin/tcptop $(sha256sum <"$2" | cut -d' ' -f1)" command rpm -qp --qf '[%{FILENAMES} %{FILEDIGESTS}\n]' "$1"
}

binaries() {
    local arch name binary debian
    for arch in $(processors); do
        name=tcptop-$version-$arch-linux binary=$work/tcptop-$arch
        case $arch in x86_64) debian=amd64 ;; aarch64) debian=arm64 ;; esac
        tar -xzOf "$out/$name.tar.gz" "$name/bin/tcptop" >"$binary"
        check "binaries: $arch: for that processor" says "${arch/_/-}" header "$binary"
        check "binaries: $arch: static" static "$binary"
        check "binaries: $arch: it does not say where it was built" fails grep -aoF -e "$PWD/" -e "$HOME/" \
            -e "${CARGO_HOME:-$HOME/.cargo}/" -e "${out%dist}" "$binary"
        check "binaries: $arch: the same in the Debian package" in_deb "$out/tcptop_$version-1_$debian.deb" "$binary"
        check "binaries: $arch: the same in the RPM" in_rpm "$out/tcptop-$version-1.$arch.rpm" "$binary"
    done
}

clone() {
    local tree=$work/clone target=$work/elsewhere
    # shellcheck disable=SC2016,SC2046 # expanded there; a list
    check "clone: build" unshare --uts env CARGO_TARGET_DIR="$target" TCPTOP_DIST="$cache" sh -c '
        set -e; hostname elsewhere; umask 077; git clone --quiet . "$1"; cd "$1"; shift; scripts/dist.sh "$@"' - "$tree" $(processors)
    check "clone: the same bytes" diff "$out/SHA256SUMS" "$target/dist/SHA256SUMS"
}

checksums() { (cd "$out" && sha256sum --check --quiet SHA256SUMS); }

busybox() {
    local root=$work/busybox
    mkdir -p "$root/bin" "$root/etc"
    cp /bin/busybox "$root/bin/"
    ln -s busybox "$root/bin/sh"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    tar -xzf "$out/tcptop-$version-$arch-linux.tar.gz" -C "$root" --strip-components=1 "tcptop-$version-$arch-linux/bin/tcptop"
    mounted "$root"
    check "busybox: nothing but busybox is there" test "$(find "$root" -xdev -type f | wc -l)" = 3
    works busybox "$root"
}

system() { # SUITE: unpacks a Debian root file system and prints where
    local tar=$cache/$1.tar root=$work/$1
    if [ ! -e "$tar" ]; then
        mkdir -p "$cache"
        mmdebstrap --quiet --format=tar --variant=minbase --include=rpm "$1" "$tar.new" >&2
        mv "$tar.new" "$tar"
    fi
    mkdir -p "$root"
    tar -xf "$tar" -C "$root" --exclude='./dev/*'
    echo "$root"
}
files() { # ROOT [TEST OF FIND]...
    (cd "$1" && find . -xdev -path ./tmp -prune -o -path ./var/lib/dpkg -prune -o -path ./var/lib/rpm -prune -o -path ./var/log -prune -o -path ./root -prune -o "${@:2}" -print | sort)
}
unchanged() { diff "$work/before" <(files "$@"); } # ROOT [TEST]...: as before the installation

older_deb() { # FILE NEW: the package with a lower version
    local tree=$work/older
    rm -rf "$tree"
    dpkg-deb -R "$1" "$tree"
    sed -i 's/^Version: .*/Version: 0.0.1-1/' "$tree/DEBIAN/control"
    dpkg-deb --root-owner-group -b "$tree" "$2"
}

debian() {
    local deb suite root
    deb=$out/tcptop_$version-1_$(dpkg --print-architecture).deb
    check "debian: lintian" lintian --fail-on error,warning --allow-root "$out"/*.deb
    older_deb "$deb" "$work/older.deb" >/dev/null
    for suite in bookworm trixie; do
        root=$(system "$suite")
        mounted "$root"
        cp "$deb" "$root/tmp/new.deb"
        cp "$work/older.deb" "$root/tmp/older.deb"
        files "$root" >"$work/before"
        check "$suite: install" inside "$root" dpkg -i /tmp/older.deb
        works "$suite" "$root"
        check "$suite: the manual page is there" test -s "$root/usr/share/man/man8/tcptop.8.gz"
        check "$suite: bash reads the completions" inside "$root" bash -n /usr/share/bash-completion/completions/tcptop
        echo '# mine' >>"$root/etc/logrotate.d/tcptop"
        check "$suite: upgrade" inside "$root" dpkg -i /tmp/new.deb
        # shellcheck disable=SC2016 # dpkg-query's own
        check "$suite: the new version is there" says "$version-1" inside "$root" dpkg-query -W -f '${Version}' tcptop
        check "$suite: the changed file was kept" grep -qx '# mine' "$root/etc/logrotate.d/tcptop"
        check "$suite: it still works" inside "$root" tcptop --doctor
        check "$suite: dpkg sees that change and no other" test \
            "$(inside "$root" dpkg --verify tcptop)" = '??5?????? c /etc/logrotate.d/tcptop'
        check "$suite: remove" inside "$root" dpkg -r tcptop
        check "$suite: the binary is gone" fails test -e "$root/usr/bin/tcptop"
        check "$suite: the configuration stays" test -e "$root/etc/logrotate.d/tcptop"
        check "$suite: purge" inside "$root" dpkg -P tcptop
        check "$suite: nothing is left" unchanged "$root"
    done
}

rpm() {
    local root old=$work/older.rpm new=$out/tcptop-$version-1.$arch.rpm
    root=$(system bookworm)
    mountpoint -q "$root/proc" || mounted "$root"
    "$(echo "$cache"/tools/cargo-generate-rpm-*/bin/cargo-generate-rpm)" --target-dir "$(dirname "$out")" \
        --target "$arch-unknown-linux-gnu" --set-metadata 'version = "0.0.1"' --output "$old"
    cp "$old" "$root/tmp/older.rpm"
    cp "$new" "$root/tmp/new.rpm"
    check "rpm: digests" inside "$root" rpm -K --nosignature /tmp/new.rpm
    check "rpm: it needs a shell, and rpm itself" test -z \
        "$(inside "$root" rpm -qp --requires /tmp/new.rpm | grep -vE '^(/bin/sh|rpmlib\(.*|config\(tcptop\).*)$')"
    files "$root" -type f >"$work/before"
    # Debian's rpm does not know that there is a shell.
    check "rpm: install" inside "$root" rpm -i --nodeps /tmp/older.rpm
    works rpm "$root"
    echo '# mine' >>"$root/etc/logrotate.d/tcptop"
    check "rpm: upgrade" inside "$root" rpm -U --nodeps /tmp/new.rpm
    check "rpm: the new version is there" says "$version-1" inside "$root" rpm -q tcptop
    check "rpm: the changed file was kept" grep -qx '# mine' "$root/etc/logrotate.d/tcptop"
    check "rpm: it sees that change and no other" test \
        "$(inside "$root" rpm -V --nodeps tcptop | cut -c 3,10-)" = '5  c /etc/logrotate.d/tcptop'
    check "rpm: remove" inside "$root" rpm -e tcptop
    rm -f "$root/etc/logrotate.d/tcptop.rpmsave"
    # An RPM owns its files, and not the directories that it makes.
    check "rpm: no file is left" unchanged "$root" -type f
}

sources() {
    local home=$work/home tree=$work/sources
    mkdir -p "$home" "$tree"
    tar -xJf "$out/tcptop-$version.tar.xz" -C "$tree"
    # shellcheck disable=SC2016 # expanded there
    check "sources: build offline" unshare --net env -u CARGO_TARGET_DIR CARGO_HOME="$home" TCPTOP_DIST="$cache" \
        sh -c 'cd "$1" && scripts/dist.sh' - "$tree/tcptop-$version"
    check "sources: the same bytes" diff \
        <(grep -E " (tcptop-$version.tar.xz|.*($arch|$(dpkg --print-architecture)).*)$" "$out/SHA256SUMS") \
        "$tree/tcptop-$version/target/dist/SHA256SUMS"
}

newcomer() {
    local root
    root=$(system trixie)
    mountpoint -q "$root/proc" || mounted "$root"
    cp /etc/resolv.conf "$root/etc/"
    # With the crates inside, so that only apt needs a network.
    tar -xJf "$out/tcptop-$version.tar.xz" -C "$root/root"
    check "newcomer: apt knows packages" inside "$root" apt-get update -qq
    check "newcomer: README's packages" inside "$root" apt-get install -qq make git cargo
    check "newcomer: make build" inside "$root" make -C "/root/tcptop-$version" build
    check "newcomer: make install" inside "$root" make -C "/root/tcptop-$version" install
    works newcomer "$root"
}

check "checksums" checksums
for part; do "$part"; done
checked

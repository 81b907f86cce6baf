#!/bin/bash
# get.sh SERIES...
# get.sh -p x86_64|aarch64 PACKAGE...
#
# The first form: fetch Debian's newest kernel of each series (6.1, 6.12, ...;
# `newest` is the newest series of all) and unpack it below the cache:
#
#   SERIES/vmlinuz  SERIES/modules/  SERIES/abi (the package's name for it)
#
# A series that the directory $TCPTOP_KERNELS_BUILT has, in the same shape, is taken from
# there: kernels that Debian no longer has, or your own.
#
# Prints the directory of each kernel, one a line; its last part is the series, with the
# number instead of `newest`.  A kernel in the cache is not fetched again.  The machine's
# own apt sources stay as they are.
#
# The second form: unpack packages for another processor, of the same Debian release as this
# host, into one directory, and print it.
set -euo pipefail

if [ "${1:-}" = -p ]; then
    case $2 in
    x86_64) TCPTOP_KERNELS_ARCH=amd64 ;;
    aarch64) TCPTOP_KERNELS_ARCH=arm64 ;;
    *) echo "get.sh: no Debian packages for $2" >&2; exit 2 ;;
    esac
fi
cache=${TCPTOP_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-kernels}
arch=${TCPTOP_KERNELS_ARCH:-amd64}
apt=$cache/apt-$arch
store=$cache/$arch
# Only kernels for this machine's own kind of processor are there.
built=$([ "$arch" != amd64 ] || echo "${TCPTOP_KERNELS_BUILT:-}")
keys=/usr/share/keyrings/debian-archive-keyring.gpg

# The cloud flavour: half the download, and all that a virtual machine needs.
flavour=cloud-$arch

say() { echo "$*" >&2; }

# --- a separate apt configuration, with several releases of Debian ----------------
sources() { # $1: where the oldest release is
    # the machine's own mirror, where it has one
    local mirror
    mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    mirror=${mirror:-http://deb.debian.org/debian}
    echo "deb [arch=$arch signed-by=$keys] ${1:-$mirror} bullseye main"
    for suite in bookworm trixie trixie-backports sid experimental; do
        echo "deb [arch=$arch signed-by=$keys] $mirror $suite main"
    done
}

configure() {
    mkdir -p "$apt"/{lists/partial,cache/archives/partial,none}
    : >"$apt/status" # no installed packages: this apt only downloads
    # Dir::Etc::parts is an empty directory: a container's own settings would disable the
    # package cache.
    cat >"$apt/conf" <<END
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Check-Valid-Until "false";
Dir::Etc::parts "$apt/none";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/none";
Dir::Etc::preferencesparts "$apt/none";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
END
    export APT_CONFIG=$apt/conf
    # Package lists are used for a day.
    [ -z "$(find "$apt/fresh" -mtime -1 2>/dev/null)" ] || return 0
    sources >"$apt/sources.list"
    if ! apt-get update -qq >&2; then
        say "get.sh: looking for Debian 11 in the archive"
        sources http://archive.debian.org/debian >"$apt/sources.list"
        apt-get update -qq >&2
    fi
    touch "$apt/fresh"
}

# --- which packages make a kernel --------------------------------------------------
# Up to 6.18 linux-image-ABI has the kernel and its modules.  From 6.19 on
# linux-binary-ABI has the kernel and linux-modules-ABI the modules.  A kernel package may
# have "unsigned" in its name.  A kernel whose modules are gone from the archive is skipped.
complete() { # the ABIs of this flavour, newest first
    sed -nE "s/^linux-image-(unsigned-)?([0-9].*-$flavour)(-unsigned)?\$/\2/p" <<<"$packages" |
        sort -u | { grep -vxFf <(binaries) || true; } | cat - <(binaries | grep -xFf <(modules) || true) |
        sort -uVr
}
binaries() { sed -nE "s/^linux-binary-(unsigned-)?([0-9].*-$flavour)\$/\2/p" <<<"$packages"; }
modules() { sed -nE "s/^linux-modules-([0-9].*-$flavour)\$/\1/p" <<<"$packages"; }

has() { grep -qxF -- "$1" <<<"$packages"; }

packages_of() { # ABI
    local name
    for name in "linux-binary-$1" "linux-binary-unsigned-$1" "linux-image-$1" "linux-image-$1-unsigned"; do
        has "$name" && echo "$name" && break
    done
    if has "linux-modules-$1"; then echo "linux-modules-$1"; fi
}

fetch() { # series
    local series=$1 abi directory
    directory=$store/$series
    [ ! -e "$directory/abi" ] || return 0
    list
    abi=$(grep -m 1 -E "^${series//./\\.}[.+~-]" <<<"$abis") || {
        say "get.sh: Debian has no kernel $series ($flavour)"
        return 1
    }
    say "get.sh: fetching $abi"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    # shellcheck disable=SC2046 # a list of packages
    (cd "$work" && apt-get download -qq $(packages_of "$abi") >&2)
    for package in "$work"/*.deb; do
        dpkg-deb -x "$package" "$work/root"
    done
    # Older and newer packages have their files in different directories.
    mkdir -p "$work/kernel"
    mv "$(find "$work/root" -type f -name 'vmlinu[xz]*' -print -quit)" "$work/kernel/vmlinuz"
    mv "$(dirname "$(find "$work/root" -type d -path '*lib/modules/*/kernel' -print -quit)")" "$work/kernel/modules"
    echo "$abi" >"$work/kernel/abi"
    rm -rf "$directory"
    mv "$work/kernel" "$directory"
    rm -rf "$work"
}

unpack() { # PACKAGE...: into the root for this processor
    local root=$cache/$arch-root name
    # shellcheck source=/dev/null
    . /etc/os-release
    for name; do
        [ ! -e "$root/unpacked/$name" ] || continue
        configure
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        (cd "$work" && apt-get download -qq "$name/$VERSION_CODENAME" >&2)
        mkdir -p "$root/unpacked"
        dpkg-deb -x "$work"/*.deb "$root"
        touch "$root/unpacked/$name"
        rm -rf "$work"
    done
    echo "$root"
}

packages=
list() { # what Debian has
    [ -z "$packages" ] || return 0
    configure
    packages=$(apt-cache pkgnames linux-)
    abis=$(complete)
}

work=
trap 'rm -rf "$work"' EXIT
mkdir -p "$store"
if [ "${1:-}" = -p ]; then
    unpack "${@:3}"
    exit
fi
for series; do
    if [ "$series" = newest ]; then
        list
        series=$(head -n 1 <<<"$abis" | cut -d. -f1,2 | sed 's/[^0-9.].*//')
    elif [ -n "$built" ] && [ -e "$built/$series/abi" ]; then
        echo "$built/$series"
        continue
    fi
    fetch "$series"
    echo "$store/$series"
done

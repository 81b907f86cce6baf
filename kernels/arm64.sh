#!/bin/bash
# arm64.sh [-k KERNELS] [OPTION of matrix.sh]... [-- ARGUMENT...] — tests tcptop on another
# processor: builds tcptop (unless TCPTOP_BIN is one) and its live tests for arm64, and gives
# them to matrix.sh, which boots Debian's arm64 kernels (default: 6.1 6.12 newest) under QEMU
# and runs them there.  On 6.1 fentry loads but cannot be attached (that came to arm64 with
# 6.4), so tcptop has to choose the next hook by itself.
#
# For Debian and Ubuntu with Rust from rustup.  Prints what matrix.sh prints, and ends with
# its status.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
cd "$here/.."
export TCPTOP_KERNELS_ARCH=arm64

options=(-k "6.1 6.12 newest")
while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
[ $# -eq 0 ] || shift

"$here/install.sh" qemu-system-aarch64:qemu-system-arm aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
    aarch64-linux-gnu-strip:binutils-aarch64-linux-gnu /usr/aarch64-linux-gnu/include/stdio.h:libc6-dev-arm64-cross
rustup target list --installed | grep -qx aarch64-unknown-linux-gnu || rustup target add aarch64-unknown-linux-gnu

# --- the guest's tools and libraries, and those that the build links ------------------------
store=${TCPTOP_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-kernels}
root=$store/arm64-guest
if [ ! -e "$root/complete" ]; then
    "$here/get.sh" newest >/dev/null # writes apt's configuration for that processor
    rm -rf "$root" "$root.debs"
    mkdir -p "$root" "$root.debs/partial"
    # From the same Debian release as this host and its cross compiler.
    # shellcheck source=/dev/null
    . /etc/os-release
    export APT_CONFIG=$store/apt-arm64/conf
    apt-get install -qq -y --download-only --no-install-recommends -t "$VERSION_CODENAME" \
        -o "Dir::Cache::archives=$root.debs" busybox-static dash coreutils util-linux findutils \
        iproute2 libcap2-bin iperf3 gawk dnsmasq-base bind9-dnsutils libgcc-s1 zlib1g >&2
    # Without what they depend on: the C library's headers are the cross compiler's.
    (cd "$root.debs" && apt-get download -qq "libelf-dev/$VERSION_CODENAME" "zlib1g-dev/$VERSION_CODENAME")
    unset APT_CONFIG
    for package in "$root.debs"/*.deb; do dpkg-deb -x "$package" "$root"; done
    rm -rf "$root.debs"
    touch "$root/complete"
fi

# --- tcptop and its tests -----------------------------------------------------------------------
libraries=$root/usr/lib/aarch64-linux-gnu
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar \
    CFLAGS_aarch64_unknown_linux_gnu="-I$root/usr/include" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-L$libraries -Clink-arg=-Wl,-rpath-link,$root/lib/aarch64-linux-gnu" \
    PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_LIBDIR=$libraries/pkgconfig
target=(--target aarch64-unknown-linux-gnu)
[ -n "${TCPTOP_BIN:-}" ] || cargo build --release --locked "${target[@]}"
tests=$(cargo test --locked --no-run --test live --message-format=json "${target[@]}" |
    sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p')

TCPTOP_GUEST_ROOT=$root STRIP=aarch64-linux-gnu-strip exec "$here/matrix.sh" "${options[@]}" \
    "${TCPTOP_BIN:-${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/release/tcptop}" "$tests" "$@"

#!/bin/bash
# static.sh [x86_64|aarch64] — builds tcptop with all its libraries inside, so that the one
# file runs on any Linux of that processor, and prints its path.  The same sources, tools
# and libraries give the same bytes, in whatever directory they are.
#
# For another processor than this one: on Debian and Ubuntu, with Rust from rustup and what
# `install-deps.sh --dist ARCH` installs.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=${1:-$(uname -m)}
target=$arch-unknown-linux-gnu
NAME=${target//-/_}
if [ "$arch" = "$(uname -m)" ]; then
    compiler=cc
    libraries=$(dirname "$(realpath "$(cc -print-file-name=libelf.a)" || true)")
else
    compiler=$arch-linux-gnu-gcc
    rustup target list --installed | grep -qx "$target" || rustup target add "$target" >&2
    root=$(kernels/get.sh -p "$arch" libelf-dev zlib1g-dev libzstd-dev)
    libraries=$root/usr/lib/$arch-linux-gnu
    export "CFLAGS_$NAME=-I$root/usr/include" "CC_$NAME=$compiler" "AR_$NAME=$arch-linux-gnu-ar"
    export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_LIBDIR=$libraries/pkgconfig
fi
if [ ! -e "$libraries/libelf.a" ] || [ ! -e "$libraries/libz.a" ]; then
    echo "static.sh: no static libelf or zlib here (on Fedora: elfutils-libelf-devel-static, zlib-static, glibc-static)" >&2
    exit 1
fi

flags=(-Ctarget-feature=+crt-static "-Clinker=$compiler")
# Newer ones can read compressed sections.
if nm -A "$libraries/libelf.a" 2>/dev/null | grep -q ' U ZSTD_'; then
    flags+=("-Clink-arg=-L$libraries" -Clink-arg=-l:libzstd.a)
fi
TCPTOP_SOURCES=$PWD
TCPTOP_TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TCPTOP_SOURCES TCPTOP_TARGET
export RUSTC_WRAPPER=$PWD/scripts/rustc.sh
# build.rs has libbpf too, for this machine.
host=$(uname -m)_unknown_linux_gnu
export "LIBBPF_SYS_LIBRARY_PATH_$host=$(dirname "$(realpath "$(cc -print-file-name=libelf.a)")")"
export "LIBBPF_SYS_LIBRARY_PATH_$NAME=$libraries"
export "CARGO_TARGET_${NAME^^}_RUSTFLAGS=${flags[*]}"
unset RUSTFLAGS # would replace them
cargo build --release --locked --features static --target "$target" >&2
echo "$TCPTOP_TARGET/$target/release/tcptop"

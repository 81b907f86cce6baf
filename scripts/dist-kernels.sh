#!/bin/bash
# dist-kernels.sh x86_64|aarch64 [OPTION of matrix.sh]... — boots the kernels of matrix.sh, or those
# of arm64.sh, with the binary of the archive that dist.sh has made for this processor: on each
# `--doctor` must find a hook for every signal, and the tests exact:: compare counts with what was
# sent.  Prints what matrix.sh prints, and ends with its status.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=$1
shift
name=tcptop-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-$arch-linux
archive=${CARGO_TARGET_DIR:-target}/dist/$name.tar.gz
[ -e "$archive" ] || { echo "dist-kernels.sh: no $archive: make dist ARCHS=$arch" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xzf "$archive" -C "$work" --strip-components=2 "$name/bin/tcptop"

case $arch in
x86_64)
    tests=$(cargo test --locked --no-run --test live --message-format=json |
        sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p')
    kernels/matrix.sh -p best "$@" "$work/tcptop" "$tests" exact::
    ;;
aarch64) TCPTOP_BIN=$work/tcptop kernels/arm64.sh -p best "$@" -- exact:: ;;
*) echo "dist-kernels.sh: no kernels for $arch" >&2; exit 2 ;;
esac

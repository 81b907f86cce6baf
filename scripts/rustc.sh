#!/bin/sh
# rustc.sh RUSTC ARGUMENT... — runs the compiler so that the binary does not say where the
# sources, cargo's files and the target directory are.  cargo calls it for static.sh
# (RUSTC_WRAPPER): from RUSTFLAGS the paths would go into the names of directories.
for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    set -- "$@" --remap-path-prefix "$crates=crates"
done
# Where several match, the last one counts.
exec "$@" --remap-path-prefix "$TCPTOP_SOURCES=." --remap-path-prefix "$TCPTOP_SOURCES/vendor=crates" \
    --remap-path-prefix "$TCPTOP_TARGET=target"

#!/bin/bash
# compare.sh KERNELS [ARGUMENT...] — what `make compare` does: runs tcptop and other tools on
# the same load, on this kernel and, with the tool that needs kprobes, in guests with KERNELS
# ("" for none), and writes docs/comparison.md.  ARGUMENTs are those of `compare run-tools`.
set -euo pipefail
cd "$(dirname "$0")/.."

kernels=$1
shift
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
target=${CARGO_TARGET_DIR:-target}
out=$target/compare
mkdir -p "$out" target/peers/bin

# Built before the release binary: cargo bench builds a tcptop of its own, which unwinds on panic.
compare=$(cargo bench --locked --no-run --bench compare --message-format=json |
    sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p')
cargo build --release --locked
tcptop=$PWD/$target/release/tcptop
[ "${target#/}" = "$target" ] || tcptop=$target/release/tcptop

# libbpf-tools has a tcptop too.  It is unpacked only, so that neither hides the other.
if root=$(kernels/get.sh -p "$(uname -m)" libbpf-tools); then
    ln -sf "$root/usr/sbin/tcptop" target/peers/bin/bpf-tcptop
fi

results=("$out/here.result")
"${as_root[@]}" env "PATH=$PATH" "TCPTOP_BIN=$tcptop" "$compare" run-tools --result "$out/here.result" "$@"

# Emulated guests are too slow for costs, and for many short connections.
if [ -n "$kernels" ] && [ -n "$root" ]; then
    kernels/install.sh
    tools=tcptop,ss-1s,libbpf-tools
    more=(-a "$root/usr/sbin/tcptop:usr/bin/bpf-tcptop" -a "$(command -v stdbuf)"
        -a "$(dpkg -L coreutils | grep '/libstdbuf\.so$')")
    # Where there are kprobes, rustnet finds processes by eBPF.
    [ ! -x target/peers/bin/rustnet ] || { more+=(-a target/peers/bin/rustnet); tools+=,rustnet; }
    for kernel in $kernels; do
        rm -f "$out/$kernel.out"
        kernels/matrix.sh -k "$kernel" -p best -t 1800 -o "$out" "${more[@]}" \
            "$tcptop" "$compare" run-tools --tools "$tools" --connections 1000 --peers 200 --pairs 0 ||
            echo "compare.sh: not everything was compared on Linux $kernel" >&2
        ! grep -qs '^compare-result: ' "$out/$kernel.out" || results+=("$out/$kernel.out")
    done
fi
"$compare" write-document --output docs/comparison.md "${results[@]}"

#!/bin/bash
# fuzz.sh [SECONDS] [TARGET...] — looks for inputs that break a property of
# src/properties.rs, SECONDS (60) for each TARGET (all).  Inputs that break one are in
# fuzz/artifacts/.  Keeps in fuzz/corpus/ the smallest inputs that together reach what all
# reached; `cargo test --lib properties` tries these.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/tools/bin:$PATH
# libFuzzer's instrumentation is not stable yet.
export RUSTC_BOOTSTRAP=1

seconds=${1:-60}
shift || true
# Nobody can read a larger corpus, and the tests try it in seconds.
most=60
[ $# -gt 0 ] || mapfile -t all < <(cargo fuzz list)
for target in "${@:-${all[@]}}"; do
    echo "== $target, $seconds s"
    case $target in
    arguments) length=200 ;;
    decoding) length=1100 ;;
    *) length=4096 ;;
    esac
    found=fuzz/target/found/$target
    mkdir -p "$found"
    cargo fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=$length -timeout=20 -print_final_stats=1 -verbosity=0
    # What reaches most, smallest first, as far as there is room for it.
    smallest=$(mktemp -d)
    cargo fuzz run "$target" "$smallest" "$found" "fuzz/corpus/$target" -- \
        -merge=1 -max_len=$length -verbosity=0
    if [ "$(find "$smallest" -type f | wc -l)" -le $most ]; then
        rm -f "fuzz/corpus/$target"/*
        cp "$smallest"/* "fuzz/corpus/$target/"
    else
        find "$smallest" -type f -printf '%s %p\n' | sort -n | awk -v most=$most '
            { path[NR] = $2 }
            END { for (i = 1; i <= most; i++) print path[int(i * NR / most)] }' |
            { rm -f "fuzz/corpus/$target"/*; xargs cp -t "fuzz/corpus/$target/"; }
    fi
    rm -rf "$smallest"
done

#!/bin/bash
# test.sh — everything `make test` does: format, lints, tests, no needless rebuild.
# The live tests attach BPF programs, so they need root: without it they are left out,
# and a message says so.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format and lints"
scripts/check.sh

step "tests"
if [ "$(id -u)" -eq 0 ]; then
    cargo test --locked
else
    pure=(--lib --bins)
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        [[ $name == live || $name == '*' ]] || pure+=(--test "$name")
    done
    cargo test --locked "${pure[@]}"
fi

step "a second build compiles nothing"
cargo build --locked --quiet
rebuilt=$(cargo build --locked --quiet --message-format=json | grep '"fresh":false' || true)
if [ -n "$rebuilt" ]; then
    echo "rebuilt without a change:" >&2
    sed -n 's/.*"package_id":"\([^"]*\)".*/  \1/p' <<<"$rebuilt" | sort -u >&2
    exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
    printf '\n== all of it passed\n'
else
    printf '\n== passed, but for the live tests (tests/live.rs), which need root and were left out\n'
fi

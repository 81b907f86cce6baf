#!/bin/bash
# check.sh — format, lints and structure: what `make check` does, and `make test` first.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
# Any version from 14 on: .clang-format avoids the settings on which they disagree.
clang-format --dry-run -Werror bpf/*.[ch] benches/overhead/*.bpf.c
cargo clippy --locked --all-targets --all-features -- -D warnings
# Each header of bpf/ compiles on its own, and src/ follows the rules of ARCHITECTURE.md.
cargo test --locked --quiet --test bpf --test house
# The code outside src/linux builds, and passes its tests, without libbpf.
cargo clippy --locked --no-default-features --all-targets -- -D warnings
cargo test --locked --quiet --no-default-features --lib --test house
cargo run --locked --quiet --no-default-features --example replay >/dev/null
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps

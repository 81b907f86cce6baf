#!/bin/bash
# check.sh — format and lints: what `make check` does, and `make test` first.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
# Any version from 14 on: .clang-format leaves alone what they disagree about.
clang-format --dry-run -Werror bpf/*.[ch] benches/overhead/*.bpf.c
cargo clippy --locked --all-targets --all-features -- -D warnings
# Each header of bpf/ parses on its own.
cargo test --locked --quiet --test bpf

#!/bin/bash
# check.sh — format, lints and structure: what `make check` does, and `make test` first.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/tools/bin:$PATH

cargo fmt --check
# Dependencies: deny.toml says what is checked. None may be unused.
for manifest in Cargo.toml fuzz/Cargo.toml; do
    cargo deny --locked --log-level error --manifest-path $manifest --config deny.toml \
        check licenses bans sources
done
cargo shear --locked --deny-warnings >/dev/null || cargo shear --locked --deny-warnings
if timeout 60 cargo deny --locked fetch db 2>/dev/null; then
    cargo deny --locked --log-level error check advisories
else
    echo "advisories: NOT checked, because their database (github.com/RustSec) cannot be reached" >&2
fi
# Every script that says so in its first line, and what they share.
mapfile -t scripts < <(find scripts kernels contrib .ci -type f -exec \
    awk 'FNR == 1 { if (/^#!.*sh$/ || /^# checks.sh/) print FILENAME; nextfile }' {} + 2>/dev/null)
shellcheck "${scripts[@]}"
# Any version from 14 on: .clang-format avoids the settings on which they disagree.
clang-format --dry-run -Werror bpf/*.[ch] benches/overhead/*.bpf.c
cargo clippy --locked --all-targets --features bench-reference -- -D warnings
# Each header of bpf/ compiles on its own, and src/ follows the rules of ARCHITECTURE.md.
cargo test --locked --quiet --test bpf --test house
# The code outside src/linux builds, and passes its tests, without libbpf.
cargo clippy --locked --no-default-features --all-targets -- -D warnings
cargo test --locked --quiet --no-default-features --lib --test house
cargo run --locked --quiet --no-default-features --example replay >/dev/null
# The manual page has nothing that mandoc would change.
pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
cargo run --locked --quiet --no-default-features --example generate "$pages"
mandoc -T lint "$pages/man/man8/tcptop.8"
# Links, options and targets in the documentation. `make test` runs its commands.
cargo test --locked --quiet --no-default-features --test docs -- pages::
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps

#!/bin/bash
# sanitize.sh — the unit tests and, as root, a short live run with the address sanitizer:
# it ends a program that reads or writes memory which is not its own.  tcptop's unsafe code
# is system calls, and records that are read from bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
# The sanitizer is not stable yet, but the standard library for it is not needed.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes"
target=$(rustc -vV | sed -n 's/^host: //p')
build=(--locked --target "$target" --target-dir target/sanitize)

# The check can fail: this reads behind the end of a list.
mkdir -p target/sanitize
cat >target/sanitize/broken.rs <<'END'
fn main() {
    let list = vec![1_u8; 4];
    let end = std::hint::black_box(4);
    println!("{}", unsafe { *list.as_ptr().add(end) });
}
END
rustc -Zsanitizer=address --edition 2024 -o target/sanitize/broken target/sanitize/broken.rs
if target/sanitize/broken 2>/dev/null; then
    echo "the address sanitizer does not work here" >&2
    exit 1
fi

# Leaks are no such accesses, and the fixtures of the tests leak on purpose.
export ASAN_OPTIONS=detect_leaks=0
cargo test "${build[@]}" --lib --bins
if [ "$(id -u)" -eq 0 ]; then
    cargo build "${build[@]}"
    # The tests themselves are not what is looked at, so they are the usual ones.
    env -u RUSTFLAGS -u RUSTC_BOOTSTRAP TCPTOP_TEST_SLOW=4 \
        TCPTOP_BIN="$PWD/target/sanitize/$target/debug/tcptop" \
        cargo test --locked --test live -- "${1:-shutdown::}"
else
    echo "left out: the live test, which takes root" >&2
fi

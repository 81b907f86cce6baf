#!/bin/bash
# dist.sh [x86_64|aarch64]... — makes what is published, below target/dist: for each
# processor (default: this one) a Debian package, an RPM and an archive with the static
# binary, and one archive of the sources with all crates, which builds offline.
#
# Version and names are those of Cargo.toml.  The same commit, tools and libraries make the
# same bytes.  cargo-deb and cargo-generate-rpm are built, once, below $TCPTOP_DIST
# (~/.cache/tcptop-dist).
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022

[ $# -gt 0 ] || set -- "$(uname -m)"
cache=${TCPTOP_DIST:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-dist}
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target_dir/dist
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The time of all files: that of the commit, or of the archive of the sources.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(if [ -e .git ]; then git log -1 --format=%ct; else stat -c %Y Cargo.toml; fi)
fi
export SOURCE_DATE_EPOCH

archive() { # FILE DIRECTORY NAME: archives DIRECTORY/NAME
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu \
        --mode=u=rwX,go=rX -C "$2" -c "$3" | case $1 in *.gz) gzip -9n ;; *.xz) xz -6 -T1 ;; esac >"$1"
}

tool() { # NAME VERSION COMMAND...: runs the command with cargo's subcommand at this version
    local root=$cache/tools/$1-$2
    [ -x "$root/bin/$1" ] || CARGO_TARGET_DIR=$cache/build cargo install --quiet --locked --root "$root" "$1@$2" >&2
    "$root/bin/$1" "${@:3}"
}

rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- pages, of every processor alike ---------------------------------------------------
pages=$work/share
cargo run --quiet --locked --no-default-features --example generate "$pages"
gzip -9nk "$pages/man/man8/tcptop.8"
gzip -9nc CHANGELOG.md >"$pages/changelog.gz"
gzip -9nc >"$pages/changelog.Debian.gz" <<END
tcptop ($version-1) unstable; urgency=medium

  * Release $version: see changelog.gz.

 -- the tcptop authors <tcptop@example.org>  $(date -R -d "@$SOURCE_DATE_EPOCH")
END

# --- one processor after the other -----------------------------------------------------
for arch; do
    target=$arch-unknown-linux-gnu
    binary=$(scripts/static.sh "$arch")
    share=$(dirname "$binary")/share
    rm -rf "$share"
    cp -r "$pages" "$share"

    name=tcptop-$version-$arch-linux
    make --no-print-directory -s install BIN="$binary" SHARE="$share" DESTDIR="$work/$name" PREFIX=
    mkdir -p "$work/$name/share/doc/tcptop"
    cp -r README.md docs CHANGELOG.md LICENSE LICENSE-MIT LICENSE-GPL-2.0 contrib "$work/$name/share/doc/tcptop"
    archive "$out/$name.tar.gz" "$work" "$name"

    tool cargo-deb 3.8.0 --no-build --no-strip --locked --quiet --target "$target" --output "$out/" >&2
    # It keeps the time of a file that is older than the commit: these are not.
    rm -rf "$work/rpm"
    mkdir "$work/rpm"
    cp -r Cargo.toml README.md CHANGELOG.md LICENSE-MIT LICENSE-GPL-2.0 docs contrib "$work/rpm"
    touch "$binary"
    (cd "$work/rpm" && tool cargo-generate-rpm 0.21.1 --target-dir "$target_dir" --target "$target" \
        --payload-compress gzip --output "$out/" >&2)
done

# --- sources, with all crates ----------------------------------------------------------
name=tcptop-$version
mkdir "$work/$name"
if [ -e .git ]; then
    git diff --quiet HEAD || echo "dist.sh: the packages have changes that the sources have not: they are not committed" >&2
fi
if [ -e .git ]; then git archive HEAD; else tar -c --exclude=./target .; fi | tar -x -C "$work/$name"
if [ ! -d "$work/$name/vendor" ]; then
    (cd "$work/$name" && cargo vendor --locked --quiet --versioned-dirs >/dev/null)
    # What cargo vendor prints; with --quiet not every version does.
    mkdir -p "$work/$name/.cargo"
    cat >"$work/$name/.cargo/config.toml" <<'END'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"
END
fi
archive "$out/$name.tar.xz" "$work" "$name"

(cd "$out" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)
ls -l "$out" >&2

#!/bin/bash
# install.sh [COMMAND:PACKAGE]... — installs what matrix.sh needs: QEMU, a static busybox
# for the guest, the keys that Debian's kernels are signed with, and the tools of the
# tests; also each PACKAGE whose COMMAND (or file) is missing.  For Debian and Ubuntu.
set -euo pipefail

packages=()
command -v qemu-system-x86_64 >/dev/null || packages+=(qemu-system-x86)
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || packages+=(busybox-static)
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages+=(debian-archive-keyring)
command -v python3 >/dev/null || packages+=(python3)
for tool in ip:iproute2 setcap:libcap2-bin setpriv:util-linux iperf3:iperf3 gawk:gawk strip:binutils "$@"; do
    command -v "${tool%:*}" >/dev/null || [ -e "${tool%:*}" ] || packages+=("${tool#*:}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "the kernel matrix takes Debian's kernels apart and runs on Debian and Ubuntu only" >&2
    exit 1
fi
echo "Installing ${packages[*]}: the kernel matrix boots other kernels with them" >&2
root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)
get() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >&2; }

get update
# If parts of QEMU were installed from backports, the release's own packages of QEMU do not
# fit them, or would remove them.  Then install from backports, and use this source for this
# installation only.
if plan=$(apt-get -s --no-install-recommends install "${packages[@]}" 2>&1) && ! grep -q '^Remv' <<<"$plan"; then
    get install "${packages[@]}"
    exit 0
fi
echo "$plan" >&2
echo "The release's own packages do not fit what is installed: trying backports" >&2
# shellcheck source=/dev/null
. /etc/os-release
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
mkdir -p "$private/lists/partial"
for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-updates" "$VERSION_CODENAME-backports"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done >"$private/sources.list"
options=(-o "Dir::Etc::sourcelist=$private/sources.list" -o Dir::Etc::sourceparts=/nonexistent
    -o "Dir::State::lists=$private/lists" -o APT::Sandbox::User=root)
get "${options[@]}" update
get "${options[@]}" --no-remove -t "$VERSION_CODENAME-backports" install "${packages[@]}"

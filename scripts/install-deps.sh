#!/bin/sh
# install-deps.sh [--test|--bench|--peers|--dist [ARCH...]] — the packages needed to build tcptop, and
# those that its tests, its benchmarks (with or without its peers) or its packages (for those processors)
# use.  Says nothing if none is missing.  Installs missing packages on Debian and Ubuntu, cargo too where
# theirs is new enough; elsewhere it only prints their names (status 1).
set -eu

case ${1:-} in
'') wanted_for=' build ' ;;
--test) wanted_for=' build test ' ;;
--bench) wanted_for=' build bench ' ;;
--peers) wanted_for=' build bench peers ' ;;
--dist)
    wanted_for=' build dist '
    shift
    for arch; do [ "$arch" = "$(uname -m)" ] || wanted_for="$wanted_for$arch "; done
    ;;
*)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
    ;;
esac

say() { echo "$*" >&2; }

# For what, how to check that it is installed, why, and its package's name in each manager.
table() {
    cat <<'END'
# for  check              why                              apt              dnf                  zypper         pacman      apk
build  command:make       builds_libbpf                    make             make                 make           make        make
build  command:cc         builds_libbpf_and_links          gcc,libc6-dev    gcc                  gcc            gcc         gcc,musl-dev,linux-headers
build  command:clang      compiles_the_BPF_programs        clang            clang                clang          clang       clang
build  command:pkg-config finds_the_libraries              pkg-config       pkgconf-pkg-config   pkg-config     pkgconf     pkgconf
build  library:libelf     libbpf_reads_BPF_objects_with_it libelf-dev       elfutils-libelf-devel libelf-devel  libelf      elfutils-dev
build  library:zlib       libelf_needs_it                  zlib1g-dev       zlib-devel           zlib-devel     zlib        zlib-dev
test   command:clang-format checks_how_bpf/_is_laid_out    clang-format     clang-tools-extra    clang-tools    clang       clang-extra-tools
test   command:shellcheck checks_the_scripts               shellcheck       ShellCheck           ShellCheck     shellcheck  shellcheck
test   command:mandoc     checks_the_manual_page           mandoc           mandoc               mandoc         mandoc      mandoc
test   command:bash       runs_the_tests                   bash             bash                 bash           bash        bash
test   command:ip         network_namespaces_for_the_tests iproute2         iproute              iproute2       iproute2    iproute2
test   command:ss         a_second_opinion_on_TCP          iproute2         iproute              iproute2       iproute2    iproute2-ss
test   command:tc         loss_and_delay_for_the_tests     iproute2         iproute-tc           iproute2       iproute2    iproute2-tc
test   command:iperf3     steady_traffic_for_the_tests     iperf3           iperf3               iperf          iperf3      iperf3
test   command:dnsmasq    answers_DNS_for_the_tests        dnsmasq-base     dnsmasq              dnsmasq        dnsmasq     dnsmasq
test   command:dig        asks_DNS_in_the_tests            bind9-dnsutils   bind-utils           bind-utils     bind        bind-tools
test   command:gawk       reads_lines_and_CSV_in_the_tests gawk             gawk                 gawk           gawk        gawk
test   command:python3    reads_CSV_and_JSON_in_the_tests  python3          python3              python3        python      python3
test   command:sqlite3    reads_CSV_in_the_tests           sqlite3          sqlite               sqlite3        sqlite      sqlite
test   command:jq         reads_JSON_in_the_tests          jq               jq                   jq             jq          jq
test   command:jsonschema checks_JSON_in_the_tests       python3-jsonschema python3-jsonschema python3-jsonschema python-jsonschema py3-jsonschema
test   command:promtool   checks_the_file_for_Prometheus  prometheus        golang-github-prometheus golang-github-prometheus-prometheus prometheus prometheus
test   command:prometheus-node-exporter serves_it_in_the_tests prometheus-node-exporter golang-github-prometheus-node-exporter golang-github-prometheus-node_exporter prometheus-node-exporter prometheus-node-exporter
test   command:logrotate  rotates_logs_in_the_tests        logrotate        logrotate            logrotate      logrotate   logrotate
test   command:zcat       reads_rotated_logs_in_the_tests  gzip             gzip                 gzip           gzip        gzip
test   command:mount      small_file_systems_for_the_tests mount            util-linux           util-linux     util-linux  mount
test   command:setsid     starts_a_cron_job_in_the_tests   util-linux       util-linux           util-linux     util-linux  setsid
test   command:setcap     capabilities_for_the_tests       libcap2-bin      libcap               libcap-progs   libcap      libcap-setcap
test   command:setpriv    capabilities_for_the_tests       util-linux       util-linux           util-linux     util-linux  setpriv
test   command:podman     runs_containers_in_the_tests     podman           podman               podman         podman      podman
test   command:crun       podman_starts_containers_with_it crun             crun                 crun           crun        crun
test   command:tar        makes_an_image_for_the_tests     tar              tar                  tar            tar         tar
test   command:ps         memory_and_units_in_the_tests    procps           procps-ng            procps         procps-ng   procps
bench  command:ss         a_second_opinion_on_TCP          iproute2         iproute              iproute2       iproute2    iproute2-ss
bench  command:redis-server a_real_server_to_measure       redis-server     redis                redis          redis       redis
bench  command:redis-benchmark its_load                    redis-tools      redis                redis          redis       redis
bench  command:nginx      a_real_server_to_measure         nginx            nginx                nginx          nginx       nginx
bench  command:wrk        its_load                         wrk              wrk                  wrk            wrk         wrk
peers  command:nethogs    a_peer_to_measure                nethogs          nethogs              nethogs        nethogs     nethogs
peers  command:iftop      a_peer_to_measure                iftop            iftop                iftop          iftop       iftop
peers  library:libpcap    rustnet_reads_packets_with_it    libpcap-dev      libpcap-devel        libpcap-devel  libpcap     libpcap-dev
dist   static:elf         inside_the_static_binary         libelf-dev       elfutils-libelf-devel-static libelf-devel-static libelf elfutils-dev
dist   static:z           inside_the_static_binary         zlib1g-dev       zlib-static          zlib-devel-static zlib     zlib-static
dist   static:zstd        newer_libelf_needs_it            libzstd-dev      libzstd-static       libzstd-devel-static zstd  zstd-static
dist   command:git        lists_the_sources                git              git                  git            git         git
dist   command:xz         compresses_the_packages          xz-utils         xz                   xz             xz          xz
dist   command:lintian    checks_the_package               lintian          lintian              lintian        lintian     lintian
dist   command:rpm        checks_the_package               rpm              rpm                  rpm            rpm-tools   rpm
dist   command:mmdebstrap root_file_systems_for_the_tests  mmdebstrap       mmdebstrap           mmdebstrap     mmdebstrap  mmdebstrap
aarch64 cross:aarch64-linux-gnu-gcc links_the_binary_for_arm64 gcc-aarch64-linux-gnu,libc6-dev-arm64-cross
x86_64 cross:x86_64-linux-gnu-gcc links_the_binary_for_x86-64 gcc-x86-64-linux-gnu,libc6-dev-amd64-cross
END
}

present() {
    case $1 in
    command:*) command -v "${1#command:}" >/dev/null ;;
    static:*) command -v cc >/dev/null && [ -e "$(cc -print-file-name="lib${1#static:}.a")" ] ;;
    cross:*) command -v "${1#cross:}" >/dev/null && [ -e "$("${1#cross:}" -print-file-name=libc.a)" ] ;;
    library:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#library:}" ;;
    esac
}

# Prints "package reason" for each missing one, with its name for the package manager $1.
# shellcheck disable=SC2034 # the columns are chosen by name
missing() {
    table | grep -v '^#' | while read -r what check why apt dnf zypper pacman apk; do
        case $wanted_for in *" $what "*) ;; *) continue ;; esac
        present "$check" && continue
        eval "packages=\$$1"
        echo "$packages" | tr ',' '\n' | sed "s/\$/ $(echo "$why" | tr _ ' ')/"
    done | sort -u -k 1,1
}

# --- cargo: from the distribution where that is new enough, otherwise from rustup ----
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
# Servers are there, and the PATH of other users than root may lack these directories.
[ "${wanted_for#*bench}" = "$wanted_for" ] || PATH=$PATH:/usr/sbin:/sbin
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
is_enough() { [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; } # VERSION

case $wanted_for in
*' dist '?*)
    for tool in apt-get rustup; do
        command -v $tool >/dev/null && continue
        say "packages for another processor than this one are made on Debian or Ubuntu with Rust from rustup: no $tool here"
        exit 1
    done
    ;;
esac

as_root=
become_root() { # PACKAGES: how they are installed
    [ "$(id -u)" -ne 0 ] || return 0
    if ! command -v sudo >/dev/null; then
        say "Please install them as root: apt-get install $1"
        exit 1
    fi
    as_root=sudo
    say "Installing them with sudo apt-get"
}
apt_install() { # PACKAGE...
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >&2
}

if ! command -v cargo >/dev/null; then
    if command -v apt-cache >/dev/null && [ -z "$(apt-cache show cargo 2>/dev/null)" ]; then
        become_root cargo
        $as_root apt-get update -qq >&2
    fi
    offered=$(apt-cache show --no-all-versions cargo 2>/dev/null | sed -n 's/^Version: //p')
    if [ -z "$offered" ] || ! is_enough "$offered"; then
        say "tcptop is built with cargo $wanted or newer, which is not installed: see https://rustup.rs"
        [ -z "${SUDO_USER:-}" ] || say "(where $SUDO_USER has it: run make without sudo, it asks for sudo when needed)"
        exit 1
    fi
    say "Installing cargo $offered"
    become_root cargo
    # Without certificates it downloads no crates.
    apt_install cargo ca-certificates
fi
found=$(cargo --version | cut -d' ' -f2)
if ! is_enough "$found"; then
    say "tcptop needs cargo $wanted or newer, this is $found: rustup update, or see https://rustup.rs"
    exit 1
fi
if [ "$wanted_for" = ' build test ' ]; then
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        [ $component = fmt ] && component=rustfmt
        say "Installing $component: make check runs it"
        if command -v rustup >/dev/null; then
            rustup component add "$component" >&2
        elif command -v apt-get >/dev/null; then
            become_root "$component"
            apt_install "$(echo "$component" | sed 's/^clippy$/rust-clippy/')"
        else
            say "Please install it: make check cannot do without"
            exit 1
        fi
    done
fi

# --- tools of cargo: into target/tools ---------------------------------------------
if [ "$wanted_for" = ' build test ' ]; then
    list=$(dirname "$0")/tools.txt
    tools=$(dirname "$0")/../target/tools
    if ! cmp -s "$list" "$tools/tools.txt"; then
        say "Installing tools that check the dependencies, as scripts/tools.txt names them"
        rm -rf "$tools"
        # Compiling them takes minutes, so only where there is no pip or no such wheel.
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
            --no-deps --require-hashes --only-binary :all: --target "$tools" -r "$list" >&2 ||
            sed -n 's/^astral-dev-toolchain-\(.*\)==\([^ ]*\).*/\1@\2/p' "$list" |
            xargs cargo install --quiet --locked --root "$tools" >&2
        cp "$list" "$tools/tools.txt"
    fi
fi

# --- peers from crates.io: into target/peers -----------------------------------------
# One that cannot be installed is not measured, and the benchmarks say so.
crates() {
    [ "${wanted_for#*peers}" != "$wanted_for" ] || return 0
    peers=$(dirname "$0")/../target/peers
    for crate in bandwhich@0.23.1 rustnet-monitor@1.7.0; do
        grep -qs "\"${crate%@*} ${crate#*@} " "$peers/.crates.toml" && continue
        say "Compiling $crate, a peer to measure"
        nice -n 19 cargo install --quiet --locked --root "$peers" "$crate" >&2 ||
            say "$crate cannot be installed"
    done
}

# --- packages ------------------------------------------------------------------
manager=apt install="(as Debian calls them)"
for candidate in "apt-get install" "dnf install" "zypper install" "pacman -S" "apk add"; do
    command -v "${candidate%% *}" >/dev/null || continue
    manager=${candidate%% *} install=$candidate
    manager=${manager%-get}
    break
done
list=$(missing "$manager")
[ -n "$list" ] || { crates; exit 0; }
packages=$(echo "$list" | cut -d' ' -f1 | tr '\n' ' ')

say "Missing here:"
echo "$list" | while read -r package why; do
    printf '  %-22s %s\n' "$package" "$why" >&2
done

if ! command -v apt-get >/dev/null; then
    say "Please install them: $install $packages"
    exit 1
fi
become_root "$packages"
$as_root apt-get update -qq >&2
# shellcheck disable=SC2086 # a list of packages
apt_install $packages

list=$(missing apt)
if [ -n "$list" ]; then
    say "Still missing after the installation: $(echo "$list" | cut -d' ' -f1 | tr '\n' ' ')"
    exit 1
fi
crates

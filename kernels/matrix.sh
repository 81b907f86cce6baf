#!/bin/bash
# matrix.sh [-k KERNELS] [-t SECONDS] [-o DIRECTORY] [-a FILE[:PATH]]... [-e NAME=VALUE]... TCPTOP TESTS [ARGUMENT...]
#
# Boots Debian's kernels one after the other, runs the test program TESTS there as
# root with TCPTOP_BIN set to TCPTOP, and prints a table test x kernel.  An emulated
# guest is slow, so the tests get more patience (TCPTOP_TEST_SLOW).  Ends with
# "N passed, N failed", and status 1 where anything failed.
#
#   -k  the series (default below; `newest`: the newest that Debian has)
#   -t  seconds for one kernel, boot included
#   -o  keep each kernel's output and console there (default: they are shown
#       where a test failed)
#   -a  take another file or program along, to PATH in the guest
#   -e  set a variable for the tests, such as
#       TCPTOP_TEST_ARGS="--without fentry/ip_send_skb": UDP by cgroup_skb
#
# 5.10 is too old for tcptop: there it must refuse in one sentence.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
kernels="5.10 6.1 6.12 6.18 newest"
seconds=900
directory=
tools=()
too_old=" 5.10 "
variables=()
while getopts k:t:o:a:e: option; do
    case $option in
    k) kernels=$OPTARG ;;
    t) seconds=$OPTARG ;;
    o) directory=$OPTARG ;;
    a) tools+=("$OPTARG") ;;
    e) variables+=("$OPTARG") ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2; }
tcptop=$1 tests=$2
shift 2

modules=(veth dummy vxlan sch_netem sch_fq tcp_bbr tcp_diag udp_diag unix_diag
    tls aes_generic gcm ghash_generic ctr) # kernel TLS asks for its ciphers by name
# Debian's busybox runs its own applets in place of programs wherever it starts
# something: what starts other programs is taken from the host as well.
tools+=("$(type -P sh):bin/sh")
for tool in env timeout setsid xargs ip ss tc setcap getcap capsh setpriv unshare nsenter iperf3 gawk dnsmasq dig; do
    tools+=("$(PATH=$PATH:/usr/sbin:/sbin type -P "$tool" || true)")
done

cache=${TCPTOP_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/tcptop-kernels}/${TCPTOP_KERNELS_ARCH:-amd64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$directory" ] || directory=$work/output
mkdir -p "$directory"

# Word splitting is wanted: these are lists.
# shellcheck disable=SC2086
kernels=$("$here/get.sh" $kernels)

job() { # what the guest runs
    printf '#!/bin/sh\nexport TCPTOP_BIN=/usr/bin/tcptop TCPTOP_TEST_SLOW=6\nexec env'
    printf ' %q' ${variables[@]+"${variables[@]}"} "$@"
    echo
}
job /usr/bin/refusal >"$work/refusal"
job /usr/bin/tests "$@" >"$work/tests"
for job in refusal tests; do
    # shellcheck disable=SC2046
    "$here/initramfs.py" guest "$work/$job.cpio" "$here/init.sh" "$tcptop:usr/bin/tcptop" "$tests:usr/bin/tests" \
        "$here/refusal.sh:usr/bin/refusal" "$work/$job:job" $(printf '%s\n' "${tools[@]}")
done

# One line per result: kernel, test, ok | FAILED | ignored.  A test that complains
# on stderr has its result on a later line; one without a result was under way
# when the guest ended.
results() {
    gawk -v kernel="$1" '
        function result(word) { print kernel "\t" name "\t" word; name = "" }
        match($0, /^test (.*[^ ]) +\.\.\. *(ok|FAILED|ignored)?/, part) && !/^test result:/ {
            if (name != "") result("FAILED")
            name = part[1]
            if (part[2] != "") result(part[2])
            next
        }
        name != "" && /^(ok|FAILED|ignored)\r?$/ { result($1) }
        END { if (name != "") result("FAILED") }' "$2"
}

for kernel in $kernels; do
    job=tests
    [[ $too_old != *" $kernel "* ]] || job=refusal
    "$here/initramfs.py" modules "$work/modules.cpio" "$cache/$kernel" "${modules[@]}"
    cat "$work/$job.cpio" "$work/modules.cpio" >"$work/initramfs"
    started=$SECONDS status=0
    "$here/boot.sh" "$cache/$kernel" "$work/initramfs" "$directory/$kernel.console" "$seconds" \
        >"$directory/$kernel.out" 2>&1 || status=$?
    printf '%-6s %-30s status %s, %s s\n' "$kernel" "$(cat "$cache/$kernel/abi")" $status $((SECONDS - started))
    results "$kernel" "$directory/$kernel.out" >"$work/one"
    if [ $status -ne 0 ] && ! grep -q 'FAILED$' "$work/one"; then
        # died, hung, or refused to run: no test could say so
        printf '%s\t(the guest: status %s)\tFAILED\n' "$kernel" $status >>"$work/one"
    elif [ ! -s "$work/one" ]; then
        printf '%s\t(no test ran)\tFAILED\n' "$kernel" >>"$work/one"
    fi
    if grep -q 'FAILED$' "$work/one"; then
        sed "s/^/[$kernel] /" "$directory/$kernel.out"
    fi
    cat "$work/one" >>"$work/results"
done

echo
gawk -F '\t' -v kernels="$kernels" '
    function trimmed(row) { sub(/ +$/, "", row); return row }
    !($2 in seen) { seen[$2] = 1; order[++tests] = $2; if (length($2) > width) width = length($2) }
    { cell[$2, $1] = $3; count[$3]++ }
    END {
        columns = split(kernels, kernel, /[ \n]+/)
        row = sprintf("%-*s", width, "test")
        for (k = 1; k <= columns; k++) row = row sprintf("  %-7s", kernel[k])
        print trimmed(row)
        for (t = 1; t <= tests; t++) {
            row = sprintf("%-*s", width, order[t])
            for (k = 1; k <= columns; k++) {
                at = order[t] SUBSEP kernel[k]
                row = row sprintf("  %-7s", (at in cell) ? cell[at] : "-")
            }
            print trimmed(row)
        }
        printf "\n%d passed, %d failed", count["ok"], count["FAILED"]
        if (count["ignored"]) printf ", %d ignored", count["ignored"]
        print ""
        exit count["FAILED"] > 0
    }' "$work/results"

#!/bin/bash
# matrix.sh [-k KERNELS] [-p PASSES] [-f] [-j GUESTS] [-t SECONDS] [-o DIRECTORY]
#           [-a FILE[:PATH]]... [-e NAME=VALUE]... TCPTOP TESTS [ARGUMENT...]
#
# Boots Debian's kernels, and those in the directory $TCPTOP_KERNELS_BUILT, and runs the
# test program TESTS there as root, with TCPTOP_BIN set to TCPTOP.  Prints which hooks served
# on each kernel, a table of test by kernel, and which tests were left out where.
# The tests wait longer, since an emulated guest is slow (TCPTOP_TEST_SLOW).  Ends with
# "N passed, N failed", and status 1 if anything failed.
#
# Each kernel is tested in several passes: first with the hooks that tcptop chooses, then
# with each hook of lower rank, with the better ones disabled (passes below).  ARGUMENTs
# replace the choice of tests in every pass.
#
# A guest's time is tcptop's starts: three seconds of a processor each.  So the lowest and
# the newest kernel of a run have the long choice of tests, and those between them have
# mostly tests that share one tcptop, and one processor (two cost half as much again).
#
#   -k  the series (default below; `newest`: the newest that Debian has).  Those of the
#       default that Debian no longer has are left out, and named, without the directory
#   -p  only the passes with these names
#   -f  every test in every pass, on every kernel: hours on a small machine
#   -j  guests at a time (default: one more than processors, since guests often wait)
#   -t  seconds for one kernel, boot included
#   -o  keep each kernel's output and console in DIRECTORY (default: show the output
#       of a kernel on which a test failed)
#   -a  copy another file or program into the guest, to PATH
#   -e  set a variable for the tests, such as TCPTOP_TEST_LONG=1; on a busy machine,
#       where a guest gets only a part of a processor, TCPTOP_TEST_SLOW=60
#
# 5.10 and 5.11 are too old for tcptop: there it must refuse in one sentence.
# With TCPTOP_KERNELS_ARCH (arm64.sh), TCPTOP_GUEST_ROOT has the tools for that processor.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
kernels="5.10 6.1 6.12 6.18 newest"
built="5.11 5.15" # what Debian no longer has
only=
full=
guests=$(($(nproc) + 1))
seconds=
directory=
tools=()
too_old=" 5.10 5.11 "
left_out='' failed=''
variables=()
while getopts k:p:fj:t:o:a:e: option; do
    case $option in
    k) kernels=$OPTARG built= ;;
    p) only=$OPTARG ;;
    f) full=yes ;;
    j) guests=$OPTARG ;;
    t) seconds=$OPTARG ;;
    o) directory=$OPTARG ;;
    a) tools+=("$OPTARG") ;;
    e) variables+=("$OPTARG") ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
tcptop=$1 tests=$2
shift 2
[ -n "$seconds" ] || seconds=$([ -z "$full" ] && echo 1800 || echo 7200)

# --- what runs where --------------------------------------------------------------------
# On no kernel of a guest: what is the same on every kernel, and so is shown by the kernel of
# whoever runs `make test`: options, formats, files of output, terminals.
same="lines:: control:: csv:: disk:: json:: cron:: view:: groups:: terminal:: shared_places:: filters:: columns:: soak:: shutdown::
    while_tcptop_rests one_step_down faults::killed_under_load faults::rotation_storm faults::fork_bomb more_than_the_ring_holds"
# Only on the lowest kernel and the newest: what depends on the kernel by its age at most
# (capabilities, refusals, names), and what shows at length what shorter tests show too.
ends="privilege:: refused:: who:: cleanup:: doctor::text_and_json_agree doctor::attached_but_silent doctor::ordinary_user
    confined:: verify:: losses:: churn::skipped_state_changes programs::beside_others netns::more_than netns::cannot
    existing::busy existing::listeners existing::lifetime existing::thousands existing::shared_by_processes
    existing::restarted_at_once netns::with_ pool::none pool::full
    identity::from_the_first_row netns::same_addresses netns::tcptop_within_one
    measure::steady_rate measure::among_thousands ghosts::the_full_pass
    slow::bad_network slow::reader_that_stops slow::small_send_buffer slow::congestion_window
    slow::handshake_with_a_delay slow::waiting_for_data
    udp::five_thousand_peers udp::nothing_lost udp::full_table udp::iperf udp::filters udp::without_net_admin"
# Only with the hooks that tcptop chooses.
once="udp::five_thousand_peers udp::nothing_lost"
# With a lower hook only on the lowest kernel and the newest: tests that start tcptop.
start="udp::other_namespaces udp::owner_after_a_fork udp::owner_receives_late udp::older_sockets udp::expires_and_returns
    udp::many_threads"
# The guests have neither Podman nor a ps that asks systemd.
absent="podman:: who::units"

# name | providers | arguments of tcptop | arguments of the tests.  A pass with another provider
# of owners runs only the tests of owners, one with another provider of UDP only those of UDP.
sending=tp_btf/tcp_sendmsg_locked tp=tp_btf/sock_send_length entry=fentry/tcp_sendmsg udp=fentry/ip_send_skb
passes() { # ends | between
    local between=$ends more=$start
    [ "$1" = between ] || between='' more=''
    echo "best||| $(skip "$absent $same $between")"
    echo "$tp|$tp|--without $sending|owner::"
    echo "$entry|$entry|--without $sending --without $tp|owner::"
    echo "iter/task_file|iter/task_file|--without $sending --without $tp --without $entry|owner::"
    echo "cgroup_skb|cgroup_skb|--without $udp|udp:: $(skip "$once $between $more")"
    [ "$1" = between ] ||
        echo "cgroup_skb+iter/task_file|cgroup_skb iter/task_file|--without $udp --without $sending --without $tp --without $entry|udp::owner"
}
skip() { for test in $1; do printf -- '--skip %s ' "$test"; done; }

chosen() { # ends | between, then ARGUMENTs: the passes of this run
    local name provider extra arguments kind=$1
    shift
    [ -z "$full$only" ] || kind=ends
    passes "$kind" | while IFS='|' read -r name provider extra arguments; do
        [ -z "$only" ] || [[ " $only " == *" $name "* ]] || continue
        [ -z "$full" ] || arguments=$(skip "$absent")
        [ $# -eq 0 ] || arguments=$*
        echo "$name|$provider|$extra|$arguments"
    done
}

modules=(veth dummy vxlan sch_netem sch_tbf sch_fq tcp_bbr tcp_diag udp_diag unix_diag
    tls aes_generic gcm ghash_generic ctr) # kernel TLS asks for its ciphers by name
# The program of that name for the guest's processor.
program() {
    local directory
    if [ -z "${TCPTOP_GUEST_ROOT:-}" ]; then
        PATH=$PATH:/usr/sbin:/sbin type -P "$1" || true
        return
    fi
    for directory in usr/bin bin usr/sbin sbin; do
        [ ! -e "$TCPTOP_GUEST_ROOT/$directory/$1" ] || { echo "$TCPTOP_GUEST_ROOT/$directory/$1"; return; }
    done
}
# A busybox applet that starts other programs starts busybox's own applets instead of the
# full tools.  So the programs that start others (sh, env, xargs ...) are full ones too.
tools+=("$(program sh):bin/sh")
for tool in env timeout setsid xargs ip ss tc setcap getcap capsh setpriv unshare nsenter iperf3 gawk dnsmasq dig; do
    found=$(program "$tool")
    [ -z "$found" ] || tools+=("$found")
done

work=$(mktemp -d)
# Each guest is a process group of its own, so that an interrupt ends those still running.
set -m
# shellcheck disable=SC2154 # assigned in the trap
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
[ -n "$directory" ] || directory=$work/output
mkdir -p "$directory"

for kernel in $built; do
    if [ -e "${TCPTOP_KERNELS_BUILT:-/nonexistent}/$kernel/abi" ]; then
        kernels+=" $kernel"
    else
        left_out+=" $kernel"
    fi
done
# Word splitting is wanted: these are lists.
# shellcheck disable=SC2086
found=$("$here/get.sh" $kernels)
declare -A place # of each kernel
for path in $found; do place[${path##*/}]=$path; done
kernels=$(printf '%s\n' "${!place[@]}" | sort -V)

supported=$(for kernel in $kernels; do [[ $too_old == *" $kernel "* ]] || echo "$kernel"; done)
where() { # kernel: the kind of its passes
    local lowest newest
    lowest=$(head -n 1 <<<"$supported") newest=$(tail -n 1 <<<"$supported")
    if [[ $too_old == *" $1 "* ]]; then
        echo refusal
    elif [ "$1" = "$lowest" ] || [ "$1" = "$newest" ]; then
        echo ends
    else
        echo between
    fi
}

# The guest's files: those of every kernel, then those of each kind of passes.
"$here/initramfs.py" guest "$work/guest.cpio" "$here/init.sh" "$tcptop:usr/bin/tcptop" "$tests:usr/bin/tests" \
    "$here/refusal.sh:usr/bin/refusal" "$here/passes.sh:usr/bin/passes" "${tools[@]}"
for kind in refusal ends between; do
    {
        printf '#!/bin/sh\nexport TCPTOP_BIN=/usr/bin/tcptop TCPTOP_TEST_SLOW=6 TCPTOP_TEST_OWN_CLOCK=1\nexec env'
        printf ' %q' ${variables[@]+"${variables[@]}"} "/usr/bin/$([ $kind = refusal ] && echo refusal || echo passes)"
        echo
    } >"$work/$kind.job"
    if [ $kind = refusal ]; then echo refusal; else chosen $kind "$@"; fi >"$work/$kind.passes"
    "$here/initramfs.py" files "$work/$kind.cpio" "$work/$kind.job:job" "$work/$kind.passes:etc/passes"
done
[ -s "$work/ends.passes" ] || { echo "matrix.sh: no pass is named $only" >&2; exit 2; }

# Prints one line per result: kernel, pass: test, ok | FAILED | ignored |
# chosen (its hooks already served in the pass `best`).  The result of a
# test that writes to stderr is on a later line.  A test without a result was running when
# the guest ended: it has failed.  A pass that did not end, or ran no test, has failed too.
results() { # kernel, output; the names of its passes on stdin
    gawk -v kernel="$1" '
        function row(what, word) { print kernel "\t" (pass == "best" ? "" : pass ": ") what "\t" word }
        function result(word) {
            row(name, word)
            if (name != "doctor") ran++
            failed += word == "FAILED"
            name = ""
        }
        function ended(status) {
            if (name != "") result("FAILED")
            if (!ran) row("(no test ran)", "FAILED")
            else if (status && !failed) row("(status " status ")", "FAILED")
            running = 0
        }
        FILENAME == "-" { expected[++passes] = $0; next }
        /^pass: / { pass = substr($0, 7); running = begun[pass] = 1; ran = failed = 0; next }
        /^pass ended: / { ended($3 + 0); next }
        match($0, /^test (.*[^ ]) +\.\.\. *(ok|FAILED|ignored|chosen)?/, part) && !/^test result:/ {
            if (name != "") result("FAILED")
            name = part[1]
            if (part[2] != "") result(part[2])
            next
        }
        name != "" && /^(ok|FAILED|ignored|chosen)\r?$/ { result($1) }
        END {
            if (running) { ended(0); row("(the guest died or hung)", "FAILED") }
            for (p = 1; p <= passes; p++) {
                pass = expected[p]
                if (!(pass in begun)) row("(never began)", "FAILED")
            }
        }' - "$2"
}

run() { # kernel: its results go to $work/KERNEL.results
    local kernel=$1 kind started=$SECONDS status=0 processors=2
    local initramfs=$work/$kernel.initramfs results=$work/$kernel.results
    kind=$(where "$kernel")
    [ "$kind" = ends ] || [ -n "$full" ] || processors=1
    "$here/initramfs.py" modules "$work/$kernel.modules" "${place[$kernel]}" "${modules[@]}"
    cat "$work/guest.cpio" "$work/$kind.cpio" "$work/$kernel.modules" >"$initramfs"
    TCPTOP_KERNELS_PROCESSORS=$processors \
        "$here/boot.sh" "${place[$kernel]}" "$initramfs" "$directory/$kernel.console" "$seconds" \
        >"$directory/$kernel.out" 2>&1 || status=$?
    rm -f "$initramfs"
    cut -d'|' -f1 "$work/$kind.passes" | results "$kernel" "$directory/$kernel.out" >"$results"
    if [ $status -ne 0 ] && ! grep -q 'FAILED$' "$results"; then
        printf '%s\t(the guest: status %s)\tFAILED\n' "$kernel" $status >>"$results"
    fi
    printf '%-6s %-30s status %s, %s s\n' "$kernel" "$(cat "${place[$kernel]}/abi")" $status $((SECONDS - started))
    if grep -q 'FAILED$' "$results"; then
        sed "s/^/[$kernel] /" "$directory/$kernel.out"
    fi
}

# The longest first, so that no guest runs alone for long at the end.
queue() {
    local kind
    for kind in ends between refusal; do
        for kernel in $kernels; do [ "$(where "$kernel")" != $kind ] || echo "$kernel"; done
    done
}

running=0
for kernel in $(queue); do
    [ $running -lt "$guests" ] || { wait -n; running=$((running - 1)); }
    run "$kernel" &
    running=$((running + 1))
done
wait
for kernel in $kernels; do
    # A kernel without such a file was not tested at all.
    cat "$work/$kernel.results" || printf '%s\t(no result)\tFAILED\n' "$kernel"
done >"$work/results"

echo
# Which hook served which signal, from the output of tcptop --doctor.
for kernel in $kernels; do
    sed -nE "/^pass: best\$/,/^pass ended/ s/^(TCP lifecycle|TCP counters|owner|UDP) +([^ ]+) +ok.*/$kernel\t\1\t\2/p" \
        "$directory/$kernel.out"
done | gawk -F '\t' '{ printf "%-6s  %-14s %s\n", $1, $2, $3 }'
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
        if (count["ignored"]) printf ", %d skipped", count["ignored"]
        if (count["chosen"]) printf ", %d the same as the chosen hooks", count["chosen"]
        print ""
        exit count["FAILED"] > 0
    }' "$work/results" || failed=yes
[ -z "$left_out" ] || echo "left out, because no directory TCPTOP_KERNELS_BUILT has them:$left_out"
if [ -z "$full" ] && [ $# -eq 0 ]; then
    words() { xargs <<<"$1"; }
    between=$(for kernel in $kernels; do [ "$(where "$kernel")" != between ] || printf '%s ' "$kernel"; done)
    echo "left out, because no guest has what they need: $(words "$absent")"
    echo "left out (unless -f), the same on every kernel: $(words "$same")"
    echo "left out (unless -f) with hooks of lower rank: $(words "$once")"
    between=${between% }
    if [ -n "$between" ]; then
        echo "left out (unless -f) on $between: $(words "$ends")"
        echo "left out (unless -f) on $between with cgroup_skb: $(words "$start"); with cgroup_skb and iter/task_file: all"
    fi
fi
[ -z "$failed" ]

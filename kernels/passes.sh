#!/bin/sh
# The guest's job: runs the passes that /etc/passes lists, one a line:
#
#   NAME|PROVIDERS|ARGUMENTS OF TCPTOP|ARGUMENTS OF THE TESTS
#
# A pass first runs `tcptop --doctor`, which must report that every signal is served and
# that each of PROVIDERS serves one, then the tests.  It is left out if the kernel does not
# have one of PROVIDERS (ESRCH: no such tracepoint; ENOTSUPP, 524: no trampolines on this
# processor), or if they are those that tcptop chose by itself in an earlier pass.
worst=0
left_out() { # provider, why
    echo "test $1 ... $2"
    echo "pass ended: 0"
}
while IFS='|' read -r name providers extra arguments; do
    echo "pass: $name"
    same=$providers
    for provider in $providers; do
        grep -qs " $provider  *ok$" /tmp/chosen || same=
    done
    [ -z "$same" ] || { left_out "$same" chosen; continue; }
    # shellcheck disable=SC2086 # both are lists
    "$TCPTOP_BIN" --doctor $extra >/tmp/doctor 2>&1
    status=$?
    cat /tmp/doctor
    [ -n "$extra" ] || cp /tmp/doctor /tmp/chosen
    for provider in $providers; do
        if grep -qE " not $provider: (load: No such process|attach: .*\(os error 524\))" /tmp/doctor; then
            left_out "$provider" ignored
            continue 2
        fi
        grep -q " $provider  *ok$" /tmp/doctor || status="$status, not $provider"
    done
    if [ "$status" = 0 ]; then
        echo "test doctor ... ok"
    else
        echo "test doctor ... FAILED (status $status)"
        worst=1
    fi
    # shellcheck disable=SC2086
    TCPTOP_TEST_ARGS=$extra /usr/bin/tests $arguments </dev/null
    status=$?
    echo "pass ended: $status"
    [ $status -eq 0 ] || worst=$status
done </etc/passes
exit $worst

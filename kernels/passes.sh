#!/bin/sh
# The guest's job: runs the passes that /etc/passes lists, one a line:
#
#   NAME|PROVIDERS|ARGUMENTS OF TCPTOP|ARGUMENTS OF THE TESTS
#
# A pass first runs `tcptop --doctor`, which must report that every signal is served and
# that each of PROVIDERS serves one, then the tests.  It is left out if the kernel does not
# have one of PROVIDERS (ESRCH: no such tracepoint).
worst=0
while IFS='|' read -r name providers extra arguments; do
    echo "pass: $name"
    # shellcheck disable=SC2086 # both are lists
    "$TCPTOP_BIN" --doctor $extra >/tmp/doctor 2>&1
    status=$?
    cat /tmp/doctor
    for provider in $providers; do
        if grep -q " not $provider: load: No such process " /tmp/doctor; then
            echo "test $provider ... ignored"
            echo "pass ended: 0"
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

#!/bin/sh
# The guest's job on a kernel that is too old for tcptop: it must end with status 1, one
# line on stderr that says so, and nothing on stdout.  Prints the result in the form of a test.
echo "pass: refusal"
"$TCPTOP_BIN" --once >/tmp/stdout 2>/tmp/stderr
status=$?
cat /tmp/stdout /tmp/stderr
if [ $status -eq 1 ] && [ ! -s /tmp/stdout ] && [ "$(wc -l </tmp/stderr)" -eq 1 ] &&
    grep -q '^tcptop: error: this kernel is too old: Linux 5.15 or newer is needed (' /tmp/stderr; then
    echo "test one_sentence ... ok"
    echo "pass ended: 0"
else
    echo "test one_sentence ... FAILED (status $status)"
    echo "pass ended: 1"
    exit 1
fi

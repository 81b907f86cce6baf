#!/bin/sh
# On a kernel that tcptop cannot work with: status 1, one line on stderr, nothing
# on stdout.  Prints its result as a test does.
echo "pass: refusal"
"$TCPTOP_BIN" --once >/tmp/stdout 2>/tmp/stderr
status=$?
cat /tmp/stdout /tmp/stderr
if [ $status -eq 1 ] && [ ! -s /tmp/stdout ] && [ "$(wc -l </tmp/stderr)" -eq 1 ]; then
    echo "test one_sentence ... ok"
    echo "pass ended: 0"
else
    echo "test one_sentence ... FAILED (status $status)"
    echo "pass ended: 1"
    exit 1
fi

# checks.sh — for scripts that check one thing after the other: `check WHAT COMMAND...`
# prints a line for each, and the output of a command that failed; `checked` prints
# "N passed, N failed" and is the status.
# shellcheck shell=bash
passed=0 failed=0

check() { # WHAT COMMAND...
    local what=$1 output status=0
    shift
    output=$("$@" 2>&1 </dev/null) || status=$?
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what: status $status"
        printf "    %s\n" "${output//$'\n'/$'\n    '}"
    fi
}

checked() {
    printf '\n%d passed, %d failed\n' $passed $failed
    [ $failed -eq 0 ] && [ $passed -gt 0 ]
}

says() { # TEXT COMMAND...: the command succeeds and prints the text
    local text=$1 output
    shift
    output=$("$@") || { echo "$output"; return 1; }
    grep -qF -- "$text" <<<"$output" || { echo "no '$text' in: $output"; return 1; }
}

silent() { # COMMAND...: succeeds and prints nothing
    local output
    output=$("$@" 2>&1) && [ -z "$output" ] || { echo "$output"; return 1; }
}

fails() { if "$@"; then return 1; fi; }

within() { # SECONDS COMMAND...: the command succeeds before that time is over
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done >/dev/null 2>&1
}

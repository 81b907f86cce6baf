#!/bin/bash
# test-guest.sh — what test.sh runs in the emulated machine.
set -u
cd /root || exit
# shellcheck source=scripts/checks.sh
. ./checks.sh

# Sends bytes over loopback to a port, in pieces, with pauses between them.
send() { # PORT BYTES PIECES
    perl -MIO::Socket::INET -e '
        my ($port, $bytes, $pieces) = @ARGV;
        my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => $port, ReuseAddr => 1) or die;
        my $client = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die;
        my $server = $listener->accept or die;
        for (1 .. $pieces) {
            syswrite($client, "x" x ($bytes / $pieces)) == $bytes / $pieces or die;
            my $left = $bytes / $pieces;
            while ($left) { my $got = sysread($server, my $buffer, $left) or die; $left -= $got }
            select(undef, undef, undef, 1) if $pieces > 1;
        }' "$@"
}
# The bytes out of the client end in all final rows of these files.
sent() { # PORT FILE...
    local port=$1
    shift
    awk -F, -v port="$port" 'FNR == 1 { for (f = 1; f <= NF; f++) column[$f] = f; width = NF }
        NF != width { print FILENAME ": not a whole row: " $0; bad = 1 }
        $column["remote_port"] == port && $column["state"] == "CLOSED" { sum += $column["bytes_out"] }
        END { print sum + 0; exit bad }' "$@"
}
# Files have whole rows, and the bytes of this transfer.
accounted() { # PORT BYTES FILE...
    local sum kind=sent
    [[ $3 != *.json ]] || kind=sent_json
    sum=$($kind "$1" "${@:3}") && [ "$sum" = "$2" ] || { echo "$sum"; return 1; }
}
sent_json() { # PORT FILE...: the same of objects, whose lines must be whole
    local port=$1
    shift
    awk -v port="$port" '!/^\{"schema":1,.*\}$/ { print FILENAME ": not a whole row: " $0; bad = 1 }
        /"event":"closed"/ && index($0, "\"remote_port\":" port ",") && match($0, /"bytes_out":[0-9]+/) {
            sum += substr($0, RSTART + 12, RLENGTH - 12)
        }
        END { print sum + 0; exit bad }' "$@"
}
property() { systemctl show --property "$2" --value "$1"; }
rotate_during() { # PORT CONFIGURATION: rotates while a transfer of 600000 bytes goes on
    send "$1" 600000 25 &
    sleep 12
    logrotate --force "$2"
    local status=$?
    wait $! && return $status
}
restart_during() { # PORT UNIT: starts the unit again while a transfer of 600000 bytes goes on
    send "$1" 600000 60 &
    sleep 12
    systemctl restart "$2"
    local status=$?
    wait $! && return $status
}
confined() { # PID: it can gain no privileges, and makes few system calls
    says 'NoNewPrivs:	1' cat "/proc/$1/status" && says 'Seccomp:	2' cat "/proc/$1/status"
}
# What systemd thinks of a unit's exposure, as the documentation writes it.
exposure() {
    systemd-analyze security --no-pager "$1" | sed -n '$s/.*: \([0-9.]*\) \([A-Z]*\) .*/\1 (\2)/p'
}
stated() { # VALUE: install.md has it
    [ -n "$1" ] && says "gives it $1" cat /usr/share/doc/tcptop/docs/install.md
}
instead() { # LINES of the section Service that replace those of tcptop.service
    local directory=/etc/systemd/system/tcptop.service.d
    mkdir -p $directory
    printf '[Service]\n%s\n' "$1" >$directory/override.conf
    systemctl daemon-reload && systemctl restart tcptop.service
}
filters() { sed -n 's/^Seccomp_filters:\t//p' "/proc/$1/status"; }
counts() { # it has given up what the start takes, its last step before it counts
    [ "$(filters "$(property tcptop.service MainPID)")" = "$all_filters" ]
}
started_again() { # PID of before
    [ "$(property tcptop.service NRestarts)" = 1 ] && [ "$(property tcptop.service MainPID)" != "$1" ] &&
        systemctl is-active tcptop.service
}
rotated() { # LOG: the old file and a new one, which is written
    [ -s "$1.1" ] && [ -s "$1" ]
}

echo "== $(uname -r), $(systemctl --version | head -n 1)"
echo "== cron"
check "@reboot: tcptop runs" within 120 test -s /var/log/tcptop.csv
pid=$(cat /run/tcptop.pid)
check "the PID file has its PID" says tcptop cat "/proc/$pid/comm"
check "it is confined" confined "$pid"
check "logrotate rotates" rotate_during 7001 /etc/logrotate.d/tcptop-cron
check "a new file is written" within 60 rotated /var/log/tcptop.csv
check "every byte is in the old and the new file" within 60 accounted 7001 600000 /var/log/tcptop.csv /var/log/tcptop.csv.1
kill "$pid"
check "no PID file stays" within 60 fails test -e /run/tcptop.pid
check "whole rows" accounted 7001 600000 /var/log/tcptop.csv /var/log/tcptop.csv.1
check "the end of cron's shell" within 60 fails pgrep -f 'cron.*tcptop|tcptop.pid'
check "mail would be seen" within 60 grep -q 'this is mail' /var/mail/sent
check "a run that went well sends none" fails grep -i tcptop /var/mail/sent
sleep 300 & # a stranger whose PID a stale file has
stranger=$!
echo $stranger >/run/tcptop.pid
echo more >>/var/log/tcptop.csv
check "logrotate with a stale PID file" logrotate --force /etc/logrotate.d/tcptop-cron
check "the stranger lives" kill -0 $stranger
kill $stranger
rm -f /run/tcptop.pid /etc/cron.d/tcptop

echo "== tcptop.service"
units="tcptop.service tcptop-textfile.service"
for unit in $units; do
    check "systemd-analyze verify $unit" silent systemd-analyze verify --man=no "$unit"
    sed 's/^SystemCallFilter=seccomp /&nosuch /' "/usr/lib/systemd/system/$unit" >"/run/broken-$unit"
    check "it would find a mistake" says nosuch sh -c "systemd-analyze verify --man=no /run/broken-$unit 2>&1"
    check "$unit is neither enabled nor started by the package" says disabled sh -c "systemctl is-enabled $unit || true"
    figure=$(exposure "$unit")
    check "systemd-analyze security gives it $figure, as documented" stated "$figure"
done
check "enable and start" systemctl enable --now tcptop.service
pid=$(property tcptop.service MainPID)
log=/var/log/tcptop/tcptop.csv
group=/sys/fs/cgroup/system.slice/tcptop.service
check "the log begins" within 120 grep -q ^timestamp, $log
all_filters=$(filters "$pid")
check "it is not root" fails test "$(stat -c %u "/proc/$pid")" = 0
check "no capabilities but three" test $((0x$(sed -n 's/^CapPrm:\t//p' "/proc/$pid/status") & ~0xc000001000)) = 0
check "it is confined" confined "$pid"
check "the kernel limits its memory" says $((256 << 20)) cat $group/memory.max
check "logrotate rotates" rotate_during 7002 /etc/logrotate.d/tcptop
check "a new file is written" within 60 rotated $log
check "every byte is in the old and the new file" within 60 accounted 7002 600000 $log $log.1
check "it was reloaded, not started again" test "$(property tcptop.service MainPID)" = "$pid"
check "it is started again" restart_during 7004 tcptop.service
pid=$(property tcptop.service MainPID)
check "every byte of a connection that outlived it" within 60 accounted 7004 600000 $log
check "logrotate rotates once more" logrotate --force /etc/logrotate.d/tcptop
check "the oldest file is compressed" gzip --test $log.2.gz
echo "memory: peak $(($(cat $group/memory.peak) >> 20)) MiB"
check "memory: at most a quarter of the limit" test $(($(cat $group/memory.peak) * 4)) -le $((256 << 20))
check "it is killed" kill -KILL "$pid"
check "systemd starts it again" within 60 started_again "$pid"
check "it counts" within 60 counts
check "a transfer" send 7006 500000 1
check "the rows follow those of before, under one header" within 60 accounted 7006 500000 $log
check "the header is there once" test "$(grep -c ^timestamp, $log)" = 1
check "stop" timeout 20 systemctl stop tcptop.service
check "it ended well" says success property tcptop.service Result
check "whole rows" accounted 7006 500000 $log
check "start" systemctl start tcptop.service
check "it had nothing to complain about" silent sh -c "journalctl --quiet --no-pager --output cat _COMM=tcptop | cat"

echo "== as JSON, in the words of the unit's comment"
check "restart" instead "$(sed -n 's/^#   \(ExecStart=\)/\1/p' /usr/lib/systemd/system/tcptop.service | sed 's/--interval 60/--interval 5/')"
json=/var/log/tcptop/tcptop.json
check "it counts" within 60 counts
check "logrotate rotates" rotate_during 7005 /etc/logrotate.d/tcptop
check "a new file is written" within 60 rotated $json
check "every byte is in the old and the new file" within 60 accounted 7005 600000 $json $json.1

echo "== what it says of itself"
start=$(sed -n 's/^ExecStart=tcptop/& -v/p' /usr/lib/systemd/system/tcptop.service)
check "restart with a limit of 32 MiB" instead "MemoryMax=32M
ExecStart=
$start"
said() { journalctl --quiet --no-pager --output cat _COMM=tcptop | grep -E "$1"; }
unexpected() { said 'not confined' | grep -vE 'not confined: (securebits|bounding set):'; }
check "it counts" within 60 counts
check "it says what it gave up" said '^tcptop: confined: system calls'
# The unit has done as much already, with NoNewPrivileges= and three capabilities.
check "nothing else could not be had" fails unexpected
said 'confined|memory' | cut -c 1-150
check "the limit is in force" says $((32 << 20)) cat $group/memory.max
check "a transfer" send 7006 500000 1
check "every byte is in the file" within 60 accounted 7006 500000 $log
rm -r /etc/systemd/system/tcptop.service.d
check "restart" sh -c "systemctl daemon-reload && systemctl restart tcptop.service"
pid=$(property tcptop.service MainPID)

echo "== tcptop-textfile.service"
prom=/run/tcptop-textfile/tcptop.prom
check "start" systemctl start tcptop-textfile.service
check "the file is written" within 120 test -s $prom
check "a transfer" send 7003 500000 1
counted() { awk '/^tcptop_bytes_out_total\{.*"perl"/ { sum += $NF } END { exit sum < 500000 }' $prom; }
check "its bytes are in the file" within 120 counted
check "the exporter's user can read it" setpriv --reuid nobody --clear-groups cat $prom
check "it is confined" confined "$(property tcptop-textfile.service MainPID)"
check "restart" systemctl restart tcptop-textfile.service
check "the file is written again" within 120 test -s $prom
check "stop" timeout 20 systemctl stop tcptop-textfile.service
check "it ended well" says success property tcptop-textfile.service Result
check "no old totals stay" fails test -e $prom

echo "== upgrade and removal while it runs"
check "upgrade" dpkg -i newer.deb
check "it was started again" fails test "$(property tcptop.service MainPID)" = "$pid"
check "it runs" systemctl is-active tcptop.service
check "the other one was not started" fails systemctl is-active tcptop-textfile.service
check "purge" dpkg --purge tcptop
check "it has ended" within 60 fails pgrep -x tcptop
check "the unit is gone" fails systemctl cat tcptop.service
check "no link to it is left" fails test -L /etc/systemd/system/multi-user.target.wants/tcptop.service
check "its logs are still there" test -s $log
checked

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
    local sum
    sum=$(sent "$1" "${@:3}") && [ "$sum" = "$2" ] || { echo "$sum"; return 1; }
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
rotated() { # LOG: the old file and a new one, which is written
    [ -s "$1.1" ] && [ -s "$1" ]
}

echo "== $(uname -r), $(systemctl --version | head -n 1)"
echo "== cron"
check "@reboot: tcptop runs" within 120 test -s /var/log/tcptop.csv
pid=$(cat /run/tcptop.pid)
check "the PID file has its PID" says tcptop cat "/proc/$pid/comm"
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
    check "$unit is neither enabled nor started by the package" says disabled sh -c "systemctl is-enabled $unit || true"
    systemd-analyze security --no-pager "$unit" | tail -n 1
done
check "start" systemctl start tcptop.service
pid=$(property tcptop.service MainPID)
log=/var/log/tcptop/tcptop.csv
check "the log begins" within 120 grep -q ^timestamp, $log
check "it is not root" fails test "$(stat -c %u "/proc/$pid")" = 0
check "no capabilities but three" test $((0x$(sed -n 's/^CapPrm:\t//p' "/proc/$pid/status") & ~0xc000001000)) = 0
check "logrotate rotates" rotate_during 7002 /etc/logrotate.d/tcptop
check "a new file is written" within 60 rotated $log
check "every byte is in the old and the new file" within 60 accounted 7002 600000 $log $log.1
check "it was reloaded, not started again" test "$(property tcptop.service MainPID)" = "$pid"
check "it is started again" restart_during 7004 tcptop.service
pid=$(property tcptop.service MainPID)
check "every byte of a connection that outlived it" within 60 accounted 7004 600000 $log
check "logrotate rotates once more" logrotate --force /etc/logrotate.d/tcptop
check "the oldest file is compressed" gzip --test $log.2.gz
echo "memory: peak $(($(property tcptop.service MemoryPeak) >> 20)) MiB"
check "memory: at most a quarter of the limit" test $(($(property tcptop.service MemoryPeak) * 4)) -le "$(property tcptop.service MemoryMax)"

echo "== tcptop-textfile.service"
prom=/run/tcptop-textfile/tcptop.prom
check "start" systemctl start tcptop-textfile.service
check "the file is written" within 120 test -s $prom
check "a transfer" send 7003 500000 1
counted() { awk '/^tcptop_bytes_out_total\{.*"perl"/ { sum += $NF } END { exit sum < 500000 }' $prom; }
check "its bytes are in the file" within 120 counted
check "the exporter's user can read it" setpriv --reuid nobody --clear-groups cat $prom
check "stop" systemctl stop tcptop-textfile.service
check "it ended well" says success property tcptop-textfile.service Result

echo "== upgrade and removal while it runs"
check "upgrade" dpkg -i newer.deb
check "it was started again" fails test "$(property tcptop.service MainPID)" = "$pid"
check "it runs" systemctl is-active tcptop.service
check "the other one was not started" fails systemctl is-active tcptop-textfile.service
check "purge" dpkg --purge tcptop
check "it has ended" within 60 fails pgrep -x tcptop
check "the unit is gone" fails systemctl cat tcptop.service
check "its logs are still there" test -s $log
check "it had nothing to complain about" silent sh -c "journalctl --quiet --no-pager --output cat _COMM=tcptop | cat"
checked

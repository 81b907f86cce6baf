#!/usr/bin/env python3
"""Runs tables and queries on a simulated day and compares their sums with the truth.

    pip install chdb duckdb && ./try.py [HOSTS]

chdb is ClickHouse as a library. Prints rows, bytes a row on disk and seconds a query. Then
ships an hour of logs with syslog-ng, where it is installed, past a rotation and a ClickHouse
that is away at first. Ends with status 1 at the first sum that differs.
"""
import csv
import http.server
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import chdb.session
import duckdb

from simulate import DAY, Fleet, time as moment

HERE = pathlib.Path(__file__).parent
SINCE, UNTIL = (moment(second)[:19].replace("T", " ") for second in (0, DAY))


def same(what, found, expected):
    if found != expected:
        sys.exit(f"try.py: {what}: {found} instead of {expected}")
    print(f"{what}: equal")


class ClickHouse:
    def __init__(self, directory):
        self.session = chdb.session.Session(directory)
        self.run("CREATE DATABASE IF NOT EXISTS fleet")
        self.run("USE fleet")
        tables = (HERE / "clickhouse/tables.sql").read_text()
        for statement in tables.split(";\n"):
            if any(line and not line.startswith("--") for line in statement.splitlines()):
                self.run(statement)
        for name, value in (("since", SINCE), ("until", UNTIL), ("address", "203.0.113.66")):
            self.run(f"SET param_{name} = '{value}'")

    def run(self, sql, form="CSVWithNames"):
        return str(self.session.query(sql, form))

    def query(self, name):
        """The rows of a query, and prints its seconds."""
        path, = (HERE / "clickhouse").glob(f"*-{name}.sql")
        begin = time.monotonic()
        rows = list(csv.DictReader(io.StringIO(self.run(path.read_text()))))
        print(f"{path.name}: {len(rows)} rows, {time.monotonic() - begin:.2f} s")
        return rows


def clickhouse(directory, logs, truth):
    engine = ClickHouse(directory)
    begin = time.monotonic()
    for log in logs:
        engine.run(f"INSERT INTO tcptop_lines SELECT * FROM file('{log}', 'JSONAsString')")
    seconds = time.monotonic() - begin
    engine.run("OPTIMIZE TABLE tcptop_rows FINAL")
    rows = int(engine.run("SELECT count() FROM tcptop_rows", "CSV"))
    size = int(engine.run("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'tcptop_rows'", "CSV"))
    text = sum(os.path.getsize(log) for log in logs)
    print(f"ClickHouse: {rows} rows in {seconds:.0f} s, {size / rows:.1f} bytes a row ({text / rows:.0f} as JSON)")
    same("rows", rows, truth.rows)

    talkers = engine.query("who-talked-to")
    same("who talked to an address", [(row["host"], row["process_name"], int(row["sent"])) for row in talkers],
         [(host, "curl", 5_000_000) for host in truth.stranger])
    top = engine.query("top-processes")
    found = {(row["process_name"], way): int(row[key]) for row in top for way, key in (("in", "received"), ("out", "sent"))}
    same("bytes by process", found, dict(truth.process))
    peers = engine.query("retransmits-per-peer")
    same("retransmits by peer", {row["remote_addr"].removeprefix("::ffff:"): int(row["again"]) for row in peers},
         {peer: truth.again[peer] for peer in (row["remote_addr"].removeprefix("::ffff:") for row in peers)})
    failed = {}
    for row in engine.query("failed"):
        key = row["process_name"], row["remote_addr"].removeprefix("::ffff:"), int(row["remote_port"]), row["end"]
        failed[key] = failed.get(key, 0) + int(row["failed"])
    same("failed connections", failed, dict(truth.failed))
    new = engine.query("new-since-the-day-before")
    same("new since the day before", [(row["process_name"], row["remote_addr"], row["remote_port"]) for row in new],
         [("curl", "::ffff:203.0.113.66", "4444")])
    hours = {}
    for row in engine.query("over-time"):
        hour = int(row["hour"][11:13])
        for way, key in (("in", "received"), ("out", "sent")):
            hours[hour, row["host"], way] = int(row[key])
    same("bytes by hour and host", hours, {key: count for key, count in truth.hour.items() if key in hours or count})
    if not engine.query("slow-peers"):
        sys.exit("try.py: no slow peers")
    served = engine.query("who-serves-whom")
    same("both ends of a connection", {(row["service"], row["program"]) for row in served},
         {("postgres", "api-server"), ("api-server", "nginx")})
    pods = {row["container"]: int(row["received"]) + int(row["sent"]) for row in engine.query("containers")}
    same("bytes by container", pods, {"shop/api": truth.container["shop/api"]})
    doubtful = {row["host"]: int(row["lost"]) for row in engine.query("incomplete")}
    same("records lost by host", doubtful, dict(truth.lost))


def parquet(directory, logs, truth):
    engine = duckdb.connect()
    file = f"{directory}/day.parquet"
    engine.execute("SET VARIABLE logs = ?", [logs])
    engine.execute("SET VARIABLE parquet = ?", [file])
    engine.execute("SET VARIABLE since = TIMESTAMP '" + SINCE + "'")
    engine.execute("SET VARIABLE until = TIMESTAMP '" + UNTIL + "'")
    begin = time.monotonic()
    engine.execute((HERE / "duckdb/parquet.sql").read_text())
    rows, = engine.execute("SELECT count(*) FROM read_parquet(getvariable('parquet'))").fetchone()
    print(f"Parquet: {rows} rows in {time.monotonic() - begin:.0f} s, {os.path.getsize(file) / rows:.1f} bytes a row")
    same("rows", rows, truth.rows)
    begin = time.monotonic()
    found = {}
    for process, _, _, received, sent in engine.execute((HERE / "duckdb/top-processes.sql").read_text()).fetchall():
        found[process, "in"], found[process, "out"] = int(received), int(sent)
    print(f"top-processes.sql: {time.monotonic() - begin:.2f} s")
    same("bytes by process", found, dict(truth.process))


class Receiver(http.server.BaseHTTPRequestHandler):
    """ClickHouse's HTTP interface, as far as a shipper sees it."""
    lines, refusals = [], 2

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        away = Receiver.refusals > 0
        Receiver.refusals -= 1
        if not away and "INSERT%20INTO%20tcptop_lines%20FORMAT%20JSONAsString" in self.path:
            Receiver.lines += body.splitlines()
        self.send_response(503 if away else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def shipped(directory, log):
    """The lines of a log arrive once each, although it is rotated while it is shipped."""
    program = shutil.which("syslog-ng") or "/usr/sbin/syslog-ng"
    if not os.path.exists(program):
        return print("syslog-ng is not installed: its configuration was not tried")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    logs, waiting = f"{directory}/logs", f"{directory}/waiting"
    os.mkdir(logs), os.mkdir(waiting)
    text = (HERE / "syslog-ng.conf").read_text()
    ours = dict(logs=logs, clickhouse=f"http://127.0.0.1:{server.server_port}", waiting=waiting)
    text = re.sub(r'@define (\w+) ".*"', lambda define: f'@define {define[1]} "{ours[define[1]]}"', text)
    text = text.replace("disk-buf-size(1073741824)", "disk-buf-size(16777216)").replace("retries", "time-reopen(1) retries")
    pathlib.Path(f"{directory}/conf").write_text(text)
    lines = pathlib.Path(log).read_text().splitlines()[:5000]
    shipper = subprocess.Popen([program, "-F", "--no-caps", "-f", f"{directory}/conf", "-R", f"{directory}/persist",
                                "-c", f"{directory}/control", "-p", f"{directory}/pid"])
    try:
        half = len(lines) // 2
        pathlib.Path(f"{logs}/tcptop.json").write_text("\n".join(lines[:half]) + "\n")
        waited(lambda: len(Receiver.lines) >= half)
        os.rename(f"{logs}/tcptop.json", f"{logs}/tcptop.json.1")
        pathlib.Path(f"{logs}/tcptop.json").write_text("\n".join(lines[half:]) + "\n")
        waited(lambda: len(Receiver.lines) >= len(lines))
    finally:
        shipper.terminate()
        shipper.wait()
        server.shutdown()
    if Receiver.refusals > 0:
        sys.exit("try.py: the shipper never met a ClickHouse that was away")
    same("lines shipped", sorted(Receiver.lines) == sorted(lines), True)


def waited(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"try.py: {len(Receiver.lines)} lines were shipped in {seconds} s")
        time.sleep(0.05)


def main():
    fleet = Fleet(hosts=int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        logs = []
        for number, lines in enumerate(fleet.hours()):
            logs.append(f"{directory}/{number:02}.json")
            with open(logs[-1], "w") as log:
                log.writelines(lines)
        clickhouse(f"{directory}/clickhouse", logs, fleet.truth)
        parquet(directory, logs, fleet.truth)
        shipped(directory, logs[-1])


main()

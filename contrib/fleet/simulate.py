"""A day of a fleet, as its tcptops would write it, and what it moved in truth.

100 hosts: web servers that ask api servers, which ask databases, over connections that
were open before the day began; clients from outside, whose connections live for less than
an interval; DNS over UDP; connections that fail; a host that lost records. Each figure is
made first and added to the truth, and then becomes part of a row's running totals.
"""
import collections
import datetime
import random

# Yesterday: ClickHouse drops what is older than the table's TTL.
NOW = datetime.datetime.now(datetime.timezone.utc)
MIDNIGHT = datetime.datetime(NOW.year, NOW.month, NOW.day, tzinfo=datetime.timezone.utc) - datetime.timedelta(days=1)
DAY = 86_400


def time(second):
    return (MIDNIGHT + datetime.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Truth:
    """What moved from midnight to midnight, by what the queries group by."""

    def __init__(self):
        self.process = collections.Counter()  # (process, direction)
        self.hour = collections.Counter()  # (hour, host, direction)
        self.peer = collections.Counter()  # remote address: both directions
        self.container = collections.Counter()
        self.again = collections.Counter()  # remote address: retransmitted segments
        self.failed = collections.Counter()  # (process, remote, port, end)
        self.lost = collections.Counter()  # host
        self.stranger = []  # hosts that sent to an address that nobody knew
        self.rows = 0

    def moved(self, second, host, process, remote, container, received, sent, again=0):
        if not 0 < second <= DAY:
            return
        for direction, count in (("in", received), ("out", sent)):
            self.process[process, direction] += count
            self.hour[(second - 1) // 3600, host, direction] += count
        self.peer[remote] += received + sent
        self.container[container] += received + sent
        self.again[remote] += again


class Fleet:
    def __init__(self, hosts=100, interval=60, seed=1):
        self.random = random.Random(seed)
        self.interval = interval
        self.truth = Truth()
        self.serial = 0
        databases, apis = max(1, hosts // 10), max(1, hosts * 3 // 10)
        names = [("db", "postgres", 5432)] * databases + [("api", "api-server", 8080)] * apis
        names += [("web", "nginx", 443)] * (hosts - len(names))
        self.hosts = []
        for number, (role, process, port) in enumerate(names):
            self.hosts.append(dict(
                name=f"{role}-{number:03}", address=f"10.0.{number // 250}.{number % 250 + 1}", role=role,
                process=process, port=port, container="shop/api" if role == "api" else None))
        of = lambda role: [host for host in self.hosts if host["role"] == role]
        self.web, self.pairs = of("web"), []
        for clients, servers in ((of("web"), of("api")), (of("api"), of("db"))):
            for number, client in enumerate(clients):
                for turn in range(4):
                    self.pairs.append(self.pair(client, servers[(number + turn) % len(servers)], number))

    def pair(self, client, server, number):
        """Both ends of a connection that lasts all day, with what they moved before it."""
        port = 32768 + self.random.randrange(28000)
        ends = []
        for mine, other, ports in ((client, server, (port, server["port"])), (server, client, (server["port"], port))):
            ends.append(dict(
                host=mine, remote=other["address"], ports=ports, id=self.new_id(),
                inside=10_000 * number, outside=7_000 * number, packets=50 * number, again=0))
        return ends

    def new_id(self):
        self.serial += 1
        return f"{self.serial:x}-{self.random.getrandbits(48):x}"

    def line(self, event, second, host, process, remote, ports, conn_id, received, sent, packets, *, protocol="TCP",
             state="ESTABLISHED", again=0, rtt=None, end=None, connect=None, syns=0, started=None, container=None,
             user="www-data"):
        quoted = lambda text: "null" if text is None else f'"{text}"'
        number = lambda value: "null" if value is None else value
        if second > -DAY:
            self.truth.rows += 1
        return (
            f'{{"schema":1,"event":"{event}","timestamp":"{time(second)}","protocol":"{protocol}",'
            f'"local_addr":"{host["address"]}","local_port":{ports[0]},"remote_addr":"{remote}","remote_port":{ports[1]},'
            f'"pid":{1000 + len(process)},"process_name":"{process}","state":"{state}","bytes_in":{received},'
            f'"bytes_out":{sent},"packets_in":{packets},"packets_out":{packets},"rate_in_bytes_sec":0.0,'
            f'"rate_out_bytes_sec":0.0,"rtt_us":{number(rtt)},"partial":false,"retrans":{again},'
            f'"min_rtt_us":{number(rtt)},"age_sec":null,"uid":33,"ifname":"eth0","netns":4026531840,"cgroup":"/",'
            f'"container":null,"end":{quoted(end)},"conn_id":"{conn_id}","started":{quoted(started)},'
            f'"host":"{host["name"]}","exe":"/usr/sbin/{process}","user":"{user}","unit":"{process}.service",'
            f'"container_name":null,"pod":{quoted(container)},"syn_retrans":{syns},"connect_us":{number(connect)}}}\n')

    def short(self, event, second, host, process, remote, ports, received, sent, **more):
        container = host["container"]
        self.truth.moved(second, host["name"], process, remote, container, received, sent)
        return self.line(event, second, host, process, remote, ports, self.new_id(), received, sent, 5,
                         started=time(second - 1), container=container, **more)

    def tick(self, second):
        """The lines of all hosts at one moment."""
        draw = self.random.random
        for ends in self.pairs:
            asked, answered = int(draw() * 40_000), int(draw() * 900_000)
            again = int(draw() * 1.02)
            for end, received, sent in zip(ends, (answered, asked), (asked, answered)):
                host = end["host"]
                end["inside"] += received
                end["outside"] += sent
                end["packets"] += 600
                end["again"] += again
                self.truth.moved(second, host["name"], host["process"], end["remote"], host["container"], received,
                                 sent, again)
                yield self.line("sample", second, host, host["process"], end["remote"], end["ports"], end["id"],
                                end["inside"], end["outside"], end["packets"], again=end["again"],
                                rtt=200 + int(draw() * 300), container=host["container"])
        for number, host in enumerate(self.web):
            for _ in range(self.interval // 15):
                client = f"198.51.{int(draw() * 8)}.{int(draw() * 250)}"
                yield self.short("closed", second, host, "nginx", client, (443, 32768 + int(draw() * 28000)),
                                 int(draw() * 3000), int(draw() * 200_000), state="CLOSED", end="fin",
                                 rtt=20_000 + int(draw() * 60_000), connect=int(draw() * 50_000))
            if number % 20 == 3 and second % 600 == 0:
                ports = (32768 + int(draw() * 28000), 6379)
                if 0 < second <= DAY:
                    self.truth.failed["php-fpm", "10.0.9.9", 6379, "refused"] += 1
                yield self.short("closed", second, host, "php-fpm", "10.0.9.9", ports, 0, 0, state="CLOSED",
                                 end="refused", connect=300)
            if number == 4 and second == 43_200:
                self.truth.stranger.append(host["name"])
                yield self.short("closed", second, host, "curl", "203.0.113.66", (40000, 4444), 900, 5_000_000,
                                 state="CLOSED", end="fin", rtt=90_000)
        if second % 300 == 0:
            for host in self.hosts:
                yield self.short("expired", second, host, "systemd-resolve", "10.0.0.53",
                                 (32768 + int(draw() * 28000), 53), 120, 45, protocol="UDP", state="EXPIRED",
                                 user="systemd-resolve")
        if second == 7200:
            host = self.hosts[-1]["name"]
            self.truth.lost[host] += 17
            yield f'{{"schema":1,"event":"lost","timestamp":"{time(second)}","host":"{host}","ring_full":17,"malformed":0}}\n'

    def hours(self):
        """The day before, thinned out to its last two intervals of each hour, then the day, by the hour."""
        yield [line for hour in range(-24, 0) for second in (hour * 3600 + 3600 - self.interval, hour * 3600 + 3600)
               for line in self.tick(second)]
        for hour in range(24):
            first = hour * 3600 + self.interval
            yield (line for second in range(first, hour * 3600 + 3601, self.interval) for line in self.tick(second))

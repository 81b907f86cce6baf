#!/usr/bin/env python3
"""Draw the README's picture: docs/tcptop.svg, from a real run of tcptop.

    sudo scripts/picture.py [TCPTOP] > docs/tcptop.svg

As root, with curl, dig, dnsmasq and ip.  Makes two network namespaces with a link between
them, of 6 ms each way where the kernel has netem: "here" has the address of a host, "there"
those of the world.  A download runs from before the start of tcptop; then come a DNS lookup, a short request and a
connection that is refused.  tcptop writes to a terminal of a fixed size, and each character
that it writes has its place in a grid, whatever font the reader has.
"""
import contextlib
import fcntl
import html
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

COLUMNS, ROWS = 124, 40
HERE, THERE = f"here-{os.getpid()}", f"there-{os.getpid()}"
ARGUMENTS = ["--local", "192.0.2.10"]
WORLD = ["198.51.100.7", "203.0.113.80", "198.51.100.5"]


# Serves a short page, and a long file at 2 MB/s.
SERVER = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/":
            self.wfile.write(b"<p>hello</p>\\n" * 3000)
        while self.path == "/image.iso":
            self.wfile.write(bytes(20_000))
            time.sleep(0.01)
http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""


def run(*command):
    subprocess.run(command, check=True)


@contextlib.contextmanager
def network():
    """Both namespaces, with the link between them."""
    try:
        for name in (HERE, THERE):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", HERE, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", THERE)
        run("ip", "-n", HERE, "address", "add", "192.0.2.10/24", "dev", "eth0")
        run("ip", "-n", THERE, "address", "add", "192.0.2.1/24", "dev", "eth0")
        for name in (HERE, THERE):
            run("ip", "-n", name, "link", "set", "eth0", "up")
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "netem",
                            "delay", "6ms"], check=False, stderr=subprocess.DEVNULL)
        for address in WORLD:
            run("ip", "-n", THERE, "address", "add", f"{address}/32", "dev", "lo")
        run("ip", "-n", HERE, "route", "add", "default", "via", "192.0.2.1")
        yield
    finally:
        for name in (HERE, THERE):
            subprocess.run(["ip", "netns", "delete", name], check=False)


@contextlib.contextmanager
def started(where, *command):
    """A program that runs until the block ends."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", where, *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def within(what, seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"picture.py: {what}: not within {seconds} s")
        time.sleep(0.05)


def here(*command):
    """Runs a program to its end, and says whether it succeeded."""
    return subprocess.run(["ip", "netns", "exec", HERE, *command],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


class Screen:
    """A terminal that keeps what is written to it."""

    def __init__(self, *command):
        self.text = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", NO_COLOR="")
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
            os.execvp(command[0], command)
        os.set_blocking(self.terminal, False)

    def read(self):
        with contextlib.suppress(OSError):
            while chunk := os.read(self.terminal, 65536):
                self.text += chunk
        return self.text.decode()

    def stop(self):
        os.kill(self.pid, signal.SIGINT)
        within("the end of tcptop", 20, lambda: "lost:" in self.read())
        os.waitpid(self.pid, 0)
        return self.read()


def record(tcptop):
    names = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
             "--listen-address=198.51.100.5", "--bind-interfaces",
             "--address=/www.example.org/203.0.113.80"]
    ask = ["dig", "+tries=1", "@198.51.100.5", "www.example.org"]
    page = ["curl", "-s", "http://203.0.113.80/"]
    download = ["curl", "-s", "http://198.51.100.7/image.iso"]
    with network(), started(THERE, sys.executable, "-c", SERVER), started(THERE, *names):
        within("the web server", 20, lambda: here(*page))
        within("the name server", 20, lambda: here(*ask))
        with started(HERE, *download):
            time.sleep(1)
            screen = Screen(tcptop, *ARGUMENTS)
            within("tcptop's start", 20, lambda: "[PARTIAL]" in screen.read())
            time.sleep(0.5)
            here(*ask)
            time.sleep(0.8)
            here(*page)
            here("curl", "-s", "http://203.0.113.80:8443/")
            time.sleep(1.2)
            return screen.stop()


# --- drawing ---------------------------------------------------------------------------
WIDTH, HEIGHT, MARGIN, SIZE = 8, 19, 16, 13
COLOURS = {"": "#d7dde4", "31": "#ff8e86", "32": "#7ee787", "prompt": "#8b949e"}


def segments(line):
    """The parts of a line with their colours: those that tcptop uses."""
    colour, at = "", 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if code := re.fullmatch(r"\x1b\[([0-9;]*)m", part):
            colour = code[1] if code[1] in COLOURS else ""
        elif part:
            yield at, colour, part
            at += len(part)


def draw(text):
    lines = [(f"$ sudo tcptop {' '.join(ARGUMENTS)}", "prompt")]
    lines += [(line, "") for line in text.replace("\r", "").rstrip("\n").split("\n")]
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" role="img" '
           f'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" '
           f'font-size="{SIZE}" xml:space="preserve">',
           "<title>tcptop in a terminal</title>",
           f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" '
           'fill="#161b22" stroke="#57606a"/>']
    for row, (line, usual) in enumerate(lines):
        y = MARGIN + row * HEIGHT + SIZE
        for at, colour, part in segments(line):
            # Blanks need no ink, and each word has its place.
            for word in re.finditer(r"\S+(?: \S+)*", part):
                x = MARGIN + (at + word.start()) * WIDTH
                out.append(f'<text x="{x}" y="{y}" fill="{COLOURS[colour or usual]}" '
                           f'textLength="{len(word[0]) * WIDTH}" lengthAdjust="spacingAndGlyphs">'
                           f"{html.escape(word[0], quote=False)}</text>")
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("picture.py: run it as root: it makes network namespaces")
    sys.stdout.write(draw(record(sys.argv[1] if len(sys.argv) > 1 else "target/release/tcptop")))

"""The serving process: what it logs, and how it ends."""

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.unit.web_support import PATIENCE

# A pass that hangs as in a read the kernel never ends: it hears no signal and no cancellation.
SERVER = """
import asyncio, signal, sys, threading
from tests.unit.web_support import FakeSource
from worker_exporter import log
from worker_exporter.web.app import Site
from worker_exporter.web.listen import open_sockets, parse_address
from worker_exporter.web.serve import serve

class Hung(FakeSource):
    def scrape(self, selected, patience):
        print("began", flush=True)
        threading.Event().wait()

log.setup("info", "logfmt")
source = {"hung": Hung, "free": FakeSource}[sys.argv[1]]()
asyncio.run(serve(source, Site(), open_sockets(map(parse_address, sys.argv[2:]))))
"""
LISTENING = re.compile(r'ts=\S+Z level=info msg="listening" address=(.+):(\d+) tls=false\n')


class Server:
    """A serving process and the connections of its clients."""

    def __init__(self, kind: str, *addresses: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, kind, *addresses],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.places = [
            match.groups()
            for _ in addresses
            if (match := LISTENING.fullmatch(self.process.stderr.readline()))
        ]

    def connect(self, place: int = 0) -> http.client.HTTPConnection:
        host, port = self.places[place]
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=PATIENCE)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """The exit code after a signal, and the log's last lines."""
        self.process.send_signal(number)
        try:
            _, rest = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail("still there long after the signal")
        return self.process.returncode, rest


@contextmanager
def server(kind: str, *addresses: str) -> Iterator[Server]:
    started = Server(kind, *addresses)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def test_each_address_is_logged_and_answers() -> None:
    with server("free", "127.0.0.1:0", "[::1]:0", "127.0.0.1:0") as started:
        assert [host for host, _ in started.places] == ["127.0.0.1", "[::1]", "127.0.0.1"]
        for place in range(3):
            connection = started.connect(place)
            connection.request("GET", "/-/ready")
            assert connection.getresponse().read() == b"ready\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_idle_connections_open(number: signal.Signals) -> None:
    with server("free", "127.0.0.1:0") as started:
        idle = started.connect()
        idle.request("GET", "/metrics")
        assert idle.getresponse().read() == b"text 1 cpu,io,memory\n"
        silent = started.connect()
        silent.connect()
        code, rest = started.end(number)
        assert code == 0
        assert rest.endswith('msg="stopping"\n') and rest.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_a_pass_hangs(number: signal.Signals) -> None:
    with server("hung", "127.0.0.1:0") as started:
        waiting = started.connect()
        waiting.request("GET", "/metrics")
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == "began\n"
        code, rest = started.end(number)
        assert code == 0
        assert rest.endswith('msg="stopping"\n') and rest.count("\n") == 1

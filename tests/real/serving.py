"""`worker-sidecar serve` as a process of its own, on plain cgroups, and clients of it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support import follow_parent, remove_cgroup
from tests.tools import missing

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError
from worker_sidecar.launch.cgroupfs import unavailable

PATIENCE = 30.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

TOKEN = "a-token-of-the-tests-0123456789"
WORKERS = "/api/v1/workers"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("sidecar", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class Log:
    """What a process has said so far, and waiting for what it will say."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

    def wait(self, pattern: str, times: int = 1) -> re.Match[str]:
        """The line number `times` that has `pattern` in it."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= times or self._ended, PATIENCE)
            matches = found()
        assert len(matches) >= times, f"never said {pattern!r}: " + "".join(self.lines)
        return matches[times - 1]

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@dataclass(slots=True)
class Server:
    """A serving sidecar, and where to ask it."""

    process: "subprocess.Popen[str]"
    socket: str
    log: Log
    tcp: int = 0
    telemetry: int = 0

    def connect(self) -> http.client.HTTPConnection:
        """A connection over the Unix socket."""
        return UnixConnection(self.socket)

    def connect_tcp(self, port: int) -> http.client.HTTPConnection:
        """A connection to a port on the loopback."""
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of one answer over the Unix socket."""
        return asked(self.connect(), method, path, body)

    def metrics(self) -> str:
        """The sidecar's own metrics."""
        with contextlib.closing(self.connect_tcp(self.telemetry)) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def asked(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and JSON of one answer; the connection is closed."""
    with contextlib.closing(connection):
        sent = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, sent, {**kind, **(headers or {})})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@dataclass(slots=True)
class Ground:
    """Where a test's sidecars live: their files, and the slice of their workers."""

    folder: Path
    slice_name: str

    @property
    def file(self) -> Path:
        """Their workers.yaml."""
        return self.folder / "workers.yaml"

    @property
    def token(self) -> Path:
        """The file of their token."""
        path = self.folder / "token"
        if not path.exists():
            path.touch(0o600)
            path.write_text(TOKEN)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """That of every sidecar here: run and log directories of the test's own."""
        own = {
            "RUNTIME_DIRECTORY": str(self.folder / "run"),
            "LOGS_DIRECTORY": str(self.folder / "log"),
        }
        return {**os.environ, **own}

    def command(self, name: str, *arguments: str) -> list[str]:
        """A command line of the sidecar for this ground."""
        common = ("--launcher", "cgroupfs", "--file", str(self.file))
        return [sys.executable, "-P", "-m", "worker_sidecar", name, *common, *arguments]

    def run(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One command of the sidecar, to its end."""
        return subprocess.run(
            self.command(name, *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    @contextlib.contextmanager
    def serving(self, *arguments: str) -> Iterator[Server]:
        """A sidecar that serves, ended at the end if it has not ended yet."""
        addresses = ("--telemetry-address", "127.0.0.1:0", "--listen-address", "127.0.0.1:0")
        token = ("--token-file", str(self.token))
        with self.running(self.command("serve", *addresses, *token, *arguments)) as server:
            yield server

    @contextlib.contextmanager
    def running(self, command: Sequence[str]) -> Iterator[Server]:
        """As serving(), by a program of the test's own."""
        path = str(self.folder / "run" / "api.sock")
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=partial(follow_parent, os.getpid()),
        )
        server = Server(process, path, Log(process))
        try:
            server.tcp = int(server.log.wait(r"serves=api address=\S+:(\d+)")[1])
            server.telemetry = int(server.log.wait(r"serves=metrics address=\S+:(\d+)")[1])
            yield server
        finally:
            process.kill()
            process.wait()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Ask until `condition` holds; for what nothing tells of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def made_ground(folder: Path, slice_name: str, text: str) -> Iterator[Ground]:
    """A ground with the workers.yaml `text`, cleared at the end; else the test is skipped."""
    if os.geteuid() != 0:
        missing("workers of their own user need root")
    try:
        mount = find_mount().path
    except UserError as error:
        missing(str(error))
    if refused := unavailable(mount, slice_name):
        missing(refused)
    ground = Ground(folder, slice_name)
    ground.file.write_text(text)
    try:
        yield ground
    finally:
        remove_cgroup(f"{mount}/{slice_name}")


def bearer(token: str = TOKEN) -> dict[str, str]:
    """The header that lets a TCP client in."""
    return {"Authorization": f"Bearer {token}"}

"""Servers of a fleet: Prometheus at the centre and as agents, VictoriaMetrics and vmalert."""

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.prometheus import Prometheus, wait_for
from tests.support import end, follow_parent, free_port
from tests.tools import require

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy/prometheus"
RULES = ROOT / "alerts"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server on a port of the loopback."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def queries(self) -> Prometheus:
        """Its query API, where it has Prometheus's."""
        return Prometheus(self.process.pid, self.port, self.log)

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def answers(self, path: str) -> bool:
        """Whether `path` is there by now. Raises AssertionError when the server has ended."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status == 200
        except OSError:
            return False


@contextlib.contextmanager
def running(
    command: Sequence[str],
    listen: str,
    folder: Path,
    ready: str = "/-/ready",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server, once it is ready; `listen` is its option for an address. It is ended at the end.

    `environment` is added to that of the test.
    """
    program, *options = command
    port, log = free_port(), folder / f"{Path(program).name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [require(program), *options, f"{listen}=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
    try:
        server = Server(process, port, log)
        wait_for(lambda: server.answers(ready), f"{program} to be ready")
        yield server
    finally:
        end(process)


@contextlib.contextmanager
def prometheus(folder: Path, edits: Mapping[str, str], *options: str) -> Iterator[Server]:
    """A central Prometheus with the shipped configuration and `edits` of it, in `folder`.

    It has the shipped rules, evaluated every other second, and no targets but those put into
    folder/targets.
    """
    (folder / "targets").mkdir(parents=True)
    (folder / "prometheus.yml").write_text(edited(DEPLOY / "prometheus.yml", edits))
    shipped_rules(folder / "rules")
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--log.level=debug",
        *options,
    ]
    with running(command, "--web.listen-address", folder) as server:
        yield server


@contextlib.contextmanager
def agent(folder: Path, node: str, edits: Mapping[str, str]) -> Iterator[Server]:
    """A Prometheus in agent mode with the shipped configuration and `edits` of it, in `folder`.

    `node` is in its environment as NODE.
    """
    folder.mkdir()
    (folder / "agent.yml").write_text(edited(DEPLOY / "agent.yml", edits))
    command = [
        "prometheus",
        "--enable-feature=agent,expand-external-labels",
        "--config.file=agent.yml",
        "--storage.agent.path=data",
    ]
    with running(command, "--web.listen-address", folder, environment={"NODE": node}) as server:
        yield server


@contextlib.contextmanager
def victoriametrics(folder: Path) -> Iterator[Server]:
    """VictoriaMetrics with its data in `folder`, which shows samples at once."""
    folder.mkdir()
    command = [
        "victoria-metrics",
        "-storageDataPath=data",
        "-search.latencyOffset=0s",
        "-search.disableCache",
        "-memory.allowedBytes=256MB",
    ]
    with running(command, "-httpListenAddr", folder, "/health") as server:
        yield server


@contextlib.contextmanager
def vmalert(folder: Path, storage: Server, rules: Path) -> Iterator[Server]:
    """vmalert on the rules in a folder; what it records goes to the storage that it asks.

    Nobody takes its alerts.
    """
    folder.mkdir()
    command = [
        "vmalert",
        f"-rule={rules}/*.yml",
        f"-datasource.url={storage.url}",
        f"-remoteWrite.url={storage.url}",
        "-remoteWrite.flushInterval=200ms",
        f"-notifier.url=http://127.0.0.1:{free_port()}",
    ]
    with running(command, "-httpListenAddr", folder, "/health") as server:
        yield server


def shipped_rules(folder: Path) -> None:
    """The shipped rules in `folder`, evaluated every other second, firing without a wait."""
    folder.mkdir()
    for name in ("recording.yml", "alerts.yml"):
        text = edited(RULES / name, {"interval: 30s": "interval: 2s"})
        for wait in ("1m", "2m", "5m", "10m", "15m", "1h"):
            text = text.replace(f"for: {wait}\n", "for: 0s\n")
        assert "for: 0s" in text or "alert:" not in text
        (folder / name).write_text(text)


def edited(file: Path, edits: Mapping[str, str]) -> str:
    """The text of `file` with each key of `edits` replaced by its value; each must be there."""
    text = file.read_text()
    for old, new in edits.items():
        assert old in text, f"{file.name} does not say {old!r}"
        text = text.replace(old, new)
    return text


def copied_deployment(folder: Path) -> Path:
    """A copy of deploy/prometheus, with the rules where it looks for them."""
    shutil.copytree(DEPLOY, folder)
    shutil.copytree(RULES, folder / "rules", ignore=shutil.ignore_patterns("tests"))
    return folder


@contextlib.contextmanager
def http_sd(groups: list[dict[str, Any]]) -> Iterator[str]:
    """The URL of a server for http_sd that answers with `groups` as they are then."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(groups).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/workers"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

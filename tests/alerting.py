"""The way from an alert to a person: a real Alertmanager and the shipped files, in quick motion.

Used by the tests on the host and by those in the virtual machine.
"""

import contextlib
import functools
import http.client
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support import end, follow_parent, free_port

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "alerts"
SHIPPED = ROOT / "deploy/alertmanager/alertmanager.yml"

PATIENCE = 300.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

PROMETHEUS_URL = "http://prometheus:9090"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"\d+[smhd]"
_TIMES = ("group_wait", "group_interval", "repeat_interval")


def hastened(duration: str, times: int) -> str:
    """A duration such as 2m as one of so many times less, in milliseconds."""
    return f"{int(duration[:-1]) * _UNITS[duration[-1]] * 1000 // times}ms"


def write_rules(folder: Path, times: int, at_once: Container[str] = ()) -> None:
    """The shipped rules in `folder`, except that every duration in them is so many times less.

    Then scrapes have to come so many times as often, too. Alerts in `at_once` wait for nothing.
    """
    for name in ("recording.yml", "alerts.yml"):
        document = yaml.safe_load((ALERTS / name).read_text())
        for group in document["groups"]:
            group["interval"] = hastened(group["interval"], times)
            rules = [_hastened_rule(rule, times) for rule in group["rules"]]
            group["rules"] = [
                {**rule, "for": "0s"} if rule.get("alert") in at_once else rule for rule in rules
            ]
        (folder / name).write_text(yaml.safe_dump(document))


def _hastened_rule(rule: dict[str, Any], times: int) -> dict[str, Any]:
    changed = {**rule, "expr": _hastened_windows(rule["expr"], times)}
    if "for" in rule:
        changed["for"] = hastened(rule["for"], times)
    if "annotations" in rule:
        changed["annotations"] = {
            name: _hastened_windows(text, times) for name, text in rule["annotations"].items()
        }
    return changed


def _hastened_windows(text: str, times: int) -> str:
    """An expression, or a template with queries in it, with shorter windows and offsets."""

    def shorter(found: re.Match[str]) -> str:
        return re.sub(_DURATION, lambda each: hastened(each[0], times), found[0])

    return re.sub(rf"\[{_DURATION}(?::(?:{_DURATION})?)?\]|\boffset {_DURATION}", shorter, text)


def sending_to(port: int, rules: Path) -> Callable[[str], str]:
    """Changes the text of the shipped prometheus.yml: the Alertmanager on this port of the
    loopback, and the rules of this folder.
    """

    def edit(text: str) -> str:
        config = yaml.safe_load(text)
        assert config["rule_files"] and config["alerting"]["alertmanagers"]
        config["rule_files"] = [str(rules / "*.yml")]
        at = {"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        config["alerting"]["alertmanagers"] = [at]
        return str(yaml.safe_dump(config))

    return edit


def routed_to(url: str, times: int = 1) -> dict[str, Any]:
    """The shipped Alertmanager configuration with its receivers filled in, `times` as fast.

    Each has a webhook at `url`, its name for the path; only `nobody` stays as it is.
    """
    config = shipped(times)
    for receiver in config["receivers"]:
        if receiver["name"] != "nobody":
            hook = {"url": f"{url}/{receiver['name']}"}
            receiver.update(slack_configs=[], webhook_configs=[hook])
    return config


def shipped(times: int = 1) -> dict[str, Any]:
    """The shipped Alertmanager configuration, `times` as fast."""
    config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    config["templates"] = [str(SHIPPED.parent / each) for each in config["templates"]]
    for route in (config["route"], *config["route"]["routes"]):
        route.update({key: hastened(route[key], times) for key in _TIMES if key in route})
    return config


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a message."""

    firing: bool
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        """Its alertname."""
        return self.labels["alertname"]


@dataclass(frozen=True, slots=True)
class Message:
    """What one receiver got at once."""

    receiver: str
    content: dict[str, Any] = field(repr=False)

    @property
    def alerts(self) -> list[Alert]:
        """The alerts of a webhook's message."""
        return [
            Alert(each["status"] == "firing", each["labels"], each["annotations"])
            for each in self.content["alerts"]
        ]


class Inbox:
    """The messages that came to a web server, and waiting for one."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._news = threading.Condition()

    def put(self, message: Message) -> None:
        """Take a message."""
        with self._news:
            self._messages.append(message)
            self._news.notify_all()

    @property
    def messages(self) -> list[Message]:
        """All until now."""
        with self._news:
            return list(self._messages)

    @property
    def fired(self) -> set[tuple[str, str, str]]:
        """What was ever said to fire: receiver, alertname, and node."""
        return {
            (message.receiver, alert.name, alert.labels.get("node", ""))
            for message in self.messages
            for alert in message.alerts
            if alert.firing
        }

    def message(self, wanted: Callable[[Message], bool], what: str, times: int = 1) -> Message:
        """The message number `times` that is wanted, waited for."""
        with self._news:
            self._news.wait_for(lambda: sum(map(wanted, self._messages)) >= times, PATIENCE)
            found = [each for each in self._messages if wanted(each)]
        got = "".join(
            f"\n{each.receiver}: {json.dumps(each.content)[:500]}" for each in self.messages
        )
        assert len(found) >= times, f"never got {what}, but{got}"
        return found[times - 1]

    def alert(self, name: str, **labels: str) -> tuple[str, Alert]:
        """The first firing alert `name` with at least `labels`, waited for, and its receiver."""

        def matching(message: Message) -> list[Alert]:
            return [
                alert
                for alert in message.alerts
                if alert.firing and alert.labels.items() >= {"alertname": name, **labels}.items()
            ]

        message = self.message(lambda each: bool(matching(each)), f"{name} {labels}")
        return message.receiver, matching(message)[0]


@contextlib.contextmanager
def running_inbox() -> Iterator[tuple[Inbox, str]]:
    """A web server on the loopback that takes every message, and its URL."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.put(Message(self.path.strip("/"), json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            # Alertmanager takes any other text for an error of the chat's.
            self.wfile.write(b"ok")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing: the messages say it all."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield inbox, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """A running server."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, alerts: Sequence[dict[str, str]]) -> None:
        """Have alerts with these labels fire."""
        body = [{"labels": labels, "generatorURL": PROMETHEUS_URL} for labels in alerts]
        self.post_whole(body)

    def post_whole(self, alerts: Sequence[dict[str, Any]]) -> None:
        """Send alerts as Prometheus does."""
        status, answer = self._request("POST", "/api/v2/alerts", json.dumps(alerts))
        assert status == 200, answer

    def get(self, what: str) -> Any:
        """An answer of its API, such as that on `alerts`."""
        status, answer = self._request("GET", f"/api/v2/{what}")
        assert status == 200, answer
        return json.loads(answer)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self._request("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def running_alertmanager(
    program: str, folder: Path, config: dict[str, Any]
) -> Iterator[Alertmanager]:
    """`program` with `config`, its files in the folder."""
    folder.mkdir(exist_ok=True)
    file, log = folder / "alertmanager.yml", folder / "alertmanager.log"
    file.write_text(yaml.safe_dump(config))
    server = Alertmanager(free_port(), log)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{server.port}",
                "--cluster.listen-address=",
                "--log.level=debug",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.is_ready():
            assert process.poll() is None, f"Alertmanager ended: {log.read_text()[-1000:]}"
            assert time.monotonic() < deadline, "Alertmanager does not answer"
            time.sleep(0.05)
        yield server
    finally:
        end(process)

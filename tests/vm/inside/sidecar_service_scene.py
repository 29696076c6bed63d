"""What the checks on the installed service share: its files, its API, and the command line."""

import http.client
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from .workers import wait_for

BIN = Path("/opt/worker-exporter/bin")
SIDECAR = str(BIN / "worker-sidecar")
DEPLOY = Path(__file__).parents[1] / "deploy" / "worker-sidecar"
UNIT = "worker-sidecar.service"
SOCKET = "/run/worker-sidecar/api.sock"
SOCKET_GROUP = "users"
FILE = Path("/etc/worker-sidecar/workers.yaml")
PROGRAMS = Path(__file__).with_name("sidecar_programs.py")
METRICS = "http://127.0.0.1:10391/metrics"

# `serve.py` of the worker is Python's own web server: a real worker with a real probe.
DECLARED = f"""\
services:
  web:
    command: [/usr/bin/python3, -m, http.server, "{{port}}", --bind, 127.0.0.1]
    user: nobody
    directory: /usr/share
    restart: always
    limits: {{memory: 96M, tasks: 8, cpu: 50%}}
    total: {{memory: 300M}}
    health: {{http: "http://127.0.0.1:{{port}}/", interval: 5s, timeout: 5s}}
    parameters:
      port: {{type: integer, min: 8000, max: 8999}}
      model: {{type: string, default: plain}}
    instances: {{8091: , 8092: {{model: fancy}}}}
  rest:
    command: [/usr/bin/python3, {PROGRAMS}, rest, "{{text}}"]
    user: daemon
    parameters:
      text: {{type: string, default: one}}
    instances: {{a: , b: , c: }}
"""
DECLARED_NAMES = ["rest/a", "rest/b", "rest/c", "web/8091", "web/8092"]


def install() -> None:
    """The unit and workers.yaml where docs/sidecar.md says; the service is started."""
    FILE.parent.mkdir()
    FILE.write_text(DECLARED)
    FILE.chmod(0o600)
    shutil.copy(DEPLOY / UNIT, f"/etc/systemd/system/{UNIT}")
    drop_in = Path(f"/etc/systemd/system/{UNIT}.d/group.conf")
    drop_in.parent.mkdir()
    start = f"{SIDECAR} serve --socket-group={SOCKET_GROUP}"
    drop_in.write_text(f"[Service]\nExecStart=\nExecStart={start}\n")
    systemctl("daemon-reload")
    systemctl("start", UNIT)


def systemctl(*words: str) -> str:
    """What systemctl prints."""
    return subprocess.check_output(["systemctl", *words], text=True).strip()


def show(unit: str, name: str) -> str:
    """A property of a unit, from systemctl."""
    return systemctl("show", f"--property={name}", "--value", unit)


def unit_of(name: str) -> str:
    """The unit of the worker service/instance."""
    return f"worker-{name.replace('/', '@')}.service"


def run(*words: str, code: int = 0) -> str:
    """What the sidecar's command line prints; it must end with `code`."""
    done = subprocess.run([SIDECAR, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def ps() -> dict[str, dict[str, Any]]:
    """The workers by name, as `ps -o json` has them."""
    found: list[dict[str, Any]] = json.loads(run("ps", "-o", "json"))
    return {f"{each['service']}/{each['instance']}": each for each in found}


def pids() -> dict[str, str]:
    """The main process of each declared worker, from systemctl; "0" for none."""
    return {name: show(unit_of(name), "MainPID") for name in DECLARED_NAMES}


class OverSocket(http.client.HTTPConnection):
    """HTTP over the API's socket."""

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(600)
        self.sock.connect(SOCKET)


def api(method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and content of an answer of the API."""
    connection = OverSocket("localhost")
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def await_service() -> None:
    """Wait until all that is declared runs, and nothing is left to be done."""
    wait_for(lambda: all(pid != "0" for pid in pids().values()), "the declared workers")
    assert run("apply").splitlines()[-1] == f"workers: {len(DECLARED_NAMES)} left"


def as_nobody(act: str) -> int:
    """The exit code of a Python program that runs as uid 65534, without any group."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.execv("/usr/bin/python3", ["python3", "-c", act])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

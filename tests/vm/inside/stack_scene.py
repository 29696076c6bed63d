"""The stack in the guest: Docker as Debian ships it, Docker Compose, and what both say."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .sidecar_docker_daemon import inspect
from .workers import wait_for

CHECKOUT = Path("/opt/payload")
PLUGINS = Path("/usr/libexec/docker/cli-plugins")
UNITS = ("docker.service", "docker.socket", "containerd.service")
PROMETHEUS = "http://127.0.0.1:9090"
ALERTMANAGER = "http://127.0.0.1:9093"
WITH_UNITS = "docker-compose.units.yml"
# Made here: what the images of this run need.
STANDINS = "standins.yml"


@contextmanager
def docker_engine() -> Iterator[None]:
    """Debian's Docker with its own units, and Docker Compose, until the context ends."""
    PLUGINS.mkdir(parents=True, exist_ok=True)
    shutil.copy(CHECKOUT / "docker-compose", PLUGINS)
    for unit in UNITS:
        Path("/etc/systemd/system", unit).unlink()
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start", "docker"], check=True)
    try:
        yield
    finally:
        subprocess.run(["systemctl", "stop", *UNITS], check=True)


def compose(
    *words: str, files: tuple[str, ...] = (), check: bool = True, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`docker compose` in the checkout, with `files` beside docker-compose.yml."""
    own = [name for name in (STANDINS,) if (CHECKOUT / name).exists()]
    named = [f"--file={name}" for name in ("docker-compose.yml", *own, *files)]
    command = ["docker", "compose", "--progress=plain", *named, *words]
    surroundings = os.environ | environment
    done = subprocess.run(command, cwd=CHECKOUT, env=surroundings, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed: {done.stdout}{done.stderr[-4000:]}")
    return done


def model() -> dict[str, Any]:
    """The stack as Docker Compose understands it."""
    found: dict[str, Any] = json.loads(compose("config", "--format=json").stdout)
    return found


def container(service: str) -> dict[str, Any]:
    """What `docker inspect` says of the container of a service."""
    return inspect(f"worker-exporter-{service}-1")


def log_of(service: str) -> list[str]:
    """What its container has said."""
    return compose("logs", "--no-color", "--no-log-prefix", service).stdout.splitlines()


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process, see proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def ask(url: str) -> Any:
    """The JSON of an answer. Raises OSError where there is none, or an error."""
    with urllib.request.urlopen(url, timeout=120) as answer:
        return json.load(answer)


def series(expression: str) -> list[tuple[dict[str, str], float]]:
    """Labels and values of an instant query."""
    url = f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    found = ask(url)["data"]["result"]
    return [(each["metric"], float(each["value"][1])) for each in found]


def await_series(expression: str) -> list[tuple[dict[str, str], float]]:
    """As series(), once there is one."""
    wait_for(lambda: bool(series(expression)), expression)
    return series(expression)


def hostname() -> str:
    """The guest's own name."""
    return os.uname().nodename

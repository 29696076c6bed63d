"""Checks on the container's view of workers that systemd runs on the host, and what spoils it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import figure_checks as figure
from . import identity_checks as identity
from .scene import settled_window
from .scraped import await_exporter, scrape
from .sidecar_docker_daemon import docker
from .stack_scene import (
    CHECKOUT,
    WITH_UNITS,
    await_series,
    compose,
    container,
    hostname,
    log_of,
    model,
)
from .window import Window
from .workers import (
    DUPLICATES,
    FROZEN,
    LLM,
    MEMORY,
    QUOTA,
    SLICE_LIMITS,
    SLICES,
    WORKERS,
    started,
)

Check = Callable[[Window], None]

FLAGS = "flags.yml"
OF_NAMESPACES = {
    "another cgroup namespace": ("--pid=host", "--cgroupns=private"),
    "another PID namespace": ("--cgroupns=host",),
}


@contextmanager
def workers() -> Iterator[None]:
    """All the workers of the run `unified`, until the context ends."""
    for name, limit in SLICE_LIMITS.items():
        subprocess.run(["systemctl", "set-property", "--runtime", name, limit], check=True)
    with started(WORKERS + DUPLICATES):
        subprocess.run(["systemctl", "freeze", FROZEN.unit], check=True)
        yield


def workers_reach_prometheus() -> None:
    """Those in worker.slice, as the stack is, under the host's name."""
    for worker in (LLM, QUOTA, MEMORY):
        assert scrape().value("worker_up", worker.labels) == 1, worker.unit
    names = 'service="llm",instance="8080"'
    ((labels, _),) = await_series(f"worker_info{{{names}}}")
    assert (labels["node"], labels["instance"]) == (hostname(), "8080"), labels
    assert not [line for line in log_of("exporter") if "level=warn" in line], log_of("exporter")


def units_need_one_more_file() -> None:
    """With the bus it says what systemd knows."""
    assert not scrape().samples.get("worker_unit_state")
    flags = ["--collector.units", "--worker.user-managers"]
    command = [*flags, *(f"--worker.slice={name}" for name in SLICES)]
    override = {"services": {"exporter": {"command": command}}}
    (CHECKOUT / FLAGS).write_text(json.dumps(override))
    compose("up", "--detach", "--no-build", "exporter", files=(WITH_UNITS, FLAGS))
    await_exporter()
    said = settled_window().scrape
    assert said.value("worker_unit_state", LLM.labels | {"state": "active"}) == 1
    assert not [line for line in log_of("exporter") if "level=warn" in line], log_of("exporter")


def start_time(window: Window) -> None:
    """That of the main process, as systemd has it, by the host's clock."""
    value = window.scrape.value("worker_start_time_seconds", LLM.labels)
    said = float(window.before[LLM].properties["ExecMainStartTimestamp"].removeprefix("@"))
    assert abs(value - said) <= identity.START_SLACK_SECONDS, (value, said)


FIGURES: tuple[Check, ...] = (
    identity.workers_found,
    identity.duplicates_counted,
    identity.metadata,
    identity.up,
    identity.frozen,
    start_time,
    identity.process_count,
    identity.node,
    identity.nothing_failed,
    identity.openmetrics,
    figure.cpu_seconds,
    figure.cpu_modes,
    figure.cpu_throttled,
    figure.cpu_limit,
    figure.memory_current,
    figure.memory_peak_and_swap,
    figure.memory_kinds,
    figure.memory_limits,
    figure.memory_events,
    figure.unlimited_is_absent,
    figure.io_bytes,
    figure.pressure,
    figure.tasks,
)


def figures_are_the_hosts() -> None:
    """Each as systemctl and the kernel's files have it, of every kind of worker."""
    window = settled_window()
    wrong = [text for check in FIGURES if (text := _fault(check, window))]
    assert not wrong, "\n".join(wrong)


def foreign_namespaces_are_told() -> None:
    """Without an option that the stack gives it, one line says so and what to do."""
    mount = "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro"
    for said, options in OF_NAMESPACES.items():
        words = ("worker-exporter", "--no-collector.units", "once")
        done = docker("run", "--rm", "--network=none", *options, mount, *words)
        (warning,) = (line for line in done.stderr.splitlines() if "level=warn" in line)
        assert said in warning and "--cgroupns=host --pid=host" in warning, warning


def exporter_ends_at_once() -> None:
    """SIGTERM is enough, and no failure."""
    compose("stop", "--timeout=60", "exporter")
    assert container("exporter")["State"]["ExitCode"] == 0, container("exporter")["State"]
    assert 'msg="stopping"' in log_of("exporter")[-1], log_of("exporter")


def host_without_a_name_is_refused() -> None:
    """One line says what to do, and nothing is started."""
    words = ("up", "--detach", "--no-build", "prometheus")
    done = compose(*words, check=False, NODE="localhost")
    assert done.returncode == 1, done
    assert "put NODE=NAME into .env" in log_of("setup")[-1], (done, log_of("setup"))


def down_leaves_nothing() -> None:
    """Neither containers, nor networks, nor volumes."""
    volumes = {each["name"] for each in model()["volumes"].values()}
    assert set(docker("volume", "ls", "--quiet").stdout.split()) == volumes
    compose("down", "--volumes", "--timeout=5")
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert docker("volume", "ls", "--quiet").stdout == ""
    networks = docker("network", "ls", "--format={{.Name}}").stdout.split()
    assert sorted(networks) == ["bridge", "host", "none"], networks


def _fault(check: Check, window: Window) -> str:
    try:
        check(window)
    except AssertionError as error:
        return f"{check.__name__}: {error}"
    return ""

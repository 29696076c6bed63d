"""Every query of the dashboards and the rules, on a real Prometheus of a host that is at work.

The workers are processes in real cgroups, started by a real sidecar; of NVIDIA's driver there is
the stand-in. What this kind of host cannot have is listed, with the reason.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml
from bench.prometheus import Prometheus, Target, running_prometheus, wait_for
from tests.nvml.host import made_sysfs
from tests.nvml.standin import GIB, Standin, gpu
from tests.queries import RULES, Api, Checker, Query, check
from tests.real.serving import WORKERS, Server, made_ground
from tests.support import running_exporter
from tests.tools import require

SLICE = f"querytest{os.getpid()}.slice"
NODE = "here"

FILE = f"""
slice: {SLICE}
services:
  llm:
    command: [sh, -c, 'while :; do :; sleep 0.02; done']
    user: root
    health: {{command: ['true'], interval: 500ms, timeout: 400ms}}
    instances: {{8080: , 8081: }}
  train:
    command: [sleep, '1000']
    user: root
    instances: {{main: }}
  broken:
    command: [/nonexistent]
    user: root
    instances: {{one: }}
"""

ALWAYS_NEW = 1 << 60
"""The time of a GPU sample that is newer than all that were seen."""

QUIET = {
    "gpu / Gone GPUs / A": "no GPU is gone",
    "(gpu|exporter) / annotation / Critical alerts": "what is critical here is about a worker",
    "rules / node:worker_targets_silent:count": "every target answers",
}
"""What finds nothing because nothing is wrong with it."""

NO_SYSTEMD = {
    "worker_unit_(state|result)": "no systemd",
    "worker_restarts_total": "no systemd",
    "worker_last_.+": "no systemd",
    "rules / WorkerOOMKilled": "no systemd: it asks whether units were told",
}

WITHOUT = {
    "cpu": {
        "worker_(service_)?cpu_limit_cores": "no cpu controller, so no quota",
        "worker_(service_)?cpu_(throttled_)?periods_total": "no cpu controller, so no quota",
        "worker_(service_)?cpu_throttled_seconds_total": "no cpu controller, so no quota",
    },
    "memory": {
        "worker_memory_(?!rss_bytes).+": "no memory controller",
        "worker_service_memory_.+": "no memory controller",
    },
    "io": {
        "worker_io_.+": "no io controller",
        "worker_service_io_.+": "no io controller",
    },
    "pids": {"worker_tasks.*": "no pids controller"},
}
"""What is absent where the workers' cgroups have not this controller."""


def absent() -> dict[str, str]:
    """What this host cannot have. The launcher turns no controller on and sets no limit here."""
    return {
        **QUIET,
        **NO_SYSTEMD,
        **{key: why for each in WITHOUT.values() for key, why in each.items()},
    }


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = require("prometheus")
    folder = tmp_path_factory.mktemp("queries")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        ground = stack.enter_context(made_ground(folder, SLICE, FILE))
        standin = Standin(folder)
        for name, value in standin.environment.items():
            patch.setenv(name, value)
        standin.is_now("hang nvmlInitWithFlags", gpu(0))
        server = stack.enter_context(ground.serving("--telemetry-address", "127.0.0.1:0"))
        server.log.wait(r'msg="workers.yaml was applied"')
        exporter = stack.enter_context(
            running_exporter(
                f"--worker.slice={SLICE}",
                "--no-collector.units",
                f"--path.sysfs={made_sysfs(folder / 'sys')}",
            )
        )
        quick_rules(folder / "rules")
        target = Target(f"{exporter.host}:{exporter.port}", NODE)
        found = stack.enter_context(running_prometheus(program, folder, [target]))
        add_sidecar(folder / "targets", server)
        wait_for(lambda: found.query(FAILING), "a scrape without GPUs")
        standin.is_now(*in_use(server))
        keep_busy(server, found)
        yield found


FAILING = 'worker_exporter_collector_success{collector="gpu"} == 0'


def quick_rules(folder: Path) -> None:
    """The shipped rules, evaluated each second, and with alerts that fire at once."""
    folder.mkdir()
    for file in RULES:
        document = yaml.safe_load(file.read_text())
        for group in document["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / file.name).write_text(yaml.safe_dump(document))


def add_sidecar(folder: Path, server: Server) -> None:
    """Have Prometheus scrape the sidecar, which is on no fixed port here."""
    labels = {"node": NODE, "job": "worker-sidecar"}
    fresh = folder / "sidecar.new"
    fresh.write_text(json.dumps([{"targets": [f"127.0.0.1:{server.telemetry}"], "labels": labels}]))
    fresh.rename(folder / "sidecar.yml")


def in_use(server: Server) -> list[str]:
    """A GPU that two workers and somebody else use, and one that is idle."""
    _, listed = server.ask("GET", f"{WORKERS}?state=running")
    pids = {worker["instance"]: worker["pid"] for worker in listed["workers"]}
    samples = [f"sample {pid} {ALWAYS_NEW} 20" for pid in pids.values()]
    held = {pids["8080"]: 30 * GIB, pids["8081"]: 20 * GIB, os.getpid(): 2 * GIB}
    return [gpu(0, *samples, compute=held, used=54 * GIB), gpu(1)]


def keep_busy(server: Server, prometheus: Prometheus) -> None:
    """Have something of everything within the time that a dashboard shows."""
    wait_for(lambda: prometheus.query("worker_sidecar_launches_total"), "the sidecar's figures")
    for number in range(3):
        body = {"service": "train", "instance": f"more{number}"}
        assert server.ask("POST", WORKERS, body)[0] == 201
    assert server.ask("DELETE", f"{WORKERS}/train/more0")[0] == 200
    launched = 'increase(worker_sidecar_launches_total{result="started"}[1m]) > 0'
    for expression in (
        launched,
        "worker:worker_gpu_memory_used_bytes:sum",
        "worker:worker_pressure_io_stalled_seconds:rate5m",
        'ALERTS{alertname="WorkerDown",alertstate="firing"}',
        'ALERTS{alertname="WorkerVRAMUnattributed",alertstate="firing"}',
        "count_over_time(worker:worker_cpu_seconds:rate2m[1m]) > 5",
    ):
        wait_for(partial(prometheus.query, expression), expression)


def test_every_query_finds_something_or_it_is_said_why_not(prometheus: Prometheus) -> None:
    check(prometheus.url, absent())


def test_an_excuse_that_does_not_hold_is_a_fault(prometheus: Prometheus) -> None:
    lies = {"worker_up": "a lie", "fleet / Running / A": "a lie", "worker_nothing": "a lie"}
    with pytest.raises(AssertionError) as failure:
        check(prometheus.url, {**absent(), **lies})
    said = str(failure.value)
    assert "worker_nothing' excuses nothing" in said
    assert "fleet / Running / A: finds something" in said


def test_what_finds_nothing_needs_an_excuse(prometheus: Prometheus) -> None:
    with pytest.raises(AssertionError) as failure:
        check(prometheus.url, {key: why for key, why in absent().items() if key not in NO_SYSTEMD})
    assert "worker / Restarts / A: finds nothing" in str(failure.value)
    assert "rules / worker:worker_restarts:increase1h: finds nothing" in str(failure.value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sum(", "parse error"),
        ("worker_upp", "finds nothing"),
        ("0 / 0 * worker_up", "finds nothing"),
        ("worker_up", ""),
    ],
)
def test_a_query_that_is_wrong_is_a_fault(
    prometheus: Prometheus, expression: str, said: str
) -> None:
    checker = Checker(Api(prometheus.url), {})
    checker.check_query(Query("x / y / A", expression, True))
    assert [each for each in checker.faults if said in each] == checker.faults
    assert bool(checker.faults) == bool(said)

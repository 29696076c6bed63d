"""From a killed worker to the person: exporter, sidecar, Prometheus and Alertmanager, all real.

All durations in the shipped rules and routes are a fifteenth, and scrapes come as much more often.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bench.prometheus import Prometheus, Target, running_prometheus, wait_for
from tests.alerting import (
    Alertmanager,
    Inbox,
    routed_to,
    running_alertmanager,
    running_inbox,
    sending_to,
    write_rules,
)
from tests.real.serving import WORKERS, Ground, Server, made_ground
from tests.support import RunningExporter, running_exporter
from tests.tools import require

SLICE = f"endtoend{os.getpid()}.slice"
HASTE = 15
DECLARED = f"""\
slice: {SLICE}
services:
  llm:
    command: [sleep, "1000"]
    user: root
    instances: {{dies: , stops: , lives: }}
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """Two nodes with the same workers, their sidecar, and who is told of them."""

    ground: Ground
    sidecar: Server
    exporters: dict[str, RunningExporter]
    prometheus: Prometheus
    inbox: Inbox


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    program = require("prometheus-alertmanager")
    with ExitStack() as stack:
        ground = stack.enter_context(made_ground(tmp_path, SLICE, DECLARED))
        sidecar = stack.enter_context(ground.serving())
        sidecar.log.wait(r'msg="workers.yaml was applied"')
        flags = (f"--worker.slice={SLICE}", "--no-collector.units")
        exporters = {
            node: stack.enter_context(running_exporter(*flags)) for node in ("seen", "blind")
        }
        inbox, url = stack.enter_context(running_inbox())
        config = routed_to(url, HASTE)
        alertmanager = stack.enter_context(
            running_alertmanager(program, tmp_path / "alertmanager", config)
        )
        prometheus = stack.enter_context(
            alerting_prometheus(tmp_path, exporters, sidecar, alertmanager)
        )
        yield Scene(ground, sidecar, exporters, prometheus, inbox)


@contextmanager
def alerting_prometheus(
    folder: Path,
    exporters: dict[str, RunningExporter],
    sidecar: Server,
    alertmanager: Alertmanager,
) -> Iterator[Prometheus]:
    """The shipped configuration and rules; the sidecar is that of every node."""
    home = folder / "prometheus"
    (home / "rules").mkdir(parents=True)
    write_rules(home / "rules", HASTE)
    edit = sending_to(alertmanager.port, home / "rules")
    targets = [Target(f"{each.host}:{each.port}", node) for node, each in exporters.items()]
    with running_prometheus(require("prometheus"), home, targets, edit=edit) as prometheus:
        # A target with a job of its own is the sidecar's, whatever its port.
        address = f"127.0.0.1:{sidecar.telemetry}"
        sidecars = [
            {"targets": [address], "labels": {"node": node, "job": "worker-sidecar"}}
            for node in exporters
        ]
        (home / "sidecars.new").write_text(yaml.safe_dump(sidecars))
        (home / "sidecars.new").rename(home / "targets/sidecars.yml")
        yield prometheus


def pid(scene: Scene, instance: str) -> int:
    """The process of a worker."""
    status, worker = scene.sidecar.ask("GET", f"{WORKERS}/llm/{instance}")
    assert status == 200
    return int(worker["pid"])


def evaluated(prometheus: Prometheus) -> float:
    """When the alerts were last evaluated: one always fires."""
    [sample] = prometheus.query('timestamp(ALERTS{alertname="WorkerWatchdog"})')
    return sample.value


def test_a_killed_worker_is_told_and_a_stopped_one_is_not(scene: Scene) -> None:
    """Nor are those of a node whose exporter was killed: that is one alert, the exporter's."""
    prometheus, inbox = scene.prometheus, scene.inbox
    wait_for(lambda: prometheus.query("count(worker_up == 1) == 6"), "six living workers")
    wait_for(lambda: prometheus.query("count(worker_desired == 1) == 6"), "six declared workers")

    # What would be silent by mistake is done first, so that it would also be told first.
    assert scene.ground.run("stop", "llm", "stops").returncode == 0
    os.kill(scene.exporters["blind"].pid, signal.SIGKILL)
    os.kill(pid(scene, "dies"), signal.SIGKILL)

    receiver, down = inbox.alert("WorkerDown")
    assert receiver == "critical"
    assert down.labels == {
        "alertname": "WorkerDown",
        "severity": "critical",
        "node": "seen",
        "service": "llm",
        "instance": "dies",
    }
    assert down.annotations == {
        "summary": "A declared worker does not run.",
        "description": "llm/dies on seen is declared in workers.yaml, was not stopped on purpose, "
        "and has no living process.",
        "runbook_url": "docs/runbooks/WorkerDown.md",
    }
    receiver, blind = inbox.alert("WorkerExporterDown")
    assert receiver == "critical"
    assert blind.labels == {
        "alertname": "WorkerExporterDown",
        "severity": "critical",
        "node": "blind",
    }
    assert blind.annotations == {
        "summary": "The exporter does not answer, so nothing is known of the node's workers.",
        "description": "Prometheus cannot scrape the worker-exporter of blind.",
        "runbook_url": "docs/runbooks/WorkerExporterDown.md",
    }

    before = evaluated(prometheus)
    wait_for(lambda: evaluated(prometheus) > before, "one more evaluation")
    # Prometheus may have sent this one before it knew of Alertmanager; then it does in a minute.
    assert inbox.fired - {("watchdog", "WorkerWatchdog", "")} == {
        ("critical", "WorkerDown", "seen"),
        ("critical", "WorkerExporterDown", "blind"),
    }
    # Nor was another one ever about to fire for the workers; one late scrape in such haste can be
    # the beginning of a node's.
    assert not prometheus.query('last_over_time(ALERTS{instance=~"stops|lives"}[5m])')
    fired = prometheus.query('last_over_time(ALERTS{alertstate="firing"}[5m])')
    about = {(each.labels["alertname"], each.labels.get("instance", "")) for each in fired}
    assert about == {
        ("WorkerWatchdog", ""),
        ("WorkerDown", "dies"),
        ("WorkerExporterDown", ""),
    }

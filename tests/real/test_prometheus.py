"""Debian's Prometheus with the shipped configuration, on real exporters of real cgroups."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.prometheus import (
    SHIPPED,
    Prometheus,
    Sample,
    Target,
    is_late,
    running_prometheus,
    wait_for,
)
from tests.support import (
    CannotMakeCgroupsError,
    RunningExporter,
    end,
    join,
    made_slice,
    make_worker,
    remove_cgroup,
    running_exporter,
)
from tests.tools import missing, require

BUSY = (sys.executable, "-I", "-S", "-c", "while True: pass")
IDLE = ("sleep", "1000")


@dataclass
class Node:
    """A node of the test: its workers' slice, its exporter, and the PIDs of its processes."""

    name: str
    directory: str
    exporter: RunningExporter
    stack: ExitStack

    def start(self, service: str, instance: str, command: tuple[str, ...]) -> str:
        """A worker with a process in it; its cgroup."""
        cgroup = make_worker(self.directory, service, instance)
        process = subprocess.Popen(command)
        self.stack.callback(end, process)
        join(cgroup, process.pid)
        return cgroup

    @property
    def target(self) -> Target:
        return Target(f"{self.exporter.host}:{self.exporter.port}", self.name)


@contextmanager
def running_node(name: str) -> Iterator[Node]:
    slice_name = f"prometheus{os.getpid()}{name}.slice"
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(made_slice(slice_name))
        except CannotMakeCgroupsError as error:
            missing(str(error))
        flags = (f"--worker.slice={slice_name}", "--no-collector.units", "--web.timeout-offset=0.1")
        exporter = stack.enter_context(running_exporter(*flags))
        yield Node(name, directory, exporter, stack)


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    program = require("prometheus")
    with ExitStack() as stack:

        def start(*nodes: Node, edit: Callable[[str], str] = str) -> Prometheus:
            targets = [node.target for node in nodes]
            return stack.enter_context(running_prometheus(program, tmp_path, targets, edit=edit))

        yield start


@pytest.fixture
def here() -> Iterator[Node]:
    with running_node("here") as node:
        yield node


@pytest.fixture
def there() -> Iterator[Node]:
    with running_node("there") as node:
        yield node


def one(prometheus: Prometheus, expression: str) -> Sample:
    """The only series of `expression`, once there is one."""
    found = wait_for(lambda: prometheus.query(expression), expression)
    assert len(found) == 1, found
    return found[0]


def without_honored_labels(config: str) -> str:
    """The configuration as its own comment says to write it where labels cannot be honored."""
    text = re.sub(r"(?m)^( +)# (?=metric_relabel_configs:|  )", r"\1", config)
    assert text != config
    return text.replace("honor_labels: true", "honor_labels: false")


@pytest.mark.parametrize("edit", [str, without_honored_labels])
def test_promtool_accepts_the_shipped_configuration(
    edit: Callable[[str], str], tmp_path: Path
) -> None:
    promtool = require("promtool")
    folder = tmp_path / "prometheus"
    shutil.copytree(SHIPPED.parent, folder)
    (folder / SHIPPED.name).write_text(edit(SHIPPED.read_text()))
    said = subprocess.run(
        [promtool, "check", "config", str(folder / SHIPPED.name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert said.returncode == 0, said.stdout
    assert "SUCCESS" in said.stdout
    assert "WARNING" not in said.stdout


def test_a_worker_has_just_its_labels(
    start_prometheus: Callable[..., Prometheus], here: Node
) -> None:
    cgroup = here.start("llm", "8080", BUSY)
    prometheus = start_prometheus(here)

    sample = one(prometheus, 'worker_cpu_seconds_total{mode="user"} > 0.2')
    assert sample.labels == {
        "__name__": "worker_cpu_seconds_total",
        "job": "worker-exporter",
        "node": "here",
        "service": "llm",
        "instance": "8080",
        "mode": "user",
    }
    stat = dict(line.split() for line in Path(f"{cgroup}/cpu.stat").read_text().splitlines())
    assert 0.2 < sample.value <= int(stat["user_usec"]) / 1e6

    wait_for(lambda: [each["health"] for each in prometheus.targets()] == ["up"], "a whole scrape")
    own = one(prometheus, "worker_exporter_workers")
    assert own.value == 1
    assert own.labels["instance"] == here.target.address
    one(prometheus, 'up{job="worker-exporter"} == 1')


def test_openmetrics_is_spoken_and_nothing_complained_about(
    start_prometheus: Callable[..., Prometheus], here: Node
) -> None:
    here.start("llm", "8080", IDLE)
    prometheus = start_prometheus(here)
    one(prometheus, "worker_up == 1")

    # Only OpenMetrics names a counter's family without _total, and tells units.
    [metadata] = prometheus.metadata("worker_cpu_seconds")
    assert (metadata["type"], metadata["unit"]) == ("counter", "seconds")
    assert prometheus.metadata("worker_cpu_seconds_total") == []
    # 200 samples could be many scrapes or one; two scrapes apart both must have been whole.
    wait_for(lambda: prometheus.query("sum_over_time(up[1m]) >= 3"), "three scrapes")
    assert prometheus.query("sum(worker_exporter_collector_success == 0)") == []
    assert not [line for line in prometheus.complaints() if not is_late(line)]


def test_a_removed_worker_is_stale_at_the_next_scrape(
    start_prometheus: Callable[..., Prometheus], here: Node
) -> None:
    here.start("llm", "8080", IDLE)
    leaving = here.start("llm", "8081", IDLE)
    prometheus = start_prometheus(here)
    one(prometheus, "worker_exporter_workers == 2")
    one(prometheus, 'count({instance="8081"}) > 10')

    remove_cgroup(leaving)
    one(prometheus, "worker_exporter_workers == 1")
    assert prometheus.query('{instance="8081"}') == []
    one(prometheus, 'worker_up{instance="8080"}')


def test_equal_names_on_two_nodes_do_not_collide(
    start_prometheus: Callable[..., Prometheus], here: Node, there: Node
) -> None:
    here.start("llm", "8080", BUSY)
    there.start("llm", "8080", IDLE)
    prometheus = start_prometheus(here, there)

    one(prometheus, 'worker_cpu_seconds_total{node="here",mode="user"} > 1')
    wait_for(lambda: prometheus.query("count_over_time(worker_up[1m]) >= 5"), "five scrapes")
    both = 'worker_up{service="llm",instance="8080"}'
    wait_for(lambda: len(prometheus.query(both)) == 2, "both nodes at one moment")
    workers = prometheus.query(f"last_over_time({both}[1m])")
    assert sorted(sample.labels["node"] for sample in workers) == ["here", "there"]
    # If two targets wrote one series, its counter would jump back and forth.
    resets = prometheus.query("resets(worker_cpu_seconds_total[1m])")
    assert len(resets) == 4
    assert {sample.value for sample in resets} == {0}
    idle = one(prometheus, 'worker_cpu_seconds_total{node="there",mode="user"}')
    assert idle.value < 0.5
    assert not [line for line in prometheus.complaints() if not is_late(line)]


def test_without_honored_labels_the_documented_relabelling_restores_them(
    start_prometheus: Callable[..., Prometheus], here: Node
) -> None:
    here.start("llm", "8080", IDLE)
    prometheus = start_prometheus(here, edit=without_honored_labels)

    assert one(prometheus, "worker_up").labels == {
        "__name__": "worker_up",
        "job": "worker-exporter",
        "node": "here",
        "service": "llm",
        "instance": "8080",
    }
    own = one(prometheus, "worker_exporter_workers").labels
    assert own["instance"] == here.target.address
    assert "exported_instance" not in own

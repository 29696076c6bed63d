"""Checks of one window: which workers there are, what they are called and in which state."""

import os
import time
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .scraped import OPENMETRICS, UNIT, ask
from .window import Window
from .workers import DUPLICATES, FROZEN, LLM, MOUNT, WORKERS, processes

SERIES_BUDGET = 60
# /proc/stat's btime is a whole second, and so is systemctl's --timestamp=unix.
START_SLACK_SECONDS = 2.0


def exporter_is_unprivileged(_: Window) -> None:
    """It runs as another user than root, without a single capability."""
    pids = (MOUNT / "system.slice" / UNIT / "cgroup.procs").read_text().split()
    assert pids, "the exporter runs nowhere"
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert "0" not in status["Uid"].split(), status["Uid"]
        assert int(status["CapEff"], 16) == 0, status["CapEff"]
        assert int(status["CapPrm"], 16) == 0, status["CapPrm"]


def workers_found(window: Window) -> None:
    """All of them, each under its own name, cgroup and unit, and none besides."""
    names = ("service", "instance", "cgroup", "unit")
    found = {
        tuple(labels[name] for name in names)
        for labels, _ in window.scrape.matching("worker_info", {})
    }
    expected = {(w.service, w.instance, w.cgroup, w.shown) for w in WORKERS}
    assert found == expected, f"unexpected {found - expected}, absent {expected - found}"
    assert window.scrape.value("worker_exporter_workers", {}) == len(WORKERS)


def duplicates_counted(window: Window) -> None:
    """The second worker of one name is counted, and seen nowhere else."""
    assert window.scrape.value("worker_exporter_duplicate_workers", {}) == len(DUPLICATES)
    assert window.scrape.value("worker_exporter_dropped_workers", {}) == 0


def metadata(window: Window) -> None:
    """Extended attributes set before the worker's first instruction are its labels."""
    ((labels, value),) = window.scrape.matching("worker_info", LLM.labels)
    assert value == 1
    assert (labels["model"], labels["port"]) == ("llama", "8080"), labels


def up(window: Window) -> None:
    """Every worker lives."""
    for worker in WORKERS:
        assert window.scrape.value("worker_up", worker.labels) == 1, worker.unit


def frozen(window: Window) -> None:
    """The worker that `systemctl freeze` stopped, and no other."""
    for worker in WORKERS:
        value = window.scrape.value("worker_frozen", worker.labels)
        assert value == (worker == FROZEN), worker.unit


def start_time(window: Window) -> None:
    """What systemd says of a service's main process or of a scope, else the oldest process.

    A scope adopts processes that began before it.
    """
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for worker, before, _ in window.both():
        value = window.scrape.value("worker_start_time_seconds", worker.labels)
        began = (
            "ActiveEnterTimestamp" if worker.shown.endswith(".scope") else "ExecMainStartTimestamp"
        )
        said = before.properties.get(began)
        if said is not None:
            late = value - float(said.removeprefix("@"))
            assert abs(late) <= START_SLACK_SECONDS, f"{worker.unit}: {value}, not {said}"
        if worker.shown.endswith(".scope"):
            continue
        oldest = booted + min(map(_seconds_after_boot, processes(worker)))
        assert abs(value - oldest) <= START_SLACK_SECONDS, f"{worker.unit}: {value}, not {oldest}"


def process_count(window: Window) -> None:
    """As many as say in /proc that they are in the worker's cgroup."""
    for worker in WORKERS:
        value = window.scrape.value("worker_processes", worker.labels)
        assert value == len(processes(worker)) > 0, f"{worker.unit}: {value}"


def node(window: Window) -> None:
    """The machine's processors and memory."""
    words = Path("/proc/meminfo").read_text().split()
    total = int(words[words.index("MemTotal:") + 1]) << 10
    assert window.scrape.value("worker_node_memory_total_bytes", {}) == total
    assert 0 < window.scrape.value("worker_node_memory_available_bytes", {}) < total
    assert window.scrape.value("worker_node_cpus", {}) == os.cpu_count()


def nothing_failed(window: Window) -> None:
    """No file was refused, and every collector did its part."""
    errors = list(window.scrape.matching("worker_exporter_read_errors_total", {}))
    assert all(value == 0 for _, value in errors), errors
    states = list(window.scrape.matching("worker_exporter_collector_success", {}))
    assert states and all(value == 1 for _, value in states), states


def series_budget(window: Window) -> None:
    """No worker costs more than 60 series, with every controller there is."""
    for worker in WORKERS:
        found = [window.scrape.matching(name, worker.labels) for name in window.scrape.samples]
        count = sum(len(list(samples)) for samples in found)
        assert 0 < count <= SERIES_BUDGET, f"{worker.unit}: {count}"


def openmetrics(_: Window) -> None:
    """What Prometheus asks for first parses too, and has the same workers."""
    text = ask("/metrics", OPENMETRICS)
    families = {f.name: f for f in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    found = {(s.labels["service"], s.labels["instance"]) for s in families["worker_up"].samples}
    assert found == {(worker.service, worker.instance) for worker in WORKERS}


def _seconds_after_boot(pid: int) -> float:
    """When the process started, see proc_pid_stat(5), starttime."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")

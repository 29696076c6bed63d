"""Checks where cgroup2 has no controllers: systemd's own tree at /sys/fs/cgroup/unified."""

from pathlib import Path

from .readings import keyed
from .scraped import scrape
from .window import Window
from .workers import HYBRID_MOUNT, MEMORY, MOUNT, QUOTA, WORKERS, Worker, processes

PAGE_BYTES = 4096


def cpu_modes(window: Window) -> None:
    """cpu.stat is there without a controller."""
    for mode in ("user", "system"):
        source = keyed("cpu.stat", f"{mode}_usec", unit=1e6)
        compared = window.compare("worker_cpu_seconds_total", source, slack=1e-9, mode=mode)
        assert compared == len(WORKERS)
    assert window.scrape.total("worker_cpu_seconds_total", QUOTA.labels)


def rss_from_processes(window: Window) -> None:
    """The resident pages of the worker's processes together, and the source says so."""
    before = _resident_of_workers()
    answer = scrape()
    after = _resident_of_workers()
    for worker in WORKERS:
        value = answer.value("worker_memory_rss_bytes", worker.labels)
        low, high = sorted((before[worker], after[worker]))
        assert 0 < low <= value <= high, f"{worker.unit}: {value} is not in {low}..{high}"
    assert answer.value("worker_memory_rss_bytes", MEMORY.labels) > 44 << 20
    assert window.scrape.value("worker_exporter_memory_source", {"source": "proc"}) == len(WORKERS)
    assert not window.scrape.get("worker_exporter_memory_source", {"source": "cgroup"})


def controllers_are_absent(window: Window) -> None:
    """What has no file here has no series."""
    assert MOUNT == HYBRID_MOUNT
    assert (MOUNT / "cgroup.controllers").read_text().split() == []
    for name in window.scrape.samples:
        assert not name.startswith(("worker_io_read_bytes_total", "worker_tasks")), name
        assert name not in ("worker_memory_current_bytes", "worker_memory_limit_bytes"), name


def _resident_of_workers() -> dict[Worker, int]:
    return {worker: sum(map(_resident_bytes, processes(worker))) for worker in WORKERS}


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES

"""The machine as the checks find it: the exporter runs, and then the workers do."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .report import Report
from .scraped import UNIT, scrape, start_exporter
from .window import Window, look
from .workers import DUPLICATES, QUOTA, SLICE_LIMITS, WORKERS, started, wait_for


@contextmanager
def scene(report: Report) -> Iterator[None]:
    """The exporter, and all the workers, which live until the context ends.

    Checks on the way that the exporter serves before there is any worker.
    """
    start_exporter()
    report.run("no_workers_yet", _no_workers_yet)
    for name, limit in SLICE_LIMITS.items():
        subprocess.run(["systemctl", "set-property", "--runtime", name, limit], check=True)
    with started(WORKERS + DUPLICATES):
        yield


def settled_window(mount: Path) -> Window:
    """A window on all the workers, once the one with a quota has used some of it."""
    wait_for(lambda: _user_seconds(mount) > 0.1, f"CPU time of {QUOTA.unit}")
    return look(WORKERS, mount)


def show_log() -> None:
    """What the exporter logged, on the console."""
    subprocess.run(["journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}"], check=True)


def _no_workers_yet() -> None:
    """Slices that do not exist are no error: no workers."""
    answer = scrape()
    assert answer.value("worker_exporter_workers", {}) == 0
    assert not answer.samples.get("worker_up")


def _user_seconds(mount: Path) -> float:
    words = (mount / QUOTA.cgroup / "cpu.stat").read_text().split()
    return int(words[words.index("user_usec") + 1]) / 1e6

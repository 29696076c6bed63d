"""The machine as the checks find it: the exporter runs, and then the workers do."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from .report import Report, say
from .scraped import UNIT, scrape, settled_scrape, start_exporter
from .window import Window, look
from .workers import DUPLICATES, QUOTA, SLICE_LIMITS, SLICES, WORKERS, started, wait_for


@contextmanager
def scene(report: Report) -> Iterator[None]:
    """The exporter, and all the workers, which live until the context ends.

    Checks on the way that the exporter serves before there is any worker.
    """
    start_exporter()
    report.run("no_workers_yet", _no_workers_yet)
    report.run("absent_slices_logged_once", _absent_slices_logged_once)
    for name, limit in SLICE_LIMITS.items():
        subprocess.run(["systemctl", "set-property", "--runtime", name, limit], check=True)
    say("starting the workers")
    with started(WORKERS + DUPLICATES):
        say("the workers run")
        yield


def settled_window() -> Window:
    """A window on all the workers, once the one with a quota has used some of it."""
    wait_for(lambda: _user_seconds() > 0.1, f"CPU time of {QUOTA.unit}")
    windows: list[Window] = []

    def settled() -> bool:
        settled_scrape()
        windows.append(look(WORKERS))
        return windows[-1].scrape.units_answered

    wait_for(settled, "a window that misses nothing of systemd")
    return windows[-1]


def show_log() -> None:
    """What the exporter logged, on the console."""
    print(*_log(), sep="\n", flush=True)


def _no_workers_yet() -> None:
    """Slices that do not exist are no error: no workers."""
    answer = scrape()
    assert answer.value("worker_exporter_workers", {}) == 0
    assert not answer.samples.get("worker_up")


def _absent_slices_logged_once() -> None:
    """One line names each slice that is not there, however many scrapes there were."""
    scrape()
    for name in SLICES:
        lines = [line for line in _log() if "msg=" in line and f"slice={name}" in line]
        assert len(lines) == 1, f"{name}: {lines} of {_log()}"


def _log() -> list[str]:
    """The lines the exporter logged; the journal takes them in before it answers."""
    subprocess.run(["journalctl", "--sync"], check=True)
    journal = ["journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}"]
    return subprocess.check_output(journal, text=True).splitlines()


def _user_seconds() -> float:
    words = (QUOTA.folder / "cpu.stat").read_text().split()
    return int(words[words.index("user_usec") + 1]) / 1e6

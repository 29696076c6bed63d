"""`python -m bench.soak`: 1,000 workers scraped every second by a real Prometheus, for 10 minutes.

The workers work all the time, so that every scrape has new figures.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import running_exporter

from bench.bus import running_bus
from bench.process import open_descriptors, resident_bytes
from bench.prometheus import Prometheus, Target, is_late, running_prometheus, wait_for
from bench.signals import heed_signals, pause
from bench.workers import Workers, running_workers
from worker_exporter.errors import UserError

_INTERVAL = 1.0
# The scraper's timeout is one second too, and the default offset would take half of it away.
_FLAGS = ("--web.timeout-offset=0.1",)
_MIB = 1 << 20
_MAX_GROWTH = 2.0
_MAX_NEW_DESCRIPTORS = 4
# A machine with other work to do has its stalls; they are no fault of the exporter.
_MAX_LATE = 0.1


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak gave. Durations in seconds; memory in MiB, the medians of its first and last
    quarter; `late` scrapes had no answer in their second or were never made, `failed` ones went
    wrong otherwise, and those `without_units` lacked some of what systemd says.
    """

    workers: int
    kind: str
    scrapes: int
    failed: int
    late: int
    incomplete: int
    without_units: int
    duration: float
    longest_duration: float
    memory_first: float
    memory_last: float
    descriptors_first: int
    descriptors_last: int
    complaints: tuple[str, ...]

    def problems(self) -> list[str]:
        """What should not be, in words; nothing when all is well."""
        found = {
            f"{self.failed} scrapes failed": self.failed,
            f"{self.late} of {self.scrapes} scrapes were late": (
                self.late > _MAX_LATE * self.scrapes
            ),
            f"{self.incomplete} scrapes lacked workers": self.incomplete,
            f"{self.without_units} of {self.scrapes} scrapes lacked units": (
                2 * self.without_units > self.scrapes
            ),
            f"resident memory grew from {self.memory_first:.1f} to {self.memory_last:.1f} MiB": (
                self.memory_last - self.memory_first > _MAX_GROWTH
            ),
            f"descriptors went from {self.descriptors_first} to {self.descriptors_last}": (
                self.descriptors_last - self.descriptors_first > _MAX_NEW_DESCRIPTORS
            ),
            f"Prometheus complained, first: {self.complaints[:1]}": self.complaints,
        }
        return [words for words, is_wrong in found.items() if is_wrong]


def soak(program: str, workers: int, seconds: float) -> Soak:
    """Have the Prometheus `program` scrape so many workers every second for `seconds`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        running = stack.enter_context(running_workers(workers))
        stack.enter_context(running_bus(running))
        exporter = stack.enter_context(running_exporter(*running.flags, *_FLAGS))
        target = Target(f"{exporter.host}:{exporter.port}", "soak")
        server = stack.enter_context(running_prometheus(program, folder, [target]))
        wait_for(lambda: server.query("up == 1"), "the first scrape")
        before = open_descriptors(exporter.pid)
        memory = []
        with _working(running):
            for _ in range(max(8, int(seconds / _INTERVAL))):
                pause(_INTERVAL)
                memory.append(resident_bytes(exporter.pid) / _MIB)
        return _judge(server, running, int(seconds) + 60, memory, before, exporter.pid)


@contextmanager
def _working(workers: Workers) -> Iterator[None]:
    """The workers work once a second meanwhile, in a thread of its own."""
    enough = threading.Event()

    def work() -> None:
        while not enough.wait(_INTERVAL):
            workers.wake()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def _judge(
    server: Prometheus,
    workers: Workers,
    window: int,
    memory: Sequence[float],
    descriptors: int,
    pid: int,
) -> Soak:
    up = server.samples(f"up[{window}s]")
    durations = [value for _, value in server.samples(f"scrape_duration_seconds[{window}s]")]
    seen = server.samples(f"worker_exporter_workers[{window}s]")
    units = server.samples(f'worker_exporter_collector_success{{collector="units"}}[{window}s]')
    count = len(workers.directories)
    quarter = len(memory) // 4
    complaints = server.complaints()
    late = [line for line in complaints if is_late(line)]
    missed = round((up[-1][0] - up[0][0]) / _INTERVAL) + 1 - len(up)
    return Soak(
        workers=count,
        kind=workers.kind,
        scrapes=len(up),
        failed=max(0, sum(value != 1 for _, value in up) - len(late)),
        late=len(late) + missed,
        incomplete=sum(value != count for _, value in seen),
        duration=statistics.median(durations),
        longest_duration=max(durations),
        memory_first=statistics.median(memory[:quarter]),
        memory_last=statistics.median(memory[-quarter:]),
        descriptors_first=descriptors,
        descriptors_last=open_descriptors(pid),
        complaints=tuple(line for line in complaints if line not in late),
        without_units=sum(value != 1 for _, value in units),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak as the command line asks; 1 when something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    options = parser.parse_args(arguments)
    heed_signals()
    program = shutil.which("prometheus")
    if program is None:
        print("soak: error: prometheus is not installed: apt-get install prometheus")
        return 1
    try:
        result = soak(program, options.workers, 60 * options.minutes)
    except UserError as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted; everything it started has ended", file=sys.stderr)
        return 130
    print(summary(result))
    return 1 if result.problems() else 0


def summary(result: Soak) -> str:
    """What a soak gave, in Markdown."""
    rows = {
        "workers": f"{result.workers:,} ({result.kind})",
        "scrapes, one a second": f"{result.scrapes}",
        "failed, late, incomplete": f"{result.failed}, {result.late}, {result.incomplete}",
        "without all units": f"{result.without_units}",
        "scrape duration, longest": f"{result.duration * 1e3:.0f} ms,"
        f" {result.longest_duration * 1e3:.0f} ms",
        "resident memory, first and last quarter": f"{result.memory_first:.1f} MiB,"
        f" {result.memory_last:.1f} MiB",
        "descriptors, before and after": f"{result.descriptors_first}, {result.descriptors_last}",
        "problems": "; ".join(result.problems()) or "none",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )


if __name__ == "__main__":
    sys.exit(main())

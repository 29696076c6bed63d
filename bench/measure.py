"""One case: so many workers, so many descriptors; set up, measured under each load, taken down."""

import contextlib
import time
from dataclasses import dataclass

from tests.support import running_exporter

from bench import gpus
from bench.bus import Bus, running_bus
from bench.client import Answer, Client, FailedScrape, check, check_units
from bench.floor import kept_files, read_files, running_floor
from bench.library import Library
from bench.peers import PEERS
from bench.process import CpuClock, open_descriptors, resident_bytes
from bench.rounds import WITHOUT_UNITS, Load, Parts, WithUnits, measure_load, measure_units
from bench.signals import pause
from bench.workers import Workers, running_workers

_WARM_UP = 3
_FIRST_TRIES = 30
_UNITS_PATIENCE = 120.0

FAILED = 50
"""How many workers' units are failed in the last of the measurements."""


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure. `nofile` is the exporter's RLIMIT_NOFILE."""

    workers: int
    rounds: int
    nofile: int
    comparisons: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What one case gave: sizes in bytes, `idle_cpu` the share of a core while nobody asks.

    The first scrape opens all files; it may take a few tries where it outlasts the timeout. The
    details of all units are then read over some scrapes, at the CPU cost `first_units_cpu_seconds`
    with those scrapes. `beside_failed` is idle with FAILED units more: workers that are dead.
    `with_gpus` is of another exporter, which asks no systemd.
    """

    case: Case
    kind: str
    loads: tuple[Load, ...]
    samples_per_worker: float
    text_bytes: int
    sent_bytes: int
    resident_bytes: int
    descriptors: int
    kept_files: int
    files: int
    first_scrape_seconds: float
    first_units_seconds: float
    first_units_cpu_seconds: float
    beside_failed: WithUnits
    with_gpus: gpus.WithGpus | None
    families: int
    library_families: int
    idle_cpu: float


def measure(case: Case, idle_seconds: float) -> Result:
    """Run one case from nothing to nothing; it watches the unasked exporter for `idle_seconds`."""
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(running_workers(case.workers))
        files = read_files(files_of_one(workers), workers.directories)
        bus = stack.enter_context(running_bus(workers))
        flags = (*workers.flags, "--no-collector.gpu")
        exporter = stack.enter_context(running_exporter(*flags, nofile=case.nofile))
        client = stack.enter_context(contextlib.closing(Client(exporter.host, exporter.port)))
        clock = CpuClock(exporter.pid)
        first = _first_scrape(client, case.workers)
        used, start = clock.settled(), time.perf_counter()
        answer_with_units(client, case.workers)
        first_units = time.perf_counter() - start
        first_units_cpu = (clock.settled() - used) / 1e9
        for _ in range(_WARM_UP):
            client.scrape()
            without = client.scrape(WITHOUT_UNITS)
            check(without, case.workers)
        answer = answer_with_units(client, case.workers)
        kept = kept_files(exporter.pid, workers)
        floor = stack.enter_context(running_floor(files))
        kept_floor = floor if kept == files else stack.enter_context(running_floor(kept))
        library = Library(workers.directories) if case.comparisons else None
        peers = PEERS if case.comparisons else ()
        parts = Parts(workers, client, clock, floor, kept_floor, files, library, peers)
        families = _worker_families(without.text)
        # Idle comes first: pressure averages move for minutes after the workers have.
        loads = tuple(measure_load(parts, case.rounds, name) for name in ("idle", "busy"))
        beside_failed = _beside_failed(bus, parts, case)
        return Result(
            case=case,
            kind=workers.kind,
            loads=loads,
            samples_per_worker=answer.text.count(b'instance="') / case.workers,
            text_bytes=len(answer.text),
            sent_bytes=answer.sent,
            resident_bytes=resident_bytes(exporter.pid),
            descriptors=open_descriptors(exporter.pid),
            kept_files=len(kept),
            files=len(files),
            first_scrape_seconds=first,
            first_units_seconds=first_units,
            first_units_cpu_seconds=first_units_cpu,
            beside_failed=beside_failed,
            with_gpus=gpus.measure(workers, case.nofile, case.rounds),
            families=len(families),
            library_families=len(families & library.families()) if library else 0,
            idle_cpu=_idle_cpu(clock, idle_seconds),
        )


def files_of_one(workers: Workers) -> list[str]:
    """The files that an exporter keeps open for the first worker alone."""
    flags = (*workers.flags, "--worker.max=1", "--no-collector.units", "--no-collector.gpu")
    with (
        running_exporter(*flags) as exporter,
        contextlib.closing(Client(exporter.host, exporter.port)) as client,
    ):
        check(client.scrape(), 1)
        return kept_files(exporter.pid, workers)


def _first_scrape(client: Client, workers: int) -> float:
    """Seconds until the first whole answer. Raises FailedScrape when the tries are used up."""
    start = time.perf_counter()
    for _ in range(_FIRST_TRIES - 1):
        with contextlib.suppress(FailedScrape):
            check(client.scrape(WITHOUT_UNITS), workers)
            return time.perf_counter() - start
    check(client.scrape(WITHOUT_UNITS), workers)
    return time.perf_counter() - start


def answer_with_units(client: Client, units: int) -> Answer:
    """The first answer with all units, scraped without a pause. Raises FailedScrape in the end."""
    start = time.perf_counter()
    while True:
        try:
            answer = client.scrape()
            check_units(answer, units)
            return answer
        except FailedScrape:
            if time.perf_counter() - start > _UNITS_PATIENCE:
                raise


def _beside_failed(bus: Bus, parts: Parts, case: Case) -> WithUnits:
    units = case.workers + FAILED
    bus.fail_beside(parts.workers, FAILED)
    answer_with_units(parts.client, units)
    return measure_units(parts, case.rounds, f"idle, {FAILED} failed beside", units)


def _worker_families(text: bytes) -> set[str]:
    """The names of the samples that workers have, in an answer."""
    return {
        line.split(b"{", 1)[0].decode()
        for line in text.splitlines()
        if b'instance="' in line and not line.startswith(b"#")
    }


def _idle_cpu(clock: CpuClock, seconds: float) -> float:
    before = clock.settled()
    start = time.monotonic()
    pause(seconds)
    return (clock.now() - before) / 1e9 / (time.monotonic() - start)

"""One case: so many workers, so many descriptors; the exporter against its floor, in turns."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support import RunningExporter, running_exporter

from bench.client import Client, FailedScrape, check
from bench.floor import Floor, kept_files, read_files, running_floor
from bench.library import Library
from bench.peers import PEERS, PeerResult
from bench.peers import measure as measure_peer
from bench.process import CpuClock, open_descriptors, resident_bytes
from bench.workers import Workers, running_workers

_WARM_UP = 3
_FIRST_TRIES = 30
_LIBRARY_EVERY = 8


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure. `nofile` is the exporter's RLIMIT_NOFILE."""

    workers: int
    rounds: int
    nofile: int
    comparisons: bool


@dataclass(frozen=True, slots=True)
class Load:
    """One load's medians: CPU in seconds, `ratio` that of the rounds' own ratios.

    `kept_ratio` is against the reading of only the files the exporter keeps open. `moved` of
    `files` differed between the beginning and the end of the rounds.
    """

    name: str
    cpu_seconds: float
    floor_seconds: float
    kept_floor_seconds: float
    library_seconds: float | None
    ratio: float
    kept_ratio: float
    wall_seconds: float
    worst_wall_seconds: float
    failed_scrapes: int
    moved_files: int
    peers: tuple[PeerResult, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What one case gave: sizes in bytes, `idle_cpu` the share of a core while nobody asks.

    The first scrape opens all files; it may take a few tries where it outlasts the timeout.
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
    families: int
    library_families: int
    idle_cpu: float


@dataclass(frozen=True, slots=True)
class _Bench:
    """Everything of one case that runs."""

    workers: Workers
    exporter: RunningExporter
    client: Client
    clock: CpuClock
    floor: Floor
    kept_floor: Floor
    files: Sequence[str]
    library: Library | None


@dataclass(frozen=True, slots=True)
class _Scraped:
    """One scrape: CPU in nanoseconds, wall in seconds."""

    cpu: int
    wall: float
    failed: bool


def measure(case: Case, idle_seconds: float) -> Result:
    """Run one case from nothing to nothing; it watches the unasked exporter for `idle_seconds`."""
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(running_workers(case.workers))
        exporter = stack.enter_context(running_exporter(*workers.flags, nofile=case.nofile))
        client = stack.enter_context(contextlib.closing(Client(exporter.host, exporter.port)))
        first = _first_scrape(client, case.workers)
        for _ in range(_WARM_UP):
            answer = client.scrape()
            check(answer, case.workers)
        kept = kept_files(exporter.pid, workers.slice)
        files = read_files(kept, workers.directories)
        floor = stack.enter_context(running_floor(files))
        kept_floor = floor if kept == files else stack.enter_context(running_floor(kept))
        library = Library(workers.directories) if case.comparisons else None
        bench = _Bench(
            workers, exporter, client, CpuClock(exporter.pid), floor, kept_floor, files, library
        )
        families = _worker_families(answer.text)
        # Idle comes first: pressure averages move for minutes after the workers have.
        loads = tuple(_rounds(bench, case, name) for name in ("idle", "busy"))
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
            families=len(families),
            library_families=len(families & library.families()) if library else 0,
            idle_cpu=_idle_cpu(bench.clock, idle_seconds),
        )


def _first_scrape(client: Client, workers: int) -> float:
    """Seconds until the first whole answer. Raises FailedScrape when the tries are used up."""
    start = time.perf_counter()
    for _ in range(_FIRST_TRIES - 1):
        with contextlib.suppress(FailedScrape):
            check(client.scrape(), workers)
            return time.perf_counter() - start
    check(client.scrape(), workers)
    return time.perf_counter() - start


def _rounds(bench: _Bench, case: Case, name: str) -> Load:
    """Rounds of exporter and floor, in alternating order."""
    prepare = bench.workers.wake if name == "busy" else _nothing
    before = _contents(bench.files)
    scrapes: list[_Scraped] = []
    floors: list[int] = []
    kept_floors: list[int] = []
    libraries: list[float] = []
    steps: list[Callable[[], None]] = [
        lambda: scrapes.append(_scrape(bench, case.workers)),
        lambda: floors.append(bench.floor.read()),
    ]
    if bench.kept_floor is not bench.floor:
        steps.append(lambda: kept_floors.append(bench.kept_floor.read()))
    for number in range(case.rounds):
        for step in steps if number % 2 else reversed(steps):
            prepare()
            step()
        if bench.library is not None and number % _LIBRARY_EVERY == 0:
            prepare()
            libraries.append(_library_seconds(bench.library))
    moved = sum(old != new for old, new in zip(before, _contents(bench.files), strict=True))
    kept_floors = kept_floors or floors
    walls = [scraped.wall for scraped in scrapes]
    return Load(
        name=name,
        cpu_seconds=statistics.median(scraped.cpu for scraped in scrapes) / 1e9,
        floor_seconds=statistics.median(floors) / 1e9,
        kept_floor_seconds=statistics.median(kept_floors) / 1e9,
        library_seconds=statistics.median(libraries) if libraries else None,
        ratio=_ratio(scrapes, floors),
        kept_ratio=_ratio(scrapes, kept_floors),
        wall_seconds=statistics.median(walls),
        worst_wall_seconds=max(walls),
        failed_scrapes=sum(scraped.failed for scraped in scrapes),
        moved_files=moved,
        peers=_peers(bench.workers, name == "busy") if case.comparisons else (),
    )


def _scrape(bench: _Bench, workers: int) -> _Scraped:
    before = bench.clock.settled()
    start = time.perf_counter()
    try:
        answer = bench.client.scrape()
        wall, failed = answer.wall, False
        cpu = bench.clock.settled() - before
        check(answer, workers)
    except FailedScrape:
        wall, failed = time.perf_counter() - start, True
        cpu = bench.clock.settled() - before
    return _Scraped(cpu, wall, failed)


def _ratio(scrapes: Sequence[_Scraped], floors: Sequence[int]) -> float:
    return statistics.median(
        scraped.cpu / floor for scraped, floor in zip(scrapes, floors, strict=True)
    )


def _library_seconds(library: Library) -> float:
    start = time.process_time()
    library.answer()
    return time.process_time() - start


def _peers(workers: Workers, wake: bool) -> tuple[PeerResult, ...]:
    return tuple(measure_peer(peer, workers, wake) for peer in PEERS)


def _contents(paths: Sequence[str]) -> list[bytes]:
    contents = []
    for path in paths:
        if path.endswith("/"):
            continue
        with open(path, "rb", buffering=0) as file:
            contents.append(file.readall())
    return contents


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
    time.sleep(seconds)
    return (clock.now() - before) / 1e9 / (time.monotonic() - start)


def _nothing() -> None:
    """What is done before an idle scrape."""

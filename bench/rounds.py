"""One load: the exporter, with what it asks others and without, and its floor, in turns."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from bench.client import Answer, Client, FailedScrape, check, check_gpus, check_units
from bench.floor import Floor
from bench.library import Library
from bench.peers import Peer, PeerResult
from bench.peers import measure as measure_peer
from bench.process import CpuClock
from bench.workers import Workers

WITHOUT_UNITS = "?exclude[]=units"
WITHOUT_GPUS = "?exclude[]=gpu"
"""The query of a scrape that reads the kernel's files only, as the floor does, each of an exporter
that has not the other's collector.
"""

_LIBRARY_EVERY = 8


@dataclass(frozen=True, slots=True)
class Added:
    """The scrapes with one collector more under one load: CPU in seconds.

    `added` is the median, and `added_quartiles` the first and third quartile, of what each round's
    scrape took more than the one without.
    """

    name: str
    cpu_seconds: float
    added_seconds: float
    added_quartiles: tuple[float, float]
    wall_seconds: float
    worst_wall_seconds: float
    failed_scrapes: int


@dataclass(frozen=True, slots=True)
class WithUnits(Added):
    """The scrapes with the collector `units`. `ratio` is the median of the rounds' own, to the
    floor.
    """

    ratio: float


@dataclass(frozen=True, slots=True)
class Load:
    """One load's medians: CPU in seconds, `ratio` that of the rounds' own ratios.

    All but `with_units` is of scrapes without the collector `units`. `kept_ratio` is against the
    reading of only the files the exporter keeps open. `moved` of `files` differed between the
    beginning and the end of the rounds.
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
    with_units: WithUnits
    peers: tuple[PeerResult, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything of one case that runs."""

    workers: Workers
    client: Client
    clock: CpuClock
    floor: Floor
    kept_floor: Floor
    files: Sequence[str]
    library: Library | None
    peers: Sequence[Peer]


@dataclass(frozen=True, slots=True)
class _Scraped:
    """One scrape: CPU in nanoseconds, wall in seconds."""

    cpu: int
    wall: float
    failed: bool


@dataclass(frozen=True, slots=True)
class _Turns:
    """What was taken in each round: scrapes, and readings of the floors in nanoseconds."""

    plain: list[_Scraped] = field(default_factory=list)
    with_units: list[_Scraped] = field(default_factory=list)
    floors: list[int] = field(default_factory=list)
    kept_floors: list[int] = field(default_factory=list)
    libraries: list[float] = field(default_factory=list)


def measure_load(parts: Parts, rounds: int, name: str) -> Load:
    """So many rounds of the load `name`, idle or busy."""
    prepare = parts.workers.wake if name == "busy" else _nothing
    before = _contents(parts.files)
    turns = _take_turns(parts, rounds, prepare, len(parts.workers.directories))
    moved = sum(old != new for old, new in zip(before, _contents(parts.files), strict=True))
    kept_floors = turns.kept_floors or turns.floors
    walls = [scraped.wall for scraped in turns.plain]
    return Load(
        name=name,
        cpu_seconds=_cpu_seconds(turns.plain),
        floor_seconds=statistics.median(turns.floors) / 1e9,
        kept_floor_seconds=statistics.median(kept_floors) / 1e9,
        library_seconds=statistics.median(turns.libraries) if turns.libraries else None,
        ratio=_ratio(turns.plain, turns.floors),
        kept_ratio=_ratio(turns.plain, kept_floors),
        wall_seconds=statistics.median(walls),
        worst_wall_seconds=max(walls),
        failed_scrapes=sum(scraped.failed for scraped in turns.plain),
        moved_files=moved,
        with_units=_with_units(name, turns),
        peers=tuple(measure_peer(peer, parts.workers, name == "busy") for peer in parts.peers),
    )


def measure_units(parts: Parts, rounds: int, name: str, units: int) -> WithUnits:
    """So many idle rounds, while systemd has this many `units`."""
    parts = replace(parts, library=None)
    return _with_units(name, _take_turns(parts, rounds, _nothing, units))


def measure_gpus(
    client: Client, clock: CpuClock, wake: Callable[[], None] | None, rounds: int, processes: int
) -> Added:
    """So many rounds of scrapes with the collector `gpu` and without, while GPUs have this many
    `processes`; idle, or busy where workers are to `wake` before each.
    """
    prepare = wake or _nothing
    with_gpus: list[_Scraped] = []
    plain: list[_Scraped] = []
    steps: list[Callable[[], None]] = [
        lambda: with_gpus.append(_scrape(client, clock, "", check_gpus, processes)),
        lambda: plain.append(_scrape(client, clock, WITHOUT_GPUS, check_gpus, 0)),
    ]
    for number in range(rounds):
        for step in steps if number % 2 else reversed(steps):
            prepare()
            step()
    return _added("busy" if wake else "idle", with_gpus, plain)


def _take_turns(parts: Parts, rounds: int, prepare: Callable[[], None], units: int) -> _Turns:
    """Scrapes and floors in alternating order; `prepare` comes before each."""
    turns = _Turns()
    scrape = functools.partial(_scrape, parts.client, parts.clock)
    workers = len(parts.workers.directories)
    steps: list[Callable[[], None]] = [
        lambda: turns.with_units.append(scrape("", check_units, units)),
        lambda: turns.plain.append(scrape(WITHOUT_UNITS, check, workers)),
        lambda: turns.floors.append(parts.floor.read()),
    ]
    if parts.kept_floor is not parts.floor:
        steps.append(lambda: turns.kept_floors.append(parts.kept_floor.read()))
    for number in range(rounds):
        for step in steps if number % 2 else reversed(steps):
            prepare()
            step()
        if parts.library is not None and number % _LIBRARY_EVERY == 0:
            prepare()
            turns.libraries.append(_library_seconds(parts.library))
    return turns


def _with_units(name: str, turns: _Turns) -> WithUnits:
    return WithUnits(
        **asdict(_added(name, turns.with_units, turns.plain)),
        ratio=_ratio(turns.with_units, turns.floors),
    )


def _added(name: str, scrapes: Sequence[_Scraped], plain: Sequence[_Scraped]) -> Added:
    pairs = zip(scrapes, plain, strict=True)
    added = [(scraped.cpu - without.cpu) / 1e9 for scraped, without in pairs]
    walls = [scraped.wall for scraped in scrapes]
    return Added(
        name=name,
        cpu_seconds=_cpu_seconds(scrapes),
        added_seconds=statistics.median(added),
        added_quartiles=_quartiles(added),
        wall_seconds=statistics.median(walls),
        worst_wall_seconds=max(walls),
        failed_scrapes=sum(scraped.failed for scraped in scrapes),
    )


def _scrape(
    client: Client,
    clock: CpuClock,
    query: str,
    whole: Callable[[Answer, int], None],
    count: int,
) -> _Scraped:
    before = clock.settled()
    start = time.perf_counter()
    try:
        answer = client.scrape(query)
        wall, failed = answer.wall, False
        cpu = clock.settled() - before
        whole(answer, count)
    except FailedScrape:
        wall, failed = time.perf_counter() - start, True
        cpu = clock.settled() - before
    return _Scraped(cpu, wall, failed)


def _cpu_seconds(scrapes: Sequence[_Scraped]) -> float:
    return statistics.median(scraped.cpu for scraped in scrapes) / 1e9


def _ratio(scrapes: Sequence[_Scraped], floors: Sequence[int]) -> float:
    return statistics.median(
        scraped.cpu / floor for scraped, floor in zip(scrapes, floors, strict=True)
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, method="inclusive")
    return first, third


def _library_seconds(library: Library) -> float:
    start = time.process_time()
    library.answer()
    return time.process_time() - start


def _contents(paths: Sequence[str]) -> list[bytes]:
    contents = []
    for path in paths:
        if path.endswith("/"):
            continue
        with open(path, "rb", buffering=0) as file:
            contents.append(file.readall())
    return contents


def _nothing() -> None:
    """What is done before an idle scrape."""

"""What state every worker is in, made from what one pass knows of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Collector
from worker_exporter.collectors.cpu import CpuCollector
from worker_exporter.collectors.gpu import GpuCollector
from worker_exporter.collectors.health import HealthCollector
from worker_exporter.collectors.info import InfoCollector
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import family
from worker_exporter.scrape import PATIENCE, Scraper, Snapshot
from worker_exporter.systemd.unit import Unit

BUSY_THRESHOLD = 10.0
"""Percent of one core or GPU above which a worker is busy, unless a flag says otherwise."""


class State(StrEnum):
    """The one word for how a worker is."""

    ERROR = "error"
    STOPPED = "stopped"
    FROZEN = "frozen"
    STARTING = "starting"
    BUSY = "busy"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Facts:
    """What one pass knows of one worker, None where it does not know.

    `unit` is its unit in systemd. `probed` is whether the answer of a probe lies on its cgroup,
    however old, `ready` that answer unless it is too old, and `passed_once` whether one of this
    cgroup was ever seen that said ready. `cpu_pct` is in percent of one core, `gpu_pct` of one GPU.
    """

    identity: Identity
    populated: bool | None = None
    frozen: bool | None = None
    unit: Unit | None = None
    probed: bool = False
    passed_once: bool = False
    ready: bool | None = None
    cpu_pct: float | None = None
    gpu_pct: float | None = None


def state_of(facts: Facts, busy_threshold: float) -> State | None:
    """The state of a worker, None where too little is known. The first that applies:

    1. `error`: its unit failed, or waits for its restart.
    2. `stopped`: systemd ends it or has ended it, so it takes no work and a probe that fails is
       no alarm; or it has no process and systemd is not about to start it.
    3. `frozen`: which also explains a start that takes long and a probe that fails.
    4. `starting`: systemd is starting it, or it is probed and the probe has never passed.
    5. `error`: its probe fails after it once passed.
    6. `busy`: it uses more than `busy_threshold` percent of one core, or of one GPU.
    7. `ready`: its probe says so, or it has processes and no probe.
    """
    if facts.unit is not None and facts.unit.is_down:
        return State.ERROR
    if _is_stopped(facts):
        return State.STOPPED
    if facts.frozen:
        return State.FROZEN
    if _is_starting(facts):
        return State.STARTING
    if facts.ready is False:
        return State.ERROR
    if max(facts.cpu_pct or 0, facts.gpu_pct or 0) > busy_threshold:
        return State.BUSY
    if facts.ready or (facts.populated and not facts.probed):
        return State.READY
    return None


def _is_stopped(facts: Facts) -> bool:
    active = facts.unit.active if facts.unit else ""
    if active in ("deactivating", "inactive"):
        return True
    return facts.populated is False and active != "activating"


def _is_starting(facts: Facts) -> bool:
    if facts.unit is not None and facts.unit.active == "activating":
        return True
    return facts.probed and not facts.passed_once


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot, and what else can be told of its pass until the next one begins."""

    snapshot: Snapshot
    _scraper: Scraper
    _busy_threshold: float

    def text(self) -> bytes:
        """The metrics in Prometheus text 0.0.4."""
        return self.snapshot.text()

    def openmetrics(self) -> bytes:
        """The metrics in OpenMetrics 1.0."""
        return self.snapshot.openmetrics()

    def workers(self) -> bytes:
        """Names and states of all workers in JSON, by service and instance.

        Only in the thread of the pass, and before the next one begins.
        """
        known = sorted(known_of(self._scraper), key=lambda facts: facts.identity.labels)
        rows = [_row(facts.identity, state_of(facts, self._busy_threshold)) for facts in known]
        return f"{json.dumps(rows, ensure_ascii=False)}\n".encode()


class Telemetry:
    """A scraper whose passes can also be asked for the states of the workers."""

    def __init__(self, scraper: Scraper, busy_threshold: float = BUSY_THRESHOLD) -> None:
        self._scraper = scraper
        self._busy_threshold = busy_threshold

    @property
    def names(self) -> frozenset[str]:
        """The enabled collectors."""
        return self._scraper.names

    def scrape(self, selected: frozenset[str], patience: float = PATIENCE) -> Reading:
        """One pass over all workers by the collectors `selected`, as Scraper's."""
        snapshot = self._scraper.scrape(selected, patience)
        return Reading(snapshot, self._scraper, self._busy_threshold)

    def close(self) -> None:
        """Close the scraper."""
        self._scraper.close()


def known_of(scraper: Scraper) -> Iterator[Facts]:
    """What the last pass knows of every worker, also of those that only systemd still knows."""
    info, cpu = scraper.collector(InfoCollector), scraper.collector(CpuCollector)
    health = scraper.collector(HealthCollector)
    up, frozen = _column(info, "worker_up"), _column(info, "worker_frozen")
    ready, cpu_pct = _column(health, "worker_ready"), _column(cpu, "worker_cpu_pct")
    gpu = scraper.collector(GpuCollector)
    for worker in scraper.workers:
        yield Facts(
            worker.identity,
            populated=_flag(up, worker),
            frozen=_flag(frozen, worker),
            unit=scraper.units.unit(worker),
            probed=health is not None and health.is_probed(worker),
            passed_once=health is not None and health.passed_once(worker),
            ready=_flag(ready, worker),
            cpu_pct=cpu_pct.figure(worker),
            gpu_pct=None if gpu is None else gpu.use(worker),
        )
    for dead in scraper.units.dead:
        yield Facts(dead.identity, populated=False, unit=dead.unit)


def _column(collector: Collector | None, name: str) -> Column:
    """A column of `collector`; an empty one where that is not enabled."""
    return Column(family(name)) if collector is None else collector.columns[name]


def _flag(column: Column, worker: Worker) -> bool | None:
    figure = column.figure(worker)
    return None if figure is None else figure == 1


def _row(identity: Identity, state: State | None) -> dict[str, str | None]:
    return {
        "worker_id": f"{identity.service}/{identity.instance}",
        "service": identity.service,
        "instance": identity.instance,
        "state": state,
    }

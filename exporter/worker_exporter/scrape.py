"""One scrape: find the workers, let the collectors read, hand over what they have."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from worker_exporter import log
from worker_exporter.cgroup.controllers import EnabledControllers
from worker_exporter.cgroup.descriptors import Descriptors
from worker_exporter.cgroup.events import Events
from worker_exporter.cgroup.files import Faults, Kernel
from worker_exporter.cgroup.members import Member, Worker
from worker_exporter.cgroup.mount import Mount, find_mount, given_mount, shows_part
from worker_exporter.cgroup.places import Places
from worker_exporter.cgroup.processes import Processes
from worker_exporter.cgroup.roots import Scope
from worker_exporter.cgroup.tree import Tree
from worker_exporter.collectors.base import (
    REGISTRY,
    Collector,
    Follower,
    Host,
    Incomplete,
    Moment,
)
from worker_exporter.gpu.asking import Gpus
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import FAMILIES
from worker_exporter.metrics.own import OwnMetrics, Report
from worker_exporter.systemd.managers import Managers, manager_addresses
from worker_exporter.systemd.membership import WorkerUnits

_ADVICE = (
    "run the exporter in the host's namespaces "
    "(docker run --cgroupns=host --pid=host -v /sys/fs/cgroup:/sys/fs/cgroup:ro)"
)


Kind = TypeVar("Kind")

PATIENCE = 2.0
"""Seconds that a scrape waits for systemd and for GPU drivers, unless it has less time."""

UNITS = "units"
GPU = "gpu"
_LAST = (UNITS, GPU, "info")
"""Collectors that wait for answers from beside the scrape, so all others read first."""


def default_collectors() -> frozenset[str]:
    """The collectors that run unless a flag says otherwise."""
    return frozenset(name for name, entry in REGISTRY.items() if entry.default)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to read and where. `time_constant` is that of the smoothed gauges, in seconds.

    `buses` are the addresses of systemd's managers by the cgroup path of their units.
    """

    cgroupfs: str | None = None
    procfs: str = "/proc"
    sysfs: str = "/sys"
    slices: tuple[str, ...] = ("worker.slice",)
    patterns: tuple[re.Pattern[str], ...] = ()
    user_managers: bool = False
    max_workers: int = 2000
    time_constant: float = 10.0
    buses: Mapping[str, str] = field(default_factory=lambda: manager_addresses(os.getuid()))
    collectors: frozenset[str] = field(default_factory=default_collectors)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one pass found: of each family that has samples its column and their text, and how it
    went.
    """

    families: tuple[tuple[Column, bytes], ...]
    report: Report
    own: OwnMetrics

    def text(self) -> bytes:
        """The whole answer in Prometheus text 0.0.4."""
        parts = [part for column, lines in self.families for part in (column.text_header, lines)]
        return b"".join([*parts, self.own.text(self.report)])

    def openmetrics(self) -> bytes:
        """The whole answer in OpenMetrics 1.0."""
        parts = [
            part for column, lines in self.families for part in (column.openmetrics_header, lines)
        ]
        return b"".join([*parts, self.own.openmetrics(self.report)])


class Scraper:
    """Everything that is kept between scrapes: open files, remembered text, the collectors.

    Not to be used by two threads at once. Raises UserError when there is no cgroup2 to read.
    """

    def __init__(self, settings: Settings) -> None:
        mount = _mount(settings)
        self.names = settings.collectors
        self._kernel = Kernel(settings.procfs, settings.sysfs, Descriptors.of_process(), Faults())
        scope = Scope(
            settings.slices, settings.patterns, settings.user_managers, settings.max_workers
        )
        self._tree = Tree(mount, scope, self._kernel)
        self._controllers = EnabledControllers(mount, self._kernel)
        self._host = Host(
            self._kernel,
            Events(self._kernel),
            Processes(self._kernel),
            WorkerUnits(
                Managers(settings.buses if UNITS in settings.collectors else {}, PATIENCE),
                self._tree.identify,
                settings.max_workers,
            ),
            Gpus(settings.procfs, settings.sysfs, PATIENCE),
            Places(self._kernel),
            settings.time_constant,
        )
        self._collectors: dict[str, Collector] = {
            name: REGISTRY[name].make(self._host)
            for name in dict.fromkeys(family.collector for family in FAMILIES)
            if name in self.names
        }
        self._own = OwnMetrics()
        self._said_foreign = False
        self._mount = mount.path
        self._said_part = settings.cgroupfs is not None

    @property
    def workers(self) -> Iterable[Worker]:
        """The living workers, as of the last pass."""
        return self._tree.workers.values()

    @property
    def units(self) -> WorkerUnits:
        """The units of all workers, and the dead ones, as of the last pass."""
        return self._host.units

    def collector(self, kind: type[Kind]) -> Kind | None:
        """The collector of this kind with what it has as of the last pass; None: not enabled."""
        return next((each for each in self._collectors.values() if isinstance(each, kind)), None)

    def scrape(self, selected: frozenset[str], patience: float = PATIENCE) -> Snapshot:
        """One pass over all workers by the collectors `selected`. It waits at most `patience`
        seconds for what is asked beside it.
        """
        began = time.perf_counter()
        now = Moment(time.time(), time.monotonic())
        self._find_workers()
        if UNITS in selected:
            self._host.units.ask(patience)
        if GPU in selected:
            self._host.gpus.ask(patience)
        seconds, success = {}, {}
        for name in self._in_order(selected):
            start = time.perf_counter()
            success[name] = self._collect(name, now)
            seconds[name] = time.perf_counter() - start
            self._leave_out_vanished()
        self._say_foreign()
        self._say_part()
        families = tuple(
            (column, column.samples())
            for name, collector in self._collectors.items()
            if name in success
            for column in collector.columns.values()
            if len(column)
        )
        report = Report(
            workers=len(self._tree.workers),
            duplicates=self._tree.duplicates,
            dropped=self._tree.dropped + self._host.units.dropped,
            seconds=time.perf_counter() - began,
            memory_sources=self._host.memory_sources if success.get("memory") else {},
            collector_seconds=seconds,
            collector_success=success,
            read_errors=dict(self._kernel.faults.errors),
        )
        return Snapshot(families, report, self._own)

    def close(self) -> None:
        """Give all descriptors back, and ask nobody any more."""
        for member in list(self._tree.members):
            self._remove(member)
            self._tree.forget(member)
        self._host.close()

    def _find_workers(self) -> None:
        self._host.begin()
        self._kernel.faults.clear()
        self._host.events.refresh()
        self._leave_out_vanished()
        gone, appeared = self._tree.refresh()
        for member in gone:
            self._remove(member)
        for member in appeared:
            self._add(member)
        if appeared:
            self._host.events.refresh()
        for member in self._controllers.changed():
            for collector in self._followers(member):
                collector.look_again(member)

    def _add(self, member: Member) -> None:
        self._controllers.add(member)
        if isinstance(member, Worker):
            self._host.add(member)
        for collector in self._followers(member):
            collector.add(member)

    def _remove(self, member: Member) -> None:
        self._controllers.remove(member)
        if isinstance(member, Worker):
            self._host.remove(member)
        for collector in self._followers(member):
            collector.remove(member)

    def _followers(self, member: Member) -> Iterator[Follower[Member]]:
        for name, collector in self._collectors.items():
            yield from REGISTRY[name].followers(collector, member)

    def _in_order(self, selected: frozenset[str]) -> list[str]:
        here = [name for name in self._collectors if name in selected and name not in _LAST]
        return here + [name for name in _LAST if name in self._collectors and name in selected]

    def _collect(self, name: str, now: Moment) -> bool:
        """Run one collector; whether it did all its work. One that failed is made anew, for its
        state may be in disorder.
        """
        try:
            self._collectors[name].collect(now)
        except Incomplete:
            return False
        except Exception as error:
            log.error("collector failed", collector=name, **log.describe(error))
            self._make_anew(name)
            return False
        return True

    def _make_anew(self, name: str) -> None:
        broken = self._collectors[name]
        fresh = REGISTRY[name].make(self._host)
        self._collectors[name] = fresh
        for member in self._tree.members:
            for follower in REGISTRY[name].followers(broken, member):
                with contextlib.suppress(Exception):
                    follower.remove(member)
            for follower in REGISTRY[name].followers(fresh, member):
                follower.add(member)

    def _leave_out_vanished(self) -> None:
        """A worker that vanished is left out whole, also one that did in mid-scrape."""
        vanished = self._kernel.faults.vanished
        for member in [each for each in vanished if isinstance(each, Member)]:
            vanished.discard(member)
            self._remove(member)
            self._tree.forget(member)

    def _say_foreign(self) -> None:
        if self._kernel.faults.foreign_processes and not self._said_foreign:
            self._said_foreign = True
            log.warn(f"cgroups hold processes of another PID namespace; {_ADVICE}")

    def _say_part(self) -> None:
        if not self._said_part and not self._tree.workers and shows_part(self._mount):
            self._said_part = True
            log.warn(
                f"no worker, and the cgroup2 mount shows only a part of all cgroups; {_ADVICE}",
                path=self._mount,
            )


def _mount(settings: Settings) -> Mount:
    if settings.cgroupfs is not None:
        return given_mount(settings.cgroupfs)
    mount = find_mount(settings.procfs)
    if mount.foreign:
        log.warn(
            f"the cgroup2 mount shows another cgroup namespace; {_ADVICE}",
            path=mount.path,
            root=mount.root,
        )
    return mount

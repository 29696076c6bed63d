"""One scrape: find the workers, let the collectors read, hand over what they have."""

import contextlib
import re
import time
from dataclasses import dataclass, field

from worker_exporter import log
from worker_exporter.cgroup.controllers import EnabledControllers
from worker_exporter.cgroup.descriptors import Descriptors
from worker_exporter.cgroup.events import Events
from worker_exporter.cgroup.files import Faults, Kernel
from worker_exporter.cgroup.mount import Mount, find_mount, given_mount
from worker_exporter.cgroup.processes import Processes
from worker_exporter.cgroup.tree import Scope, Tree, Worker
from worker_exporter.collectors.base import REGISTRY, Collector, Host, Moment
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import FAMILIES
from worker_exporter.metrics.own import OwnMetrics, Report

_ADVICE = (
    "run the exporter in the host's namespaces "
    "(docker run --cgroupns=host --pid=host -v /sys/fs/cgroup:/sys/fs/cgroup:ro)"
)


def default_collectors() -> frozenset[str]:
    """The collectors that run unless a flag says otherwise."""
    return frozenset(name for name, entry in REGISTRY.items() if entry.default)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to read and where. `time_constant` is that of the smoothed gauges, in seconds."""

    cgroupfs: str | None = None
    procfs: str = "/proc"
    sysfs: str = "/sys"
    slices: tuple[str, ...] = ("worker.slice",)
    patterns: tuple[re.Pattern[str], ...] = ()
    user_managers: bool = False
    max_workers: int = 2000
    time_constant: float = 10.0
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
            settings.time_constant,
        )
        self._collectors: dict[str, Collector] = {
            name: REGISTRY[name].make(self._host)
            for name in dict.fromkeys(family.collector for family in FAMILIES)
            if name in self.names
        }
        self._own = OwnMetrics()
        self._said_foreign = False

    def scrape(self, selected: frozenset[str]) -> Snapshot:
        """One pass over all workers by the collectors `selected`."""
        began = time.perf_counter()
        now = Moment(time.time(), time.monotonic())
        self._find_workers()
        seconds, success = {}, {}
        for name in [name for name in self._collectors if name in selected]:
            start = time.perf_counter()
            success[name] = self._collect(name, now)
            seconds[name] = time.perf_counter() - start
        self._leave_out_vanished()
        self._say_foreign()
        families = tuple(
            (column, column.samples())
            for name in seconds
            if success[name]
            for column in self._collectors[name].columns.values()
            if len(column)
        )
        report = Report(
            workers=len(self._tree.workers),
            duplicates=self._tree.duplicates,
            dropped=self._tree.dropped,
            seconds=time.perf_counter() - began,
            memory_sources=self._host.memory_sources if success.get("memory") else {},
            collector_seconds=seconds,
            collector_success=success,
            read_errors=dict(self._kernel.faults.errors),
        )
        return Snapshot(families, report, self._own)

    def close(self) -> None:
        """Give all descriptors back."""
        for worker in list(self._tree.workers.values()):
            self._remove(worker)
            self._tree.forget(worker)

    def _find_workers(self) -> None:
        self._host.begin()
        self._kernel.faults.clear()
        self._host.events.refresh()
        self._leave_out_vanished()
        gone, appeared = self._tree.refresh()
        for worker in gone:
            self._remove(worker)
        for worker in appeared:
            self._add(worker)
        if appeared:
            self._host.events.refresh()
        for worker in self._controllers.changed():
            for collector in self._collectors.values():
                collector.look_again(worker)

    def _add(self, worker: Worker) -> None:
        self._controllers.add(worker)
        self._host.events.add(worker)
        self._host.processes.add(worker)
        for collector in self._collectors.values():
            collector.add(worker)

    def _remove(self, worker: Worker) -> None:
        self._controllers.remove(worker)
        self._host.events.remove(worker)
        self._host.processes.remove(worker)
        for collector in self._collectors.values():
            collector.remove(worker)

    def _collect(self, name: str, now: Moment) -> bool:
        """Run one collector. One that failed is made anew, for its state may be in disorder."""
        try:
            self._collectors[name].collect(now)
        except Exception as error:
            log.error("collector failed", collector=name, **log.describe(error))
            self._make_anew(name)
            return False
        return True

    def _make_anew(self, name: str) -> None:
        broken = self._collectors[name]
        fresh = REGISTRY[name].make(self._host)
        self._collectors[name] = fresh
        for worker in self._tree.workers.values():
            with contextlib.suppress(Exception):
                broken.remove(worker)
            fresh.add(worker)

    def _leave_out_vanished(self) -> None:
        """A worker that vanished is left out whole, also one that did in mid-scrape."""
        vanished = self._kernel.faults.vanished
        for worker in [each for each in vanished if isinstance(each, Worker)]:
            vanished.discard(worker)
            self._remove(worker)
            self._tree.forget(worker)

    def _say_foreign(self) -> None:
        if self._kernel.faults.foreign_processes and not self._said_foreign:
            self._said_foreign = True
            log.warn(f"cgroups hold processes of another PID namespace; {_ADVICE}")


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

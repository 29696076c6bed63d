"""Which unit is which worker's: of the living by their cgroups, of the dead by their slices."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from worker_exporter.cgroup.identity import Identity, manager_path, unit_name, unit_of
from worker_exporter.cgroup.members import Worker
from worker_exporter.systemd.managers import Managers
from worker_exporter.systemd.unit import ROOT_SLICE, Details, Report, Unit, cgroup_path

SYSTEM = ""
"""The cgroup path below which the units of the system's manager lie."""

_IN_USER_MANAGER = re.compile(r"user\.slice/user-(\d+)\.slice/user@\1\.service/")


@dataclass(eq=False, slots=True)
class DeadWorker:
    """A worker that has no cgroup now: its unit failed, or will be started (again)."""

    identity: Identity
    unit: Unit
    details: Details

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that its samples carried when it lived."""
        return self.identity.labels


@dataclass(eq=False, slots=True)
class _Place:
    """Where a living worker's unit is to be looked for; `confirmed` is whether systemd says that
    the unit of this name has this very cgroup, by the details `seen` last.
    """

    manager: str
    unit: str
    confirmed: bool = False
    seen: Details | None = None


class WorkerUnits:
    """The units of all workers, living and dead, as systemd tells them in one pass.

    `dead` are those without a cgroup, `down` the living whose run is over though their cgroups
    still have processes. `dropped` counts the dead that are over the maximum or whose names are no
    label values. `complete` is whether all that was asked was answered.
    """

    def __init__(
        self,
        managers: Managers,
        identify: Callable[[str], Identity | None],
        max_workers: int,
    ) -> None:
        self.dead: list[DeadWorker] = []
        self.down: list[Worker] = []
        self.dropped = 0
        self.complete = True
        self._managers = managers
        self._identify = identify
        self._max_workers = max_workers
        self._places: dict[Worker, _Place | None] = {}
        self._alive: dict[str, dict[str, int]] = {}
        self._known_dead: dict[tuple[str, str], DeadWorker] = {}
        self._reports: Mapping[str, Report | None] = {}
        self._was_asked = False
        self._is_waited_for = False

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        place = self._places[worker] = _place_of(worker)
        if place is not None:
            self._alive.setdefault(place.manager, {})[place.unit] = worker.inode

    def remove(self, worker: Worker) -> None:
        """A worker is gone."""
        place = self._places.pop(worker)
        if place is not None and self._alive[place.manager].get(place.unit) == worker.inode:
            del self._alive[place.manager][place.unit]

    def begin(self) -> None:
        """A new pass begins: what systemd said in the last one is old."""
        self._reports = {}
        self._was_asked = False
        self._is_waited_for = False
        self.dead = []
        self.down = []
        self.dropped = 0
        self.complete = True

    def ask(self, patience: float) -> None:
        """Begin to ask systemd; wait() will wait for `patience` seconds from now at most."""
        alive = {manager: dict(units) for manager, units in self._alive.items()}
        self._managers.ask(alive, lambda path: self._identify(path) is not None, patience)
        self._was_asked = True
        self._is_waited_for = True

    def wait(self) -> None:
        """Wait for what systemd says, and find the dead; nothing where it was not asked."""
        if not self._is_waited_for:
            return
        self._is_waited_for = False
        self._reports = self._managers.reports()
        self._find_dead()
        self._find_down()
        self.complete = all(
            report is not None and not report.pending for report in self._reports.values()
        )

    def close(self) -> None:
        """Ask no more."""
        self._managers.close()

    def unit(self, worker: Worker) -> Unit | None:
        """The unit of a living worker, None where it has none or none is known in this pass."""
        place, report = self._places[worker], self._report(worker)
        return report.units.get(place.unit) if place and report else None

    def details(self, worker: Worker) -> Details | None:
        """The details of a living worker's unit, None as for unit() and while they are pending."""
        place, report = self._places[worker], self._report(worker)
        return report.details.get(place.unit) if place and report else None

    def is_pending(self, worker: Worker) -> bool:
        """Whether details() of a living worker are still to come."""
        place = self._places[worker]
        report = self._reports.get(place.manager) if place else None
        return bool(place and report and place.unit in report.pending)

    def may_yet_tell(self, worker: Worker) -> bool:
        """Whether the manager of a living worker's unit was not asked in this pass, or said
        nothing in time.
        """
        place = self._places[worker]
        if place is None or not self._managers.can_ask(place.manager):
            return False
        if not self._was_asked:
            return True
        is_silent = self._reports.get(place.manager, True) is None
        return is_silent and self._managers.is_late(place.manager)

    def _report(self, worker: Worker) -> Report | None:
        """What the manager of the worker's unit said, once that is known to be the worker's."""
        place = self._places[worker]
        report = self._reports.get(place.manager) if place else None
        if place is None or report is None:
            return None
        details = report.details.get(place.unit)
        if details is not None and details is not place.seen:
            place.seen = details
            # A failed unit has lost its cgroup even where processes in it could not be killed.
            group = details.control_group or cgroup_path(place.manager, details.slice, place.unit)
            place.confirmed = group == worker.path
        return report if place.confirmed else None

    def _find_dead(self) -> None:
        found: dict[tuple[str, str], DeadWorker] = {}
        candidates = sorted(self._without_cgroup(), key=lambda each: each[:2])
        taken = {worker.identity for worker in self._places} if candidates else set()
        for manager, path, unit, details in candidates:
            identity = self._identify(path)
            if identity is None or identity in taken:
                continue
            if not identity.valid or len(taken) >= self._max_workers:
                # With a cgroup it is alive, and counted as such.
                self.dropped += not details.control_group
                continue
            taken.add(identity)
            dead = self._known_dead.get((manager, path))
            if dead is None or dead.identity != identity:
                dead = DeadWorker(identity, unit, details)
            dead.unit, dead.details = unit, details
            found[manager, path] = dead
        self._known_dead = found
        self.dead = list(found.values())

    def _find_down(self) -> None:
        down = {
            (manager, name)
            for manager, report in self._reports.items()
            if report is not None
            for name in self._alive.get(manager, ())
            if (unit := report.units.get(name)) and unit.is_down
        }
        if not down:
            return
        self.down = [
            worker
            for worker, place in self._places.items()
            if place and (place.manager, place.unit) in down and self._report(worker)
        ]

    def _without_cgroup(self) -> Iterator[tuple[str, str, Unit, Details]]:
        """The units of workers that failed or are on their way, and whose cgroup is not there:
        their managers, where their cgroups would be, and what is known of them.
        """
        for manager, report in self._reports.items():
            alive = self._alive.get(manager, {})
            for name, details in (report.details if report else {}).items():
                unit = report.units[name] if report else None
                if unit and name not in alive and unit.active in ("failed", "activating"):
                    yield manager, cgroup_path(manager, details.slice, name), unit, details


def _place_of(worker: Worker) -> _Place | None:
    """None for a worker that is no unit itself, or that of a manager out of reach: no manager
    is asked for it.
    """
    unit = unit_name(worker.path)
    inner = _IN_USER_MANAGER.match(worker.path)
    manager = SYSTEM if inner is None else manager_path(int(inner[1]))
    around = worker.path.rpartition("/")[0]
    slice_name = ROOT_SLICE if around == manager else unit_of(around)
    # A systemd in a container has its units elsewhere.
    if unit is None or cgroup_path(manager, slice_name, unit) != worker.path:
        return None
    return _Place(manager, unit)

"""Which units' details are wanted, and which of those at hand belong to a unit as it is now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker_exporter.systemd.manager import Reading
from worker_exporter.systemd.unit import Report, Unit

_DOWN = ("failed", "activating", "deactivating")


@dataclass(eq=False, slots=True)
class Followed:
    """A unit as it was last listed, with the inode of its cgroup if that is a worker's.

    `is_worker` is False while its slice is not known. `reading` was made in this state, but only
    if `is_fresh` the unit cannot have left it and come back since.
    """

    unit: Unit
    inode: int | None
    is_worker: bool
    reading: Reading | None = None
    is_fresh: bool = False

    @property
    def is_running(self) -> bool:
        """Whether it cannot leave its state and come back without a new cgroup."""
        return self.unit.active == "active" and self.unit.sub == "running"


class Following:
    """The units of workers: those that are alive, and those that failed or are on their way."""

    def __init__(self) -> None:
        self.units: Mapping[str, Unit] = {}
        self._followed: dict[str, Followed] = {}
        self._strangers: set[str] = set()

    def see(self, units: Mapping[str, Unit], alive: Mapping[str, int]) -> None:
        """The manager listed `units`; `alive` are those of living workers, with their inodes."""
        self.units = units
        self._strangers &= units.keys() - alive.keys()
        before = self._followed
        self._followed = {
            name: _as_listed(units[name], inode, before.get(name))
            for name, inode in alive.items()
            if name in units
        }
        for unit in units.values():
            if unit.active in _DOWN and unit.name not in alive:
                self._see_down(unit, before.get(unit.name))

    def due(self) -> list[str]:
        """The units to be read, most urgent first: what happened to those that do not run, and of
        those what was never read.
        """
        waiting = [each for each in self._followed.values() if not each.is_fresh]
        waiting.sort(key=lambda each: (each.is_running, each.reading is not None))
        return [each.unit.name for each in waiting]

    def stale(self, name: str) -> Followed | None:
        """The unit of that name if it is to be read."""
        followed = self._followed.get(name)
        return None if followed is None or followed.is_fresh else followed

    def is_stranger(self, name: str) -> None:
        """The unit is no worker's: leave it alone for as long as it is listed."""
        self._strangers.add(name)
        self._followed.pop(name, None)

    def take(self, followed: Followed, reading: Reading) -> None:
        """Keep what was read of a unit that stale() gave."""
        followed.reading = reading
        followed.is_fresh = True
        now = self._followed.get(followed.unit.name)
        if now is not None and _same(now, followed):
            now.reading = reading

    def report(self) -> Report:
        """What is known at this moment."""
        return Report(
            self.units,
            {name: reading.details for name, reading in self._fresh()},
            frozenset(name for name, each in self._followed.items() if not each.is_fresh),
        )

    def _fresh(self) -> Iterator[tuple[str, Reading]]:
        for name, followed in self._followed.items():
            if followed.is_fresh and followed.reading is not None:
                yield name, followed.reading

    def _see_down(self, unit: Unit, before: Followed | None) -> None:
        if unit.name not in self._strangers:
            self._followed[unit.name] = _as_listed(unit, None, before)


def _as_listed(unit: Unit, inode: int | None, before: Followed | None) -> Followed:
    if before is None:
        return Followed(unit, inode, is_worker=inode is not None)
    now = Followed(unit, inode, inode is not None or before.is_worker)
    if not _same(now, before):
        return now
    if before.is_running:
        return before
    now.reading = before.reading
    return now


def _same(one: Followed, other: Followed) -> bool:
    """Whether the unit is in the same state; what is unchanged is the same object."""
    return one.unit is other.unit and one.inode == other.inode

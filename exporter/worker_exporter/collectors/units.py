"""Units of workers as systemd tells them: state, result, restarts, and how the last run ended."""

from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Host, Incomplete, Moment, columns_of, register
from worker_exporter.metrics.exposition import decimal
from worker_exporter.metrics.family import family
from worker_exporter.systemd.membership import DeadWorker
from worker_exporter.systemd.unit import Details, Unit

_STATE = "worker_unit_state"
_RESULT = "worker_unit_result"
_RESTARTS = "worker_restarts_total"
_SUCCESS = "success"
_STATES = family(_STATE).values
_SAME = {"reloading": "active", "refreshing": "active"}

Told = tuple[Unit | None, Details | None]


@register("units", "what systemd says of workers: state, result, restarts, the last run")
class UnitsCollector:
    """The families of units, of living workers and of those that only systemd still knows."""

    def __init__(self, host: Host) -> None:
        self.columns = columns_of("units")
        self._units = host.units
        self._last_run = [column for name, column in self.columns.items() if "_last_" in name]
        self._told: dict[Worker | DeadWorker, Told] = {}
        self._dead: set[DeadWorker] = set()

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        self._told[worker] = None, None

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        self._forget(worker)

    def look_again(self, worker: Worker) -> None:
        """Nothing to do: units have no files."""

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date. Raises Incomplete when systemd left something out."""
        self._units.wait()
        dead = set(self._units.dead)
        for gone in self._dead - dead:
            self._forget(gone)
        self._dead = dead
        for each in self._told:
            if isinstance(each, Worker):
                self._take(each, self._units.unit(each), self._units.details(each))
        for each in dead:
            self._told.setdefault(each, (None, None))
            self._take(each, each.unit, each.details)
        if not self._units.complete:
            raise Incomplete

    def _take(self, key: Worker | DeadWorker, unit: Unit | None, details: Details | None) -> None:
        before = self._told[key]
        if before[0] is unit and before[1] is details:
            return
        self._told[key] = unit, details
        self._drop(key)
        if unit is None:
            return
        self._put_state(key, unit)
        if details is not None:
            self._put_details(key, unit, details)

    def _put_state(self, key: Worker | DeadWorker, unit: Unit) -> None:
        state = _SAME.get(unit.active, unit.active)
        if state in _STATES:
            self.columns[_STATE].put(key, *(b"%d" % (state == each) for each in _STATES))

    def _put_details(self, key: Worker | DeadWorker, unit: Unit, details: Details) -> None:
        if details.restarts is not None:
            self.columns[_RESTARTS].put(key, b"%d" % details.restarts)
        if not unit.is_down:
            return
        if details.result not in ("", _SUCCESS):
            self.columns[_RESULT].put_labelled(key, {(details.result,): b"1"})
        figures = (
            details.exit_status,
            details.cpu_seconds,
            details.peak_memory_bytes,
            details.duration_seconds,
        )
        for column, figure in zip(self._last_run, figures, strict=True):
            column.put(key, None if figure is None else decimal(figure))

    def _forget(self, key: Worker | DeadWorker) -> None:
        self._told.pop(key, None)
        self._drop(key)

    def _drop(self, key: Worker | DeadWorker) -> None:
        for column in self.columns.values():
            column.drop(key)

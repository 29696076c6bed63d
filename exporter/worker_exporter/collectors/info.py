"""What a worker is and whether it lives: cgroup.events, its path, its metadata, its start."""

from worker_exporter.cgroup import parse, procfs
from worker_exporter.cgroup.events import FILE
from worker_exporter.cgroup.identity import is_label_value, unit_of
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.metadata import METADATA, Metadata, port_of, read_metadata
from worker_exporter.cgroup.processes import PIDS
from worker_exporter.collectors.base import Host, Moment, WorkerCollector, register
from worker_exporter.metrics.exposition import decimal
from worker_exporter.systemd.membership import DeadWorker

_CGROUP = "cgroup"
"""What a path that is no label value is counted under."""

_SETTLED_SECONDS = 10
"""How long after a worker was first seen up a launcher, or a systemd that is late, may still tell
of it.
"""


@register("info", "what a worker is, whether it is up, since when")
class InfoCollector(WorkerCollector):
    """Identity, state and start of workers. Metadata is read once for each cgroup: it counts from
    when a launcher dated the start, the last that it writes, or the worker has run for a while.
    """

    def __init__(self, host: Host) -> None:
        super().__init__("info", host)
        self._errors = host.kernel.faults.errors
        for name in (_CGROUP, *METADATA):
            self._errors[name] += 0
        self._info = self.columns["worker_info"]
        self._start = self.columns["worker_start_time_seconds"]
        self._up = self.columns["worker_up"]
        self._frozen = self.columns["worker_frozen"]
        self._seen: dict[Worker, bytes | None] = {}
        self._up_since: dict[Worker, float] = {}
        self._populated: set[Worker] = set()
        self._undescribed: dict[Worker, None] = {}
        self._unstarted: dict[Worker, PIDS | None] = {}
        self._down: set[DeadWorker] = set()
        self._over: set[Worker] = set()

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        super().add(worker)
        self._seen[worker] = None
        self._undescribed[worker] = None

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        del self._seen[worker]
        self._over.discard(worker)
        self._populated.discard(worker)
        self._up_since.pop(worker, None)
        self._undescribed.pop(worker, None)
        self._unstarted.pop(worker, None)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        self._collect_events()
        self._collect_down()
        self._collect_over()
        for worker in list(self._undescribed):
            self._describe(worker, now.monotonic)
        self._ask_units()
        if self._unstarted:
            self._find_starts(self.host.pids(), now.monotonic)

    def _collect_events(self) -> None:
        content = self.host.events.content
        for worker, seen in self._seen.items():
            if content[worker] is not seen:
                self._seen[worker] = content[worker]
                self._take_events(worker, content[worker])

    def _take_events(self, worker: Worker, data: bytes | None) -> None:
        try:
            events = {} if data is None else parse.flat_keyed(data)
        except ValueError:
            self._errors[FILE] += 1
            self._seen[worker] = None  # so that the next pass counts it too
            events = {}
        self._up.put(worker, events.get(b"populated"))
        self._frozen.put(worker, events.get(b"frozen"))
        if events.get(b"populated") == b"1":
            self._populated.add(worker)

    def _collect_down(self) -> None:
        """Workers without a cgroup that failed, or wait for their restart."""
        down = {dead for dead in self.host.units.dead if dead.unit.is_down}
        for gone in self._down - down:
            self._up.drop(gone)
        for dead in down - self._down:
            self._up.put(dead, b"0")
        self._down = down

    def _collect_over(self) -> None:
        """Workers whose run is over by their units: what is left in their cgroups is not them. So
        it stays while systemd does not answer.
        """
        units = self.host.units
        over = {*units.down, *(worker for worker in self._over if units.unit(worker) is None)}
        for worker in self._over - over:
            self._take_events(worker, self._seen[worker])
        for worker in over:
            self._up.put(worker, b"0")
        self._over = over

    def _describe(self, worker: Worker, monotonic: float) -> None:
        metadata = read_metadata(worker, self._errors)
        self._info.put_labelled(worker, {self._info_labels(worker, metadata): b"1"})
        if metadata.started is not None and worker not in self._start:
            self._start.put(worker, decimal(metadata.started))
            self._unstarted.pop(worker, None)
        if worker not in self._populated:
            return
        since = self._up_since.setdefault(worker, monotonic)
        if worker not in self._start:
            self._unstarted.setdefault(worker, None)
        if metadata.started is not None or monotonic - since >= _SETTLED_SECONDS:
            self._undescribed.pop(worker, None)

    def _ask_units(self) -> None:
        """The unit's own start, for workers that no launcher dated; then it stays."""
        for worker in list(self._unstarted):
            details = self.host.units.details(worker)
            # A worker that has another cgroup by now was started again since.
            if details is not None and details.started is not None and worker.exists():
                self._start.put(worker, decimal(details.started))
                del self._unstarted[worker]

    def _find_starts(self, pids: dict[Worker, PIDS | None], monotonic: float) -> None:
        """The oldest process's start, where systemd cannot tell either; then it stays."""
        for worker, tried in list(self._unstarted.items()):
            now = pids[worker]
            if not now or now is tried or self._will_be_told(worker, monotonic):
                continue
            self._unstarted[worker] = now
            start = procfs.oldest_start(self.host.kernel.procfs, now)
            if start is not None:
                self._start.put(worker, decimal(round(start, 2)))
                del self._unstarted[worker]

    def _will_be_told(self, worker: Worker, monotonic: float) -> bool:
        """Whether systemd is still to say when the main process started: what has run before it
        is not the worker's start, and the start stays.
        """
        unit = self.host.units.unit(worker)
        is_before_main = unit is not None and unit.active == "activating"
        if is_before_main or self.host.units.is_pending(worker):
            return True
        is_new = monotonic - self._up_since[worker] < _SETTLED_SECONDS
        return is_new and self.host.units.may_yet_tell(worker)

    def _info_labels(self, worker: Worker, metadata: Metadata) -> tuple[str, ...]:
        port = metadata.port or port_of(worker.identity.instance)
        path, unit = self._fitting(worker.path), self._fitting(unit_of(worker.path))
        return path, unit, metadata.model, port, metadata.gpu

    def _fitting(self, text: str) -> str:
        """`text` if it fits into a label, else "", counted."""
        if not text or is_label_value(text):
            return text
        self._errors[_CGROUP] += 1
        return ""

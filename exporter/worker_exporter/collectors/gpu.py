"""GPUs: what drivers say of devices, and whose processes hold them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worker_exporter import log
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Host, Incomplete, Moment, columns_of, register
from worker_exporter.gpu.device import Device, Reading
from worker_exporter.metrics.exposition import Unlabelled, decimal

_MEMORY = "worker_gpu_memory_used_bytes"
_UTILIZATION = "worker_gpu_utilization_ratio"
_PROCESSES = "worker_gpu_processes"
_PROCESS_MEMORY = "worker_gpu_process_memory_used_bytes"
_INFO = "worker_node_gpu_info"
_UNATTRIBUTED = "worker_node_gpu_unattributed_memory_bytes"
_BY_DEVICE = {
    "worker_node_gpu_memory_used_bytes": "memory_used_bytes",
    "worker_node_gpu_memory_total_bytes": "memory_total_bytes",
    "worker_node_gpu_utilization_ratio": "utilization_ratio",
    "worker_node_gpu_temperature_celsius": "temperature_celsius",
    "worker_node_gpu_power_watts": "power_watts",
    "worker_node_gpu_energy_joules_total": "energy_joules",
}
_ADVICE = (
    "run the exporter in the host's PID namespace (docker run --pid=host), and where /proc is "
    "mounted with hidepid, in the group of its gid="
)

Labels = tuple[str, ...]
"""Values of a family's further labels; first come those of the device."""

Samples = dict[Labels, bytes]


@dataclass(slots=True)
class _Share:
    """What each process of a worker has of each device: the memory, with its PID, and utilization.

    They are apart since memory, and who holds it, hardly ever changes between two scrapes.
    """

    memory: list[tuple[Labels, int, int | None]] = field(default_factory=list)
    utilization: list[tuple[Labels, float | None]] = field(default_factory=list)


@register("gpu", "GPUs, and which workers hold how much of their memory")
class GpuCollector:
    """The families of devices and, by the PIDs that drivers name, of workers."""

    def __init__(self, host: Host) -> None:
        self.columns = columns_of("gpu")
        self._host = host
        self._places = host.places
        self._by_path: dict[str, Worker] = {}
        self._shares: dict[Worker, _Share] = {}
        self._node = Unlabelled()
        self._unseen: set[int] | None = None
        self._said_hidden = False

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        self._by_path[worker.path] = worker

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        del self._by_path[worker.path]
        self._shares.pop(worker, None)
        self._drop(worker)

    def look_again(self, worker: Worker) -> None:
        """Nothing to do: GPUs are no files of a cgroup."""

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date. Raises Incomplete when drivers, or /proc, left something
        out.
        """
        reading = self._host.gpus.reading()
        if reading is None:
            self._drop(self._node)
            self._put_workers({})
            raise Incomplete
        pids = {process.pid for device in reading.devices for process in device.processes or ()}
        owners = self._owners(pids)
        self._put_devices(reading, owners)
        self._put_workers(_shares(reading, owners))
        if self._are_hidden(pids - owners.keys()) or reading.faults:
            raise Incomplete

    def use(self, worker: Worker) -> float | None:
        """Percent of one GPU that the worker used, of all together; None where none is known."""
        share = self._shares.get(worker)
        known = [used for _, used in (share.utilization if share else ()) if used is not None]
        return 100 * sum(known) if known else None

    def _owners(self, pids: set[int]) -> Mapping[int, Worker | None]:
        """The worker that each process is in, None for one outside all. Left out are those that
        /proc does not show.

        Most are in the cgroup.procs of a worker, which other collectors read anyway.
        /proc/PID/cgroup, which takes the kernel several times as long, is read of the rest only.
        """
        owners: dict[int, Worker | None] = {
            pid: worker
            for worker, inside in (self._host.pids() if pids else {}).items()
            if inside
            for pid in pids.intersection(inside)
        }
        for pid, path in self._places.look(pids - owners.keys()).items():
            owners[pid] = self._enclosing(path)
        return owners

    def _enclosing(self, path: str) -> Worker | None:
        """The worker whose cgroup is `path` or lies around it."""
        while path:
            worker = self._by_path.get(path)
            if worker is not None:
                return worker
            path = path.rpartition("/")[0]
        return None

    def _are_hidden(self, unseen: set[int]) -> bool:
        """Whether /proc hides processes: those that drivers name twice in a row, or at the first
        look, and it does not show. One that is missing later may have ended in between.
        """
        before = unseen if self._unseen is None else self._unseen
        self._unseen = unseen
        are_hidden = not before.isdisjoint(unseen)
        if are_hidden and not self._said_hidden:
            self._said_hidden = True
            log.warn(f"GPUs are held by processes that /proc does not show; {_ADVICE}")
        return are_hidden

    def _put_devices(self, reading: Reading, owners: Mapping[int, Worker | None]) -> None:
        for family, attribute in _BY_DEVICE.items():
            figures = {_labels(each): getattr(each, attribute) for each in reading.devices}
            self._put_node(family, figures)
        self._put_node(
            _UNATTRIBUTED,
            {_labels(each): _unattributed(each, owners) for each in reading.devices},
        )
        self._put_node(
            _INFO, {(*_labels(each), each.name, each.driver): 1 for each in reading.devices}
        )

    def _put_node(self, family: str, figures: Mapping[Labels, float | None]) -> None:
        self.columns[family].put_labelled(self._node, _known(figures))

    def _put_workers(self, shares: dict[Worker, _Share]) -> None:
        for worker in self._shares.keys() - shares.keys():
            self._drop(worker)
        for worker, share in shares.items():
            known = self._shares.get(worker)
            if known is None or known.memory != share.memory:
                self._put_memory(worker, share.memory)
            if known is None or known.utilization != share.utilization:
                self._put_utilization(worker, share.utilization)
        self._shares = shares

    def _put_memory(self, worker: Worker, memory: Sequence[tuple[Labels, int, int | None]]) -> None:
        counts = Counter(labels for labels, _, _ in memory)
        sums = _sums((labels, used) for labels, _, used in memory)
        each = {(*labels, str(pid)): used for labels, pid, used in memory}
        self.columns[_PROCESSES].put_labelled(worker, _known(counts))
        self.columns[_MEMORY].put_labelled(worker, _known(sums))
        self.columns[_PROCESS_MEMORY].put_labelled(worker, _known(each))

    def _put_utilization(
        self, worker: Worker, utilization: Sequence[tuple[Labels, float | None]]
    ) -> None:
        self.columns[_UTILIZATION].put_labelled(worker, _known(_sums(utilization)))

    def _drop(self, key: Worker | Unlabelled) -> None:
        for column in self.columns.values():
            column.drop(key)


def _shares(reading: Reading, owners: Mapping[int, Worker | None]) -> dict[Worker, _Share]:
    shares: dict[Worker, _Share] = defaultdict(_Share)
    for device in reading.devices:
        labels = _labels(device)
        for pid, memory, utilization in device.processes or ():
            worker = owners.get(pid)
            if worker is not None:
                share = shares[worker]
                share.memory.append((labels, pid, memory))
                share.utilization.append((labels, utilization))
    return shares


def _unattributed(device: Device, owners: Mapping[int, Worker | None]) -> float | None:
    """What processes outside all workers hold; None where part of that is unknown, as it is of a
    process that /proc does not show.
    """
    if device.processes is None or any(each.pid not in owners for each in device.processes):
        return None
    labels = _labels(device)
    outside = ((labels, used) for pid, used, _ in device.processes if owners[pid] is None)
    return _sums(outside).get(labels, 0)


def _sums(figures: Iterable[tuple[Labels, float | None]]) -> Mapping[Labels, float | None]:
    """The sum of each device; None where one figure is unknown, for part of a sum is wrong."""
    sums: dict[Labels, float | None] = {}
    for labels, figure in figures:
        total = sums.get(labels, 0)
        sums[labels] = None if figure is None or total is None else total + figure
    return sums


def _known(figures: Mapping[Labels, float | None]) -> Samples:
    return {labels: decimal(figure) for labels, figure in figures.items() if figure is not None}


def _labels(device: Device) -> Labels:
    return str(device.index), device.uuid, device.mig

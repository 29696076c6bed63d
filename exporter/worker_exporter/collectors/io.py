"""IO of workers by device: io.stat, with device numbers turned into names."""

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.devices import Devices
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Host, Moment, WorkerCollector, register
from worker_exporter.collectors.smoothing import SmoothedRates, two_decimals

_BY_DEVICE = {
    "worker_io_read_bytes_total": b"rbytes",
    "worker_io_written_bytes_total": b"wbytes",
    "worker_io_reads_total": b"rios",
    "worker_io_writes_total": b"wios",
}
_RATES = {
    "worker_io_read_bytes_per_second": b"rbytes",
    "worker_io_written_bytes_per_second": b"wbytes",
}


@register("io", "bytes and operations by device")
class IoCollector(WorkerCollector):
    """The families of io.stat and the smoothed rates over all devices."""

    def __init__(self, host: Host) -> None:
        super().__init__("io", host)
        self._stat = self.source(
            "io.stat", (*_BY_DEVICE, *_RATES), self._take_stat, self._forget_rates
        )
        self._devices = Devices(host.kernel.sysfs)
        self._workers: set[Worker] = set()
        self._rates = {family: SmoothedRates(host.time_constant) for family in _RATES}
        self._moved: dict[str, dict[Worker, float]] = {}

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        super().add(worker)
        self._workers.add(worker)

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        self._workers.discard(worker)
        self._forget_rates(worker)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        if self._devices.renamed():
            self._read_all_again()
        self._moved = {family: {} for family in _RATES}
        self._stat.collect()
        for family, rates in self._rates.items():
            for worker, rate in rates.look(now.monotonic, self._moved[family]):
                self.columns[family].put(worker, two_decimals(rate))

    def _take_stat(self, worker: Worker, data: bytes) -> None:
        stat = parse.nested_keyed(data)
        devices = {number: self._devices.name(number) for number in stat if stat[number]}
        for family, key in _BY_DEVICE.items():
            self.columns[family].put_labelled(
                worker,
                {
                    (name,): stat[number][key]
                    for number, name in devices.items()
                    if key in stat[number]
                },
            )
        lowest = [number for number in devices if self._devices.is_lowest(number)]
        for family, key in _RATES.items():
            moved = sum(int(stat[number].get(key, 0)) for number in lowest)
            self._moved[family][worker] = float(moved)

    def _forget_rates(self, worker: Worker) -> None:
        for family, rates in self._rates.items():
            rates.forget(worker)
            self._moved.get(family, {}).pop(worker, None)

    def _read_all_again(self) -> None:
        for worker in self._workers:
            self._stat.file.refresh(worker)
            self._forget_rates(worker)

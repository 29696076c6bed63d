"""CPU and memory of the node itself: /proc/stat and /proc/meminfo."""

from worker_exporter.cgroup import procfs
from worker_exporter.collectors.base import Host, Moment, columns_of, register
from worker_exporter.metrics.exposition import Unlabelled, decimal

_MODES = 8
_MEMORY = {
    "worker_node_memory_total_bytes": b"MemTotal:",
    "worker_node_memory_available_bytes": b"MemAvailable:",
}


@register("node", "CPU and memory of the whole node", follows=None)
class NodeCollector:
    """The node's own figures, to hold the workers' against."""

    def __init__(self, host: Host) -> None:
        self.columns = columns_of("node")
        self._procfs = host.kernel.procfs
        self._errors = host.kernel.faults.errors
        self._node = Unlabelled()
        self._ticks: list[int] = [0] * _MODES

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date. Raises OSError or ValueError when /proc cannot be read."""
        for column in self.columns.values():
            column.drop(self._node)
        self._collect_cpu(procfs.read(f"{self._procfs}/stat"))
        self._collect_memory(procfs.read(f"{self._procfs}/meminfo"))

    def _collect_cpu(self, stat: bytes) -> None:
        lines = [line.split() for line in stat.splitlines() if line.startswith(b"cpu")]
        if not stat.endswith(b"\n"):
            raise ValueError("stat is truncated")
        if not lines or lines[0][0] != b"cpu" or len(lines[0]) <= _MODES:
            raise ValueError("no cpu line in stat")
        ticks = self._never_less([int(each) for each in lines[0][1 : _MODES + 1]])
        seconds = [decimal(each / procfs.CLOCK_TICKS) for each in ticks]
        self.columns["worker_node_cpu_seconds_total"].put(self._node, *seconds)
        self.columns["worker_node_cpus"].put(self._node, b"%d" % (len(lines) - 1))

    def _never_less(self, ticks: list[int]) -> list[int]:
        """The kernel takes a little of idle and iowait back now and then, see proc(5). Where user
        time fell all is counted anew.
        """
        if ticks[0] >= self._ticks[0]:
            ticks = list(map(max, ticks, self._ticks))
        self._ticks = ticks
        return ticks

    def _collect_memory(self, meminfo: bytes) -> None:
        fields = {line.split()[0]: line.split() for line in meminfo.splitlines() if line.strip()}
        for family, key in _MEMORY.items():
            if key in fields:
                self.columns[family].put(self._node, b"%d" % (int(fields[key][1]) * 1024))

"""Invented workers for hosts where no cgroup can be made: files like the kernel's, that advance.

Counters only grow and gauges keep their number of digits, so one write in place is always whole
for a reader that keeps the file open.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "simulated_"
"""Before every simulated service's name, so that no dashboard shows it as real."""

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Simulated:
    """An invented worker: its CPU swings between 0 and `cores`, its memory around `mib` MiB."""

    service: str
    instance: str
    pid: int
    cores: float
    mib: int
    period: float
    written_per_second: int = 0


WORKERS = (
    Simulated("llm", "8080", 100001, 0.8, 420, 24.0),
    Simulated("llm", "8081", 100002, 0.5, 410, 60.0),
    Simulated("trainer", "main", 100003, 1.6, 700, 40.0),
    Simulated("ingest", "main", 100004, 0.2, 150, 30.0, 4 * _MIB),
    Simulated("idle", "main", 100005, 0.001, 110, 60.0),
)


class Simulation:
    """A tree of cgroup-like files in `directory`; `arguments` point an exporter at it."""

    def __init__(self, directory: str, slice_name: str) -> None:
        """Write the tree. Raises OSError."""
        self._cgroupfs = f"{directory}/cgroup"
        self._procfs = f"{directory}/proc"
        self._slice = slice_name
        self._start = time.time()
        self.arguments = (f"--path.cgroupfs={self._cgroupfs}", f"--path.procfs={self._procfs}")
        self._write(f"{self._cgroupfs}/cgroup.controllers", "cpu io memory pids\n")
        for worker in WORKERS:
            self._write(f"{self._procfs}/{worker.pid}/stat", self._stat(worker.pid))
        # the node's own figures are the real ones
        for name in ("stat", "meminfo"):
            os.symlink(f"/proc/{name}", f"{self._procfs}/{name}")
        self.advance()

    def advance(self) -> None:
        """Bring every figure to the present."""
        elapsed = time.time() - self._start
        for worker in WORKERS:
            place = f"{self._cgroupfs}/{self._slice}/{PREFIX}{worker.service}/{worker.instance}"
            for name, content in files(worker, elapsed).items():
                self._write(f"{place}/{name}", content)

    def _stat(self, pid: int) -> str:
        """/proc/PID/stat of a process that started with the simulation, in ticks since boot."""
        ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        return f"{pid} (simulated) S {' '.join(['0'] * 18)} {ticks} {' '.join(['0'] * 30)}\n"

    def _write(self, path: str, content: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(descriptor, content.encode(), 0)
        finally:
            os.close(descriptor)


def files(worker: Simulated, elapsed: float) -> Mapping[str, str]:
    """The interface files of `worker`, `elapsed` seconds after its start."""
    turn = 2 * math.pi * elapsed / worker.period
    # the integral of cores * (1 - cos) / 2: it never falls
    cpu = worker.cores * (elapsed - math.sin(turn) * worker.period / (2 * math.pi)) / 2
    memory = int(worker.mib * (1 + 0.05 * math.sin(turn))) * _MIB
    written = int(worker.written_per_second * elapsed)
    return {
        "cgroup.events": "populated 1\nfrozen 0\n",
        "cgroup.procs": f"{worker.pid}\n",
        "cpu.stat": (
            f"usage_usec {int(cpu * 1e6)}\nuser_usec {int(cpu * 0.8e6)}\n"
            f"system_usec {int(cpu * 1e6) - int(cpu * 0.8e6)}\n"
        ),
        "memory.current": f"{memory}\n",
        "memory.stat": f"anon {memory}\nfile 0\nfile_mapped 0\ninactive_file 0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "io.stat": (
            f"8:0 rbytes={written} wbytes={written} rios={written // _MIB}"
            f" wios={written // _MIB} dbytes=0 dios=0\n"
        ),
        "pids.current": "1\n",
        "cpu.pressure": _pressure(cpu * 0.05),
        "memory.pressure": _pressure(0.0),
        "io.pressure": _pressure(written / (100 * _MIB)),
    }


def _pressure(seconds: float) -> str:
    averages = "avg10=0.00 avg60=0.00 avg300=0.00"
    return f"some {averages} total={int(seconds * 1e6)}\nfull {averages} total=0\n"

"""What GPUs add to a scrape: a stand-in for NVIDIA's driver says that the workers hold them."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.nvml.host import made_sysfs
from tests.nvml.standin import MIB, Standin, gpu
from tests.support import running_exporter

from bench.client import Client, FailedScrape, check_gpus
from bench.environment import environment
from bench.process import CpuClock, children
from bench.rounds import Added, measure_gpus
from bench.workers import Workers
from worker_exporter.errors import UserError

GPUS = 8
PROCESSES = 64
"""On each GPU."""

_ALWAYS_NEW = 1 << 60
"""The time of a sample of a process' utilization that is newer than all that were seen."""

_LOG = "NVML_CALLS"
"""Names the stand-in's log, which is no part of what a driver costs."""

_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class WithGpus:
    """What GPUs add under each load; CPU is that of the exporter and of the process that asks the
    driver. `processes` are those on all GPUs together.
    """

    gpus: int
    processes: int
    loads: tuple[Added, ...]


def measure(workers: Workers, nofile: int, rounds: int) -> WithGpus | None:
    """Run an exporter beside the stand-in; None where the workers' cgroups are not the kernel's."""
    if not workers.are_real:
        return None
    pids = _spread(workers)
    with contextlib.ExitStack() as stack:
        flags = stack.enter_context(_driver(pids))
        exporter = stack.enter_context(
            running_exporter(*workers.flags, *flags, "--no-collector.units", nofile=nofile)
        )
        client = stack.enter_context(contextlib.closing(Client(exporter.host, exporter.port)))
        _wait_for_all(client, len(pids))
        (helper,) = children(exporter.pid)
        clock = CpuClock(exporter.pid, helper)
        loads = tuple(
            measure_gpus(client, clock, wake, rounds, len(pids)) for wake in (None, workers.wake)
        )
    return WithGpus(GPUS, len(pids), loads)


def _spread(workers: Workers) -> Sequence[int]:
    """The PIDs of as many workers as hold GPUs, of all services alike."""
    step = max(1, len(workers.directories) // (GPUS * PROCESSES))
    chosen = workers.directories[::step][: GPUS * PROCESSES]
    return [int(Path(each, "cgroup.procs").read_text()) for each in chosen]


@contextlib.contextmanager
def _driver(pids: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """The stand-in as the driver of what is started meanwhile with these flags.

    Raises UserError when it cannot be built.
    """
    if shutil.which("gcc") is None:
        raise UserError("gcc is not installed; install it (apt-get install gcc libc6-dev)")
    with tempfile.TemporaryDirectory(prefix="gpus-") as folder:
        root = Path(folder)
        standin = Standin(root)
        standin.is_now("driver 550.54.15", *(_gpu(index, pids) for index in range(GPUS)))
        names = {name: value for name, value in standin.environment.items() if name != _LOG}
        with environment(names):
            yield (f"--path.sysfs={made_sysfs(root / 'sys')}",)


def _gpu(index: int, pids: Sequence[int]) -> str:
    held = {pid: (100 + number) * MIB for number, pid in enumerate(pids[index::GPUS])}
    uses = (f"sample {pid} {_ALWAYS_NEW} {number % 101}" for number, pid in enumerate(held))
    return gpu(index, "moving", *uses, compute=held)


def _wait_for_all(client: Client, processes: int) -> None:
    """Scrape until the driver answers. Raises FailedScrape in the end."""
    start = time.perf_counter()
    while True:
        try:
            return check_gpus(client.scrape(), processes)
        except FailedScrape:
            if time.perf_counter() - start > _PATIENCE:
                raise

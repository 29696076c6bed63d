"""Whose processes hold GPUs: real ones in real cgroups, and a stand-in for NVIDIA's library.

The exporter runs as a process of its own and is asked over HTTP.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.nvml.host import made_procfs, made_sysfs
from tests.nvml.standin import GIB, Standin, gpu
from tests.real.cgroup_support import PATIENCE, Process
from tests.support import RunningExporter, join, running_exporter
from tests.unit.gpu_support import load, unkillable, until

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
SLICE = f"gputest{os.getpid()}.slice"
FINE = 'worker_exporter_collector_success{collector="gpu"}'
USED = "worker_gpu_memory_used_bytes"
OUTSIDE = 'worker_node_gpu_unattributed_memory_bytes{gpu="0",uuid="GPU-00000000"}'
ALWAYS_NEW = 1 << 60
"""The time of a sample that is newer than all that were seen."""

INIT = "nvmlInitWithFlags"
CALLS = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
)

Start = Callable[[str], Process]
Samples = Mapping[str, float]


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """The driver of the exporters that the test starts."""
    made = Standin(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@contextlib.contextmanager
def running(place: Path, standin: Standin, *flags: str) -> Iterator[RunningExporter]:
    """An exporter of the workers in `place`, on a host with a driver unless `flags` say otherwise;
    it asks no systemd.
    """
    if not flags:
        flags = (f"--path.sysfs={made_sysfs(standin.directory / 'sys')}",)
    with running_exporter(f"--worker.slice={place.name}", "--no-collector.units", *flags) as found:
        yield found


@pytest.fixture
def exporter(place: Path, standin: Standin) -> Iterator[RunningExporter]:
    """An exporter that the driver has answered."""
    standin.is_now(gpu(0))
    with running(place, standin) as found:
        until(lambda: scrape(found)[FINE] == 1)
        yield found


def scrape(exporter: RunningExporter, query: str = "") -> Samples:
    """All samples of one scrape."""
    url = f"http://{exporter.host}:{exporter.port}/metrics{query}"
    with urllib.request.urlopen(url, timeout=PATIENCE / 1000) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    assert len({name for name, _, _ in pairs}) == len(pairs), "each sample is there once"
    return {name: float(value) for name, _, value in pairs}


def shares(samples: Samples) -> Samples:
    """What workers have of GPUs."""
    return {name: value for name, value in samples.items() if name.startswith("worker_gpu_")}


def of_worker(instance: str, index: int = 0, pid: int | None = None) -> str:
    """The labels of a worker's sample."""
    process = "" if pid is None else f',pid="{pid}"'
    device = f'gpu="{index}",uuid="GPU-{index:08x}"'
    return f'{{service="llm",instance="{instance}",{device}{process}}}'


def test_figures_of_workers(standin: Standin, start: Start, place: Path) -> None:
    first, nested, second = start("llm/8080"), start("llm/8080/runner/1"), start("llm/8081")
    start("llm/8082")
    held = {first.pid: 2 * GIB, nested.pid: GIB, second.pid: 512, os.getpid(): 1000}
    standin.is_now(
        gpu(
            0,
            f"graphics {first.pid} {2 * GIB}",
            f"sample {nested.pid} {ALWAYS_NEW} 25",
            f"sample {second.pid} {ALWAYS_NEW} 50",
            compute=held,
        ),
        gpu(1, f"graphics {first.pid} -", compute={second.pid: 7}),
    )
    with running(place, standin) as exporter:
        until(lambda: scrape(exporter)[FINE] == 1)
        samples = scrape(exporter)
    memory = "worker_gpu_process_memory_used_bytes"
    assert shares(samples) == {
        f"{USED}{of_worker('8080')}": 3 * GIB,
        f"{USED}{of_worker('8081')}": 512,
        f"{USED}{of_worker('8081', 1)}": 7,
        f"worker_gpu_utilization_ratio{of_worker('8080')}": 0.25,
        f"worker_gpu_utilization_ratio{of_worker('8081')}": 0.5,
        f"worker_gpu_utilization_ratio{of_worker('8080', 1)}": 0,
        f"worker_gpu_utilization_ratio{of_worker('8081', 1)}": 0,
        f"worker_gpu_processes{of_worker('8080')}": 2,
        f"worker_gpu_processes{of_worker('8081')}": 1,
        f"worker_gpu_processes{of_worker('8080', 1)}": 1,
        f"worker_gpu_processes{of_worker('8081', 1)}": 1,
        f"{memory}{of_worker('8080', 0, first.pid)}": 2 * GIB,
        f"{memory}{of_worker('8080', 0, nested.pid)}": GIB,
        f"{memory}{of_worker('8081', 0, second.pid)}": 512,
        f"{memory}{of_worker('8081', 1, second.pid)}": 7,
    }
    assert samples[OUTSIDE] == 1000


def test_one_figure_changes_and_another_does_not(
    exporter: RunningExporter, standin: Standin, start: Start
) -> None:
    process = start("llm/8080")
    for percent, held in ((25, GIB), (75, GIB), (75, 2 * GIB), (0, 2 * GIB)):
        sample = f"sample {process.pid} {ALWAYS_NEW} {percent}"
        standin.is_now(gpu(0, sample, compute={process.pid: held}))
        samples = scrape(exporter)
        assert samples[f"worker_gpu_utilization_ratio{of_worker('8080')}"] == percent / 100
        assert samples[USED + of_worker("8080")] == held


def test_a_worker_that_is_killed_holds_nothing_at_the_next_scrape(
    exporter: RunningExporter, standin: Standin, start: Start, place: Path
) -> None:
    gone, stays = start("llm/8080"), start("llm/8081")
    standin.is_now(gpu(0, compute={gone.pid: GIB, stays.pid: 3}))
    assert scrape(exporter)[USED + of_worker("8080")] == GIB
    gone.process.kill()
    gone.process.wait()
    # The driver still names it.
    samples = scrape(exporter)
    assert samples[USED + of_worker("8081")] == 3
    assert not [name for name in shares(samples) if 'instance="8080"' in name]
    assert OUTSIDE not in samples, "whether it was hidden or has ended is not known yet"
    assert (samples[FINE], samples['worker_up{service="llm",instance="8080"}']) == (1, 0)
    standin.is_now(gpu(0, compute={stays.pid: 3}))
    (place / "llm/8080").rmdir()
    samples = scrape(exporter)
    assert samples[OUTSIDE] == 0
    assert not [name for name in samples if 'instance="8080"' in name]
    assert samples[FINE] == 1


def test_what_a_zombie_of_a_removed_worker_holds_is_nobodys(
    exporter: RunningExporter, standin: Standin, start: Start, place: Path
) -> None:
    process = start("llm/8080")
    standin.is_now(gpu(0, compute={process.pid: GIB}))
    assert scrape(exporter)[USED + of_worker("8080")] == GIB
    process.process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert scrape(exporter)[USED + of_worker("8080")] == GIB
    (place / "llm/8080").rmdir()
    samples = scrape(exporter)
    assert not shares(samples)
    assert samples[OUTSIDE] == GIB


@pytest.mark.parametrize("query", ["", "?collect[]=gpu"])
def test_a_process_that_moves_takes_its_memory_along(
    exporter: RunningExporter, standin: Standin, start: Start, place: Path, query: str
) -> None:
    process, other = start("llm/8080"), start("llm/8081")
    (place / "llm/8081/runner").mkdir()
    standin.is_now(gpu(0, compute={process.pid: GIB, other.pid: 3}))
    assert scrape(exporter)[USED + of_worker("8080")] == GIB
    join(str(place / "llm/8081/runner"), process.pid)
    samples = scrape(exporter, query)
    assert samples[USED + of_worker("8081")] == GIB + 3
    assert not [name for name in shares(samples) if 'instance="8080"' in name]
    join(str(place.parent), process.pid)
    samples = scrape(exporter, query)
    assert samples[USED + of_worker("8081")] == 3
    assert samples[OUTSIDE] == GIB
    join(str(place / "llm/8080"), process.pid)
    assert scrape(exporter, query)[USED + of_worker("8080")] == GIB


def test_processes_that_end_and_others_with_new_pids(
    exporter: RunningExporter, standin: Standin, start: Start
) -> None:
    for _ in range(3):
        process = start("llm/8080")
        standin.is_now(gpu(0, compute={process.pid: GIB}))
        each = {name for name in shares(scrape(exporter)) if 'pid="' in name}
        name = f"worker_gpu_process_memory_used_bytes{of_worker('8080', 0, process.pid)}"
        assert each == {name}
        process.end()


def test_a_process_that_is_not_in_proc_is_said_once(
    exporter: RunningExporter, standin: Standin, start: Start
) -> None:
    process = start("llm/8080")
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 7
    standin.is_now(gpu(0, compute={process.pid: GIB, beyond: 3}))
    for fine in (1, 0, 0):
        samples = scrape(exporter)
        assert samples[FINE] == fine
        assert samples[USED + of_worker("8080")] == GIB
    assert OUTSIDE not in samples
    assert len([line for line in exporter.log if "/proc does not show" in line]) == 1


# A driver that hangs.


def others(samples: Samples) -> set[str]:
    """The samples that no GPU is in."""
    return {name for name in samples if not re.match("worker_(node_)?gpu_", name)}


def succeeded(samples: Samples) -> Samples:
    """Which collectors did all their work."""
    return {name: each for name, each in samples.items() if "collector_success" in name}


def is_hanging_in(standin: Standin, function: str) -> bool:
    """Whether the last call is of a function that never returns."""
    return bool(standin.calls) and standin.calls[-1][1] == function


def check_hung(exporter: RunningExporter, standin: Standin, function: str, whole: Samples) -> None:
    """See that scrapes are `whole` but for GPUs while `function` hangs."""
    for _ in range(3):
        samples = scrape(exporter)
        assert others(samples) == others(whole)
        assert samples.keys() == others(samples), "nothing old is told of GPUs"
        assert succeeded(samples) == {**succeeded(whole), FINE: 0}
    until(lambda: is_hanging_in(standin, function))


@pytest.fixture
def well(start: Start, standin: Standin) -> str:
    """The lines of a driver that works, and of which a worker holds a GPU."""
    process = start("llm/8080")
    return gpu(0, f"sample {process.pid} {ALWAYS_NEW} 25", compute={process.pid: GIB})


def look_twice(exporter: RunningExporter) -> Samples:
    """A scrape, after one that smoothed figures need."""
    scrape(exporter)
    return scrape(exporter)


@pytest.mark.parametrize("function", CALLS)
def test_a_call_that_hangs_costs_what_it_is_for(
    exporter: RunningExporter, standin: Standin, well: str, function: str
) -> None:
    standin.is_now(well)
    whole = look_twice(exporter)
    assert whole[USED + of_worker("8080")] == GIB
    assert set(succeeded(whole).values()) == {1}
    standin.is_now(f"hang {function}", well)
    check_hung(exporter, standin, function, whole)
    standin.is_now(well)
    until(lambda: scrape(exporter)[FINE] == 1)
    again = scrape(exporter)
    assert again.keys() == whole.keys()
    assert shares(again) == shares(whole)


def test_a_driver_that_hangs_from_the_beginning(place: Path, standin: Standin, well: str) -> None:
    standin.is_now(f"hang {INIT}", well)
    with running(place, standin) as exporter:
        hung = look_twice(exporter)
        check_hung(exporter, standin, INIT, {**hung, FINE: 1})
        standin.is_now(well)
        until(lambda: scrape(exporter)[FINE] == 1)
        samples = scrape(exporter)
        assert others(samples) == others(hung)
        assert samples[USED + of_worker("8080")] == GIB


@pytest.mark.parametrize("function", [INIT, *CALLS])
def test_it_stops_while_a_call_hangs(
    place: Path, standin: Standin, well: str, function: str
) -> None:
    standin.is_now(f"hang {function}", well)
    with running(place, standin) as exporter:
        assert scrape(exporter)[FINE] == 0
        until(lambda: is_hanging_in(standin, function))
        with unkillable(standin.pids[-1]):
            stop(exporter)


def stop(exporter: RunningExporter) -> None:
    """Have it end, and see that nobody holds its port any more."""
    with contextlib.closing(_Handle(exporter.pid)) as handle:
        begin = time.monotonic()
        os.kill(exporter.pid, signal.SIGTERM)
        handle.wait()
        print(f"the exporter ended {time.monotonic() - begin:.3f} s after SIGTERM")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((exporter.host, exporter.port))
        listener.listen()


class _Handle:
    """A process whose end can be waited for though somebody else buries it."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def wait(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(PATIENCE), "it does not end"

    def close(self) -> None:
        os.close(self._descriptor)


# A driver that comes later.


def test_a_driver_that_is_loaded_later(place: Path, standin: Standin, well: str) -> None:
    procfs = made_procfs(standin.directory / "proc")
    (standin.directory / "sys").mkdir()
    flags = (f"--path.procfs={procfs}", f"--path.sysfs={standin.directory}/sys")
    with running(place, standin, *flags) as each:
        samples = scrape(each)
        assert others(samples) == samples.keys()
        assert samples[FINE] == 1
        standin.is_now(well)
        load(standin.directory)
        until(lambda: bool(shares(scrape(each))))
        assert scrape(each)[USED + of_worker("8080")] == GIB


# What a real driver answers becomes a scenario.


def test_what_is_captured_of_a_driver_is_its_scenario(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_SCENARIO", str(GOLDEN / "gpu.nvml"))
    first = captured()
    assert "compute 302 -" in first and "mig 5 0" in first
    standin.is_now(*first)
    monkeypatch.setenv("NVML_SCENARIO", standin.environment["NVML_SCENARIO"])
    assert captured() == first


def captured() -> list[str]:
    """What tests/gpu/capture.py prints."""
    command = (sys.executable, "-m", "tests.gpu.capture")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()

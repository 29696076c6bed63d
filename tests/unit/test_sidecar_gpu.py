"""Which GPU a worker gets: a real process that asks a stand-in for the driver's library."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools import require

from worker_sidecar import gpu
from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.gpu import GpuState, NoDriverError, choose, inventory
from worker_sidecar.launch.launcher import Gpu

MIB = 1 << 20
SOON = 0.5
"""Seconds until a driver that hangs for sure is given up."""

LONG = 60.0
"""Seconds until a test that goes wrong ends."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the stand-in."""
    directory = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    target = directory / "libnvidia-ml.so.1"
    compiler = require("gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", target, source], check=True)
    return directory


class Host:
    """What the stand-in makes of this host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
        self._monkeypatch = monkeypatch
        self.lock = run_dir / "gpu.lock"
        self.calls = run_dir / "calls"

    def has(self, gpus: str) -> None:
        """Give it these GPUs."""
        self._monkeypatch.setenv("NVML_GPUS", gpus)

    def answers(self, init: str) -> None:
        """Let the driver answer so when it is initialised."""
        self._monkeypatch.setenv("NVML_INIT", init)

    @property
    def asked(self) -> list[int]:
        """The processes that asked the driver."""
        return (
            [int(line) for line in self.calls.read_text().split()] if self.calls.is_file() else []
        )


@pytest.fixture
def host(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("NVML_CALLS", str(tmp_path / "calls"))
    made = Host(monkeypatch, tmp_path)
    yield made
    for pid in made.asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_inventory_is_what_the_driver_says(host: Host) -> None:
    host.has("100/1000 lost -  300/400:2")
    assert inventory() == [
        GpuState(0, "GPU-00", "Test GPU", 100 * MIB, 1000 * MIB),
        GpuState(2, "GPU-02", "Test GPU", None, None),
        GpuState(3, "MIG-03-0", "Test GPU MIG 1g", 300 * MIB, 400 * MIB),
        GpuState(3, "MIG-03-1", "Test GPU MIG 1g", 301 * MIB, 400 * MIB),
    ]


@pytest.mark.parametrize(
    ("gpus", "wanted", "found"),
    [
        ("100/1000 900/1000 500/1000", "auto", [Gpu(1, "GPU-01")]),
        ("7/8", "auto", [Gpu(0, "GPU-00")]),
        ("- -", "auto", [Gpu(0, "GPU-00")]),
        ("- 5/9", "auto", [Gpu(1, "GPU-01")]),
        ("lost 5/9", "auto", [Gpu(1, "GPU-01")]),
        ("100/400:3 90/400", "auto", [Gpu(0, "MIG-00-2")]),
        ("100/1000 900/1000", "0", [Gpu(0, "GPU-00")]),
        ("1/1 1/1 1/1", "2,0", [Gpu(2, "GPU-02"), Gpu(0, "GPU-00")]),
        ("1/1 1/1", "GPU-01", [Gpu(1, "GPU-01")]),
        ("1/1 1/1:2", "GPU-00,MIG-01-1", [Gpu(0, "GPU-00"), Gpu(1, "MIG-01-1")]),
    ],
)
def test_what_is_wanted_is_found(host: Host, gpus: str, wanted: str, found: list[Gpu]) -> None:
    host.has(gpus)
    assert list(choose(wanted)) == found


@pytest.mark.parametrize(
    ("gpus", "taken", "found"),
    [
        ("900/1000 900/1000", [0], 1),
        ("900/1000 910/1000", [1], 0),
        ("900/1000 900/1000 900/1000", [0, 0, 1, 2, 2], 1),
        ("500/1000 900/1000", [1], 1),
        ("900/1000 900/1000", [0, 1], 0),
    ],
)
def test_of_gpus_with_as_much_memory_the_one_with_fewest_workers_wins(
    host: Host, gpus: str, taken: list[int], found: int
) -> None:
    host.has(gpus)
    assert choose("auto", taken)[0].index == found


@pytest.mark.parametrize(
    ("gpus", "wanted", "said"),
    [
        ("1/1 1/1", "2", "there is no GPU 2; there are 0 (GPU-00), 1 (GPU-01)"),
        ("1/1", "0,7", "there is no GPU 7; there are 0 (GPU-00)"),
        ("1/1", "GPU-ff", "there is no GPU GPU-ff; there are 0 (GPU-00)"),
        ("1/1 1/1:1", "MIG-ff", "there is no GPU MIG-ff; there are 0 (GPU-00), MIG-01-0"),
        ("1/1:2", "0", "GPU 0 is divided by MIG; name a part of it: MIG-00-0, MIG-00-1"),
        ("1/1", "0,GPU-00", "gpu 0,GPU-00 names one GPU twice"),
        ("", "auto", "gpu auto was asked for, but the driver has no GPU; leave gpu out"),
        ("lost", "0", "gpu 0 was asked for, but the driver has no GPU; leave gpu out"),
    ],
)
def test_gpus_that_are_not_there(host: Host, gpus: str, wanted: str, said: str) -> None:
    host.has(gpus)
    with pytest.raises(InputError) as caught:
        choose(wanted)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "wanted",
    ["", "first", "-1", "0,", "0,0", "00", "1e3", "all", "GPU-", "GPU-a;b", "auto,0", "0 "],
)
def test_words_that_name_no_gpu_reach_no_driver(host: Host, wanted: str) -> None:
    with pytest.raises(InputError, match="gpu "):
        choose(wanted)
    assert host.asked == []


def test_without_a_driver_there_is_one_clear_line(tmp_path: Path, host: Host) -> None:
    host.answers("9")
    with pytest.raises(
        NoDriverError, match=r"there is no NVIDIA driver here \(Driver Not Loaded\)"
    ):
        inventory()
    with pytest.raises(InputError) as caught:
        choose("auto")
    assert str(caught.value) == (
        "gpu auto was asked for, but there is no NVIDIA driver here (Driver Not Loaded);"
        " install it, or leave gpu out"
    )


def test_a_driver_that_fails_says_why(host: Host) -> None:
    host.answers("999")
    with pytest.raises(InputOutputError, match="the NVIDIA driver failed: Unknown Error; see nvid"):
        choose("auto")


def test_a_driver_that_crashes_takes_only_its_own_process_along(host: Host) -> None:
    host.answers("crash")
    with pytest.raises(InputOutputError, match="ended with exit code -6 and no answer"):
        choose("auto")


def test_a_driver_that_hangs_is_left_behind(host: Host) -> None:
    host.answers("hang")
    before = children()
    with pytest.raises(InputOutputError) as caught:
        choose("auto", patience=SOON)
    assert str(caught.value) == (
        "the NVIDIA driver did not answer within 0.5 s; see nvidia-smi and dmesg"
    )
    assert children() == before


def test_while_one_question_hangs_no_second_one_is_asked(host: Host) -> None:
    host.answers("hang")
    os.mkfifo(host.calls)
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(refused(LONG)))
    first.start()
    with host.calls.open() as calls:
        stuck = int(calls.readline())
    try:
        assert "an earlier question to the NVIDIA driver has no answer after 0.5 s" in refused(SOON)
    finally:
        os.kill(stuck, signal.SIGKILL)
        first.join()
    assert "ended with exit code -9 and no answer" in said[0]


def children() -> set[str]:
    """The processes that this thread has started and not buried."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def refused(patience: float) -> str:
    """What is said to a question that gets no answer."""
    with pytest.raises(InputOutputError) as caught:
        inventory(patience)
    return str(caught.value)


def test_simultaneous_questions_all_get_their_answer(host: Host) -> None:
    host.has("1/1")
    found: list[tuple[Gpu, ...]] = []
    threads = [threading.Thread(target=lambda: found.append(choose("0"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(Gpu(0, "GPU-00"),)] * 5


def test_a_place_where_no_lock_can_be_is_one_clear_line(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/dev/null/x")
    with pytest.raises(
        InputOutputError, match=r"^/dev/null/x/gpu\.lock cannot be opened: Not a di"
    ):
        inventory()


def test_the_lock_is_let_go(host: Host) -> None:
    host.has("1/1")
    inventory()
    with host.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_the_package_offers() -> None:
    assert {"choose", "inventory", "GpuState", "NoDriverError"} == set(gpu.__all__)

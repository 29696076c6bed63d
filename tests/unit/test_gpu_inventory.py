"""All devices read once, by a real process that asks a stand-in for the driver."""

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.nvml.standin import GIB, Standin, divided_gpu, gpu, part
from tests.unit import gpu_support
from tests.unit.gpu_support import PATIENCE, children, descriptors, is_alive, until

from worker_exporter.gpu.device import Reading
from worker_exporter.gpu.inventory import DriverError, NoAnswerError, NoDriverError, inventory


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    return gpu_support.host(tmp_path, monkeypatch)


def read(standin: Standin, patience: float = PATIENCE) -> Reading:
    """The inventory of this host."""
    return inventory(patience, f"{standin.directory}/sys")


def test_it_is_what_the_driver_says(standin: Standin) -> None:
    standin.is_now(gpu(0, used=3), divided_gpu(1, part(1, used=4)))
    before = children(), descriptors()
    devices = read(standin).devices
    assert [(device.index, device.uuid, device.mig) for device in devices] == [
        (0, "GPU-00000000", ""),
        (1, "GPU-00000001", ""),
        (1, "MIG-1-0", "1/0"),
    ]
    assert [device.memory_used_bytes for device in devices] == [3, None, 4]
    assert [device.memory_total_bytes for device in devices] == [80 * GIB, None, 10 * GIB]
    until(lambda: not is_alive(standin.pids[0]))
    assert (children(), descriptors()) == before


def test_a_driver_without_devices_is_no_error(standin: Standin) -> None:
    standin.is_now("driver 1")
    assert read(standin) == Reading()


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("return nvmlInitWithFlags 9", NoDriverError, "Driver Not Loaded"),
        ("return nvmlInitWithFlags 12", NoDriverError, "NVML Shared Library Not Found"),
        (
            "return nvmlInitWithFlags 999",
            DriverError,
            "NVIDIA's driver cannot be used: Unknown Error",
        ),
        (
            "crash nvmlInitWithFlags",
            DriverError,
            r"asking GPU drivers failed: the process that asks was ended by signal 6 \(Aborted\)",
        ),
        ("hang nvmlInitWithFlags", NoAnswerError, ""),
        ("hang nvmlDeviceGetName", NoAnswerError, ""),
    ],
)
def test_each_failure_has_its_error(
    standin: Standin, line: str, error: type[Exception], text: str
) -> None:
    standin.is_now(line, gpu(0))
    before = children(), descriptors()
    with pytest.raises(error, match=f"^{text}$"):
        read(standin, 1.0 if error is NoAnswerError else PATIENCE)
    until(lambda: (children(), descriptors()) == before)


def test_no_library_is_no_driver(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")
    with pytest.raises(NoDriverError, match=r"^NVML Shared Library Not Found$"):
        read(standin)


def test_the_process_holds_descriptors_until_it_ends(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.is_now("hang nvmlInitWithFlags", gpu(0))
    with (standin.directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with monkeypatch.context() as unkillable:
            unkillable.setattr(subprocess.Popen, "kill", lambda self: None)
            with pytest.raises(NoAnswerError):
                inventory(1.0, f"{standin.directory}/sys", (lock.fileno(),))
    with (standin.directory / "lock").open("w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        until(lambda: bool(standin.pids))
        [stuck] = standin.pids
        os.kill(stuck, signal.SIGKILL)
        os.waitpid(stuck, 0)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_process_runs_the_code_of_this_one(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pynvml.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("lib")
    with pytest.raises(DriverError, match="ended with exit code 7"):
        inventory(PATIENCE, str(tmp_path / "sys"))

"""The helper process by itself: when it ends, and what it says of two kinds of devices."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.nvml.standin import Standin, gpu
from tests.unit import gpu_support
from tests.unit.gpu_support import PATIENCE, is_alive, is_over, until

from worker_exporter.gpu import amdgpu, helper, nvml
from worker_exporter.gpu.device import AMD, Device, Process, Reading
from worker_exporter.gpu.wire import Answer, decode, encode

COMMAND = (sys.executable, "-P", "-m", "worker_exporter.gpu.helper")


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    made = gpu_support.host(tmp_path, monkeypatch)
    made.is_now(gpu(0))
    return made


def test_a_line_is_a_question_and_the_end_of_input_the_end(standin: Standin) -> None:
    done = subprocess.run(
        [*COMMAND, f"{standin.directory}/sys"],
        input=b"\n\n",
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    answers = [decode(line + b"\n") for line in done.stdout.splitlines()]
    assert [len(answer.reading.devices) for answer in answers] == [1, 1]


def test_nothing_is_initialised_before_the_first_question(standin: Standin) -> None:
    subprocess.run([*COMMAND, "/sys"], stdin=subprocess.DEVNULL, timeout=PATIENCE, check=True)
    assert standin.calls == []


def test_it_does_not_wait_for_the_drivers_own_shutdown(standin: Standin) -> None:
    standin.is_now("hang nvmlShutdown", gpu(0))
    subprocess.run(
        [*COMMAND, "/sys"],
        input=b"\n",
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    assert standin.calls


IMPATIENT = (
    *(sys.executable, "-P", "-c"),
    "from worker_exporter.gpu import helper; helper._RENEWAL = 0.0; helper.main()",
)


@pytest.mark.parametrize(
    ("command", "lines", "answers"),
    [
        (COMMAND, ["return nvmlInitWithFlags 18", gpu(0)], 3),
        (IMPATIENT, ["return nvmlInitWithFlags 18", gpu(0)], 1),
        (IMPATIENT, [gpu(0)], 3),
    ],
)
def test_a_driver_that_fails_does_not_cost_a_process_each_time(
    standin: Standin, command: Sequence[str], lines: Sequence[str], answers: int
) -> None:
    standin.is_now(*lines)
    # A fresh process does not have the questions that the one before has read.
    done = subprocess.run(
        [*command, f"{standin.directory}/sys"],
        input=b"\n\n\n",
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    assert len(done.stdout.splitlines()) == answers


PARENT = """
import sys, time
from worker_exporter.gpu.asking import Gpus
gpus = Gpus(sys.argv[1], sys.argv[2], 0.0)
gpus.ask()
print(gpus._helper.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("line", ["", "hang nvmlInitWithFlags", "hang nvmlDeviceGetMigMode"])
def test_it_dies_with_its_parent_whatever_it_does(standin: Standin, line: str) -> None:
    standin.is_now(line, gpu(0))
    directory = standin.directory
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{directory}/proc", f"{directory}/sys"],
        stdout=subprocess.PIPE,
    ) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            wanted = line.partition(" ")[2]
            until(lambda: bool(standin.calls) and wanted in standin.calls[-1][1])
            assert is_alive(child)
        finally:
            parent.kill()
    until(lambda: is_over(child))


def test_it_ends_when_its_parent_is_another_one(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(reading, 0)
        parents = iter((5, 6))
        monkeypatch.setattr(os, "getppid", lambda: next(parents))
        monkeypatch.setattr(sys, "argv", ["helper", "/sys"])
        monkeypatch.setattr(sys, "stdin", os.fdopen(0))
        monkeypatch.setattr(helper, "_own_answers", io.BytesIO)
        helper.main()
    try:
        os.write(writing, b"\n")
        until(lambda: is_over(pid))
    finally:
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0) == (pid, 0)
        os.close(reading)
        os.close(writing)


CARD = Device(0, "GPU-amd", vendor=AMD)


def say(monkeypatch: pytest.MonkeyPatch, nvidia: object, amd: object) -> Answer:
    """The answer where the two kinds have these devices, or raise these errors."""

    def devices(told: object) -> tuple[list[Device], list[str]]:
        if isinstance(told, Exception):
            raise told
        assert isinstance(told, list)
        return told, [f"fault of {len(told)}"]

    monkeypatch.setattr(nvml.Nvidia, "devices", lambda self: devices(nvidia))
    monkeypatch.setattr(amdgpu, "devices", lambda sysfs: devices(amd))
    return helper._answer(nvml.Nvidia(), "/sys")


def test_both_kinds_are_in_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Device(0, "GPU-nvidia")
    assert say(monkeypatch, [other], [CARD]) == Answer(
        Reading((other, CARD), ("fault of 1", "fault of 1"))
    )


@pytest.mark.parametrize(
    ("error", "absent", "failed"),
    [
        (nvml.AbsentError("none"), "none", ""),
        (nvml.FailedError("broken"), "", "broken"),
        (ZeroDivisionError("oh"), "", "ZeroDivisionError: oh in test_gpu_helper.py"),
    ],
)
def test_amd_is_whole_without_nvidia(
    monkeypatch: pytest.MonkeyPatch, error: Exception, absent: str, failed: str
) -> None:
    answer = say(monkeypatch, error, [CARD])
    assert answer.reading == Reading((CARD,), ("fault of 1",))
    assert answer.absent == absent
    assert answer.failed.startswith(failed)
    assert bool(answer.failed) == bool(failed)


def test_nvidia_is_whole_without_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Device(0, "GPU-nvidia")
    reading = say(monkeypatch, [other], OSError(5, "Input/output error")).reading
    assert reading.devices == (other,)
    assert reading.faults[0] == "fault of 1"
    assert reading.faults[1].startswith(
        "reading AMD's devices failed: OSError: [Errno 5] Input/output error in test_gpu_helper.py"
    )


def test_an_answer_arrives_as_it_was() -> None:
    devices = (
        Device(0, "GPU-1", processes=(Process(1, None, None), Process(2, 2**63, 0.5))),
        Device(1, "GPU-2", "1/0", "né", "5", 1, 2, 0.1, 2.0, 3.0, 4.0, processes=None, vendor=AMD),
        Device(2, ""),
    )
    answer = Answer(Reading(devices, ("a", "b\nc")), "absent", "failed")
    line = encode(answer)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == answer


@pytest.mark.parametrize(
    "line", [b"", b"\xff", b"{}", b"[]", b"[1,2,3,4]", b'[[[]],[],"",""]', b'[[5],[],"",""]']
)
def test_what_is_no_answer_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_killed_by_a_signal_it_is_gone(standin: Standin) -> None:
    with subprocess.Popen([*COMMAND, "/sys"], stdin=subprocess.PIPE) as process:
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM

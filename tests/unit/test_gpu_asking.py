"""A real helper process whose driver answers, hangs, crashes and comes back."""

import logging
import math
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nvml.standin import GIB, Standin, gpu, library
from tests.unit import gpu_support
from tests.unit.gpu_support import PATIENCE, children, descriptors, is_alive, until

from worker_exporter import backoff
from worker_exporter.backoff import Backoff
from worker_exporter.gpu import asking
from worker_exporter.gpu.asking import Gpus
from worker_exporter.gpu.device import Process, Reading
from worker_exporter.gpu.process import Helper
from worker_exporter.gpu.wire import Answer

SOON = 0.1
"""Seconds that a driver which hangs for sure is waited for."""

CALLS = (
    "nvmlInitWithFlags",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
)
"""All that are made of a GPU that is not divided, in their order."""

WELL = gpu(0, compute={1: GIB})


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    made = gpu_support.host(tmp_path, monkeypatch)
    made.is_now(WELL)
    return made


@pytest.fixture
def gpus(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Gpus]:
    """Waits as long as it takes; an answer that comes at all is in time."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("worker_exporter.backoff._FIRST", 0.01)
    gpus = Gpus(f"{standin.directory}/proc", f"{standin.directory}/sys", PATIENCE)
    gpus._in_vain = Backoff(lambda: math.inf)
    yield gpus
    until(lambda: are_buried(gpus, standin.pids))


def scraped(gpus: Gpus) -> Reading | None:
    """One scrape."""
    gpus.ask()
    return gpus.reading()


def well(gpus: Gpus) -> Reading:
    """The reading of a scrape that has one."""
    reading = scraped(gpus)
    assert reading is not None
    return reading


def pid_of(gpus: Gpus) -> int:
    """The process that asks."""
    assert gpus._helper is not None
    return gpus._helper.pid


def are_buried(gpus: Gpus, pids: list[int]) -> bool:
    """Whether nothing is left of these processes, now that nobody asks any more."""
    gpus.close()
    return not any(map(is_alive, pids))


def be_impatient(gpus: Gpus) -> None:
    """What does not answer soon has missed its scrape."""
    gpus._patience = gpus._wanted_within = SOON


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What was logged at this level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_reading_is_what_the_driver_says_now(standin: Standin, gpus: Gpus) -> None:
    [device] = well(gpus).devices
    assert (device.uuid, device.memory_used_bytes) == ("GPU-00000000", 10 * GIB)
    assert device.processes == (Process(1, GIB, 0.0),)
    standin.is_now(gpu(0, used=5))
    assert [device.memory_used_bytes for device in well(gpus).devices] == [5]


def test_one_process_answers_all_questions(standin: Standin, gpus: Gpus) -> None:
    for _ in range(5):
        well(gpus)
    assert len(standin.pids) == 1
    functions = [function for _, function in standin.calls]
    assert functions[: len(CALLS)] == list(CALLS)
    assert functions.count("nvmlInitWithFlags") == 1


def test_a_reading_is_there_as_often_as_it_is_read(gpus: Gpus) -> None:
    first = well(gpus)
    assert gpus.reading() is first


def test_without_a_driver_nothing_is_started(standin: Standin, gpus: Gpus) -> None:
    (standin.directory / "proc/driver/nvidia/version").unlink()
    before = children()
    assert scraped(gpus) == Reading()
    assert children() == before
    assert standin.calls == []


def test_a_driver_that_is_loaded_later_is_found(standin: Standin, gpus: Gpus) -> None:
    (standin.directory / "proc/driver/nvidia/version").unlink()
    assert scraped(gpus) == Reading()
    gpu_support.load(standin.directory)
    assert len(well(gpus).devices) == 1


@pytest.mark.parametrize(
    "sign", ["class/kfd/kfd/proc/", "class/drm/card1/device/mem_info_vram_total"]
)
def test_a_driver_of_amd_is_a_driver(standin: Standin, gpus: Gpus, sign: str) -> None:
    (standin.directory / "proc/driver/nvidia/version").unlink()
    path = standin.directory / "sys" / sign
    path.parent.mkdir(parents=True)
    path.mkdir() if sign.endswith("/") else path.write_text("5\n")
    well(gpus)
    assert len(standin.pids) == 1


def test_cards_without_memory_of_their_own_are_no_driver(standin: Standin, gpus: Gpus) -> None:
    (standin.directory / "proc/driver/nvidia/version").unlink()
    (standin.directory / "sys/class/drm/card0-DP-1").mkdir(parents=True)
    assert scraped(gpus) == Reading()
    assert standin.calls == []


def test_no_library_is_normal_and_silent(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert well(gpus) == Reading()
    assert said(caplog) == []


def test_a_driver_that_is_not_loaded_is_normal_and_silent(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    standin.unload()
    assert well(gpus) == Reading()
    standin.is_now(WELL)
    assert len(well(gpus).devices) == 1
    assert said(caplog) == []


def test_a_driver_that_fails_is_a_fault_and_said_once(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    standin.is_now("return nvmlInitWithFlags 999", WELL)
    fault = "NVIDIA's driver cannot be used: Unknown Error; see nvidia-smi"
    for _ in range(3):
        assert well(gpus) == Reading((), (fault,))
    standin.is_now(WELL)
    assert well(gpus).faults == ()
    assert len(well(gpus).devices) == 1
    assert said(caplog) == [fault]


def test_a_driver_that_was_upgraded_is_asked_through_its_new_library(
    standin: Standin, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin.directory))
    installed = standin.directory / "libnvidia-ml.so.1"
    shutil.copy(f"{library()}/{installed.name}", installed)
    standin.is_now(WELL)
    assert well(gpus).devices[0].energy_joules == 789.0
    standin.is_now("return nvmlInitWithFlags 18", gpu(0, "return nvmlDeviceGetMigMode 18"))
    assert "version mismatch" in well(gpus).faults[0]
    shutil.copy(f"{library('OLD')}/{installed.name}", f"{installed}.new")
    os.rename(f"{installed}.new", installed)
    standin.is_now(WELL)
    until(lambda: not well(gpus).faults)
    [device] = well(gpus).devices
    assert (device.power_watts, device.energy_joules) == (123.456, None)
    assert standin.pids == [pid_of(gpus)]


def test_a_fault_is_said_once_until_it_is_over(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker_exporter.gpu.troubles._PAUSE", 0.0)
    fault = "NVIDIA GPU 0 (GPU-00000000): power: Insufficient Permissions; see nvidia-smi"
    for times in (1, 2):
        standin.is_now(gpu(0, "return nvmlDeviceGetPowerUsage 4"))
        for _ in range(3):
            assert well(gpus).faults == (fault,)
        assert said(caplog) == [fault] * times
        standin.is_now(WELL)
        assert well(gpus).faults == ()


def test_a_fault_that_comes_and_goes_is_not_said_each_time(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        standin.is_now(gpu(0, "return nvmlDeviceGetPowerUsage 4"))
        well(gpus)
        standin.is_now(WELL)
        well(gpus)
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("function", CALLS)
def test_a_hang_costs_its_own_scrapes_only(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    is_first = CALLS.index(function) < 6
    if not is_first:
        well(gpus)
    standin.is_now(f"hang {function} 30", WELL)
    gpus.ask()
    until(lambda: standin.calls[-1:] == [(pid_of(gpus), function)])
    be_impatient(gpus)
    assert gpus.reading() is None
    assert scraped(gpus) is None
    assert scraped(gpus) is None
    warning = f"GPU drivers: no answer within 0.1 s; {asking._ADVICE}"
    assert said(caplog) == ([] if is_first else [warning])

    gpus._patience = gpus._wanted_within = PATIENCE
    standin.is_now(gpu(0, used=7))
    until(lambda: scraped(gpus) is not None)
    assert well(gpus).devices[0].memory_used_bytes == 7
    assert len(standin.pids) == 1, "it was not given up"
    assert said(caplog, logging.INFO) == ([] if is_first else ["GPU drivers answer again"])


def test_a_late_answer_is_thrown_away(standin: Standin, gpus: Gpus) -> None:
    well(gpus)
    standin.is_now("hang nvmlDeviceGetProcessUtilization", gpu(0, used=1, compute={1: 1}))
    gpus.ask()
    until(lambda: standin.calls[-1][1] == "nvmlDeviceGetProcessUtilization")
    be_impatient(gpus)
    assert gpus.reading() is None
    standin.is_now(gpu(0, used=2, compute={1: 1}))
    assert gpus._helper is not None
    until(lambda: bool(gpus._helper and gpus._helper._poll.poll(0)))
    gpus._patience = gpus._wanted_within = PATIENCE
    assert well(gpus).devices[0].memory_used_bytes == 2


def test_a_driver_that_is_always_too_late_does_not_hold_every_scrape(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def answer(helper: Helper, seconds: float) -> Answer | None:
        """None in time, and one before the next question."""
        if seconds > 0:
            waits.append(seconds)
            return None
        helper.asked_at = None
        return Answer(Reading(), "", "")

    now = 1000.0
    gpus._in_vain = Backoff(lambda: now)
    well(gpus)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Helper, "answer", answer)
        for elapsed in (0.0, 0.0, backoff._FIRST, backoff._FIRST, backoff._FIRST):
            now += elapsed
            assert scraped(gpus) is None
    assert [wait > asking._MOMENT for wait in waits] == [True, False, True, False, True]
    gpus.close()
    now += 60
    until(lambda: scraped(gpus) is not None)
    now = 0.0
    assert gpus._in_vain.is_over, "the next one is waited for at once"


def test_a_hang_is_given_up_and_what_comes_after_it_is_not_waited_for(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    well(gpus)
    standin.is_now("hang nvmlDeviceGetMemoryInfo_v2", WELL)
    monkeypatch.setattr(asking, "_LONGEST", SOON)
    be_impatient(gpus)
    waits = recorded_waits(monkeypatch)
    assert scraped(gpus) is None
    assert waits.pop() <= SOON
    gpus._patience = gpus._wanted_within = PATIENCE
    until(lambda: scraped(gpus) is None and gpus._helper is None)
    assert gpus._killed is not None
    assert gpus._killed.has_ended(PATIENCE)
    assert not is_alive(standin.pids[0])
    until(lambda: scraped(gpus) is None and len(standin.pids) == 2)
    assert set(waits) == {0.0}
    standin.is_now(WELL)
    until(lambda: scraped(gpus) is not None)
    assert len(well(gpus).devices) == 1
    assert waits[-1] > 0, "it is waited for again"
    assert said(caplog) == [
        f"GPU drivers: no answer within 0.1 s; {asking._ADVICE}",
        f"GPU drivers: no answer for 0.1 s; {asking._ADVICE}",
    ]
    assert said(caplog, logging.INFO) == ["GPU drivers answer again"]


def recorded_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that answers are waited for, from now on."""
    waits: list[float] = []
    answer = Helper.answer

    def recorded(helper: Helper, seconds: float) -> Answer | None:
        waits.append(seconds)
        return answer(helper, seconds)

    monkeypatch.setattr(Helper, "answer", recorded)
    return waits


def test_a_first_answer_may_take_longer(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "_LONGEST", 0.0)
    standin.is_now("hang nvmlInitWithFlags", WELL)
    be_impatient(gpus)
    for _ in range(3):
        assert scraped(gpus) is None
    until(lambda: len(standin.pids) == 1)
    standin.is_now(WELL)
    gpus._patience = gpus._wanted_within = PATIENCE
    until(lambda: scraped(gpus) is not None)
    assert len(standin.pids) == 1
    assert said(caplog) == []
    be_impatient(gpus)

    monkeypatch.setattr(asking, "_LONGEST_START", 0.0)
    gpus.close()
    standin.is_now("hang nvmlInitWithFlags", WELL)
    assert scraped(gpus) is None
    assert scraped(gpus) is None
    assert said(caplog) == [f"GPU drivers: no answer for 0 s; {asking._ADVICE}"]


@pytest.mark.parametrize("function", CALLS)
def test_a_crash_is_survived_and_said(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    standin.is_now(f"crash {function}", WELL)
    assert scraped(gpus) is None
    assert said(caplog) == [
        "GPU drivers: the process that asks was ended by signal 6 (Aborted); " + asking._ADVICE
    ]
    standin.is_now(WELL)
    until(lambda: scraped(gpus) is not None)
    assert len(standin.pids) == 2
    assert said(caplog, logging.INFO) == ["GPU drivers answer again"]


def test_a_process_that_was_killed_between_two_scrapes_is_started_anew(
    standin: Standin, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    well(gpus)
    os.kill(standin.pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, standin.pids[0], os.WEXITED | os.WNOWAIT)
    assert scraped(gpus) is None
    until(lambda: scraped(gpus) is not None)
    assert "signal 9 (Killed)" in said(caplog)[0]


def test_failures_are_waited_for_longer_and_longer(
    standin: Standin, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_exporter.backoff._FIRST", 1.0)
    now = 0.0
    monkeypatch.setattr(gpus._backoff, "_clock", lambda: now)
    standin.is_now("crash nvmlInitWithFlags", WELL)
    started = []
    for second in range(200):
        now = float(second)
        before = len(standin.pids)
        scraped(gpus)
        if len(standin.pids) > before:
            started.append(second)
    assert started == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    standin.is_now(WELL)
    now = 243.0
    well(gpus)
    standin.is_now("crash nvmlDeviceGetMigMode", WELL)
    assert scraped(gpus) is None
    now = 244.0
    standin.is_now(WELL)
    well(gpus)


def test_nothing_leaks_over_many_failures(standin: Standin, gpus: Gpus) -> None:
    before = children(), descriptors()
    for _ in range(15):
        standin.is_now("crash nvmlDeviceGetMigMode", WELL)
        until(lambda: scraped(gpus) is None)
        standin.is_now(WELL)
        until(lambda: scraped(gpus) is not None)
    assert len(standin.pids) >= 16
    until(lambda: are_buried(gpus, standin.pids))
    assert (children(), descriptors()) == before


def test_close_ends_a_process_that_hangs(standin: Standin, gpus: Gpus) -> None:
    before = descriptors()
    well(gpus)
    standin.is_now("hang nvmlDeviceGetMigMode", WELL)
    gpus.ask()
    until(lambda: standin.calls[-1][1] == "nvmlDeviceGetMigMode")
    gpus.close()
    assert gpus.reading() is None
    assert descriptors() == before
    until(lambda: are_buried(gpus, standin.pids))


def test_a_process_that_cannot_be_started_is_said(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        for _ in range(3):
            assert scraped(gpus) is None
        assert said(caplog) == [
            "GPU drivers: no process can be started to ask them: No such file or directory"
        ]
    until(lambda: scraped(gpus) is not None)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo nonsense; sleep 100", "says what is no answer"),
        ("echo '{}'; sleep 100", "says what is no answer"),
        ("echo 5; sleep 100", "says what is no answer"),
        ('echo \'[[[1]], [], "", ""]\'; sleep 100', "says what is no answer"),
        ('printf \'[[], [], "", ""]\\nmore\\n\'; sleep 100', "says what is no answer"),
        ("printf '[[], ['", "ended with exit code 0"),
        ("exit 3", "ended with exit code 3"),
        ("kill -SEGV $$", "was ended by signal 11 (Segmentation fault)"),
        ("head -c 20000000 /dev/zero; sleep 100", "says more than 16777216 bytes"),
        ("head -c 1000000 /dev/zero | tr '\\0' '['; echo; sleep 100", "says what is no answer"),
    ],
)
def test_a_process_that_says_nonsense_has_failed(
    standin: Standin,
    gpus: Gpus,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    why: str,
) -> None:
    program = standin.directory / "program"
    program.write_text(f"#!/bin/sh\nread question\n{script}\n")
    program.chmod(stat.S_IRWXU)
    with monkeypatch.context() as replaced:
        replaced.setattr(sys, "executable", str(program))
        assert scraped(gpus) is None
    assert len(said(caplog)) == 1
    assert why in said(caplog)[0]
    until(lambda: scraped(gpus) is not None)


def test_a_half_answer_that_stays_one_is_a_hang(
    standin: Standin, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = standin.directory / "program"
    program.write_text("#!/bin/sh\nprintf '[[], '\nexec sleep 1000\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(asking, "_LONGEST_START", SOON)
    be_impatient(gpus)
    with monkeypatch.context() as replaced:
        replaced.setattr(sys, "executable", str(program))
        assert scraped(gpus) is None
        assert gpus._helper is not None
        stuck = gpus._helper.pid
    until(lambda: scraped(gpus) is None and not is_alive(stuck))


def test_a_long_answer_that_nobody_takes_does_not_hold_the_process(
    standin: Standin, gpus: Gpus
) -> None:
    held = dict.fromkeys(range(1, 4097), 12345678)
    standin.is_now(gpu(0, compute=held), gpu(1, compute=held))
    gpus.ask()
    assert gpus._helper is not None
    state = Path(f"/proc/{gpus._helper.pid}/wchan")
    until(lambda: len(standin.calls) > 25 and "pipe_read" in state.read_text())
    found = well(gpus)
    assert [len(device.processes or ()) for device in found.devices] == [4096, 4096]


def test_a_process_that_reads_no_questions_does_not_hold_the_scrape(
    standin: Standin, gpus: Gpus
) -> None:
    well(gpus)
    os.kill(pid_of(gpus), signal.SIGSTOP)
    assert gpus._helper is not None
    questions = gpus._helper._questions.fileno()
    assert not os.get_blocking(questions)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(questions, b"\n" * 4096)
    assert scraped(gpus) is None
    until(lambda: scraped(gpus) is not None)


def test_what_a_library_prints_is_no_answer(standin: Standin, gpus: Gpus) -> None:
    standin.is_now("print nvmlInitWithFlags", "print nvmlDeviceGetMigMode", WELL)
    assert len(well(gpus).devices) == 1


def test_the_process_has_nothing_of_the_exporter(standin: Standin, gpus: Gpus) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        well(gpus)
        pid = standin.pids[0]
        opened = {
            name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")
        }
    finally:
        os.close(reading)
        os.close(writing)
    assert opened["1"] == opened["2"] == "/dev/null"
    assert [target.split(":")[0] for target in opened.values()].count("pipe") == 2
    assert len(opened) == 4
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid


def test_an_interrupt_from_the_terminal_does_not_reach_it(standin: Standin, gpus: Gpus) -> None:
    well(gpus)
    assert os.getpgid(standin.pids[0]) != os.getpgid(0)


def test_a_slow_driver_is_read_beside_the_scrape(standin: Standin, gpus: Gpus) -> None:
    well(gpus)
    gpus.ask()
    assert gpus._helper is not None
    until(lambda: bool(gpus._helper and gpus._helper._poll.poll(0)))
    gpus._patience = gpus._wanted_within = 0.0
    assert gpus.reading() is not None, "it was there before anybody waited"


def test_eight_gpus_with_64_processes_each(standin: Standin, gpus: Gpus) -> None:
    held = [{1000 * index + pid: pid * 1000 for pid in range(1, 65)} for index in range(8)]
    standin.is_now(*(gpu(index, compute=each) for index, each in enumerate(held)))
    well(gpus)
    begin = cpu_seconds(pid_of(gpus)), time.process_time()
    for _ in range(20):
        devices = well(gpus).devices
    end = cpu_seconds(pid_of(gpus)), time.process_time()
    found = [{each.pid: each.memory_used_bytes for each in gpu.processes or ()} for gpu in devices]
    assert found == held
    helper, exporter = ((after - before) * 50 for before, after in zip(begin, end, strict=True))
    print(f"CPU of a reading: {helper:.2f} ms to read it, {exporter:.2f} ms to take it")


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process with one thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
